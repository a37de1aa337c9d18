"""The pages say what the program does: settings, commands, codes, metrics and limits are compared with the code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from cli.errors import ExitCode
from cli.main import COMMANDS
from kvstore.http.outgoing.problems import CODES
from kvstore.settings import SETTINGS, Setting

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/DESIGN.md")])
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20}


def rows_of(page: str) -> list[list[str]]:
    """The cells of every row of every table."""
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def anchor_of(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_stands_in_the_table_as_it_is(setting: Setting) -> None:
    default = "must be given" if setting.default is None else f"`{setting.default}`" if setting.default else "none"
    flag = f"`{setting.flag} {setting.metavar}`" if setting.metavar else f"`{setting.flag}`"

    assert [flag, f"`{setting.variable}`", default, setting.help] in rows_of(OPERATIONS)


def test_the_table_has_no_setting_that_is_gone() -> None:
    told = set(re.findall(r"\| `(KVSTORE_\w+)` \|", OPERATIONS))

    assert told == {setting.variable for setting in SETTINGS}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_named_to_newcomers(command: str) -> None:
    told = (ROOT / "README.md").read_text("utf-8") + OPERATIONS

    assert re.search(rf"kvstore {command}\b|`{command}`", told)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_no_command_that_is_not_there(page: Path) -> None:
    shown = re.findall(r"(?:^\$ |[`;] ?)kvstore ([a-z]+)", page.read_text("utf-8"), re.MULTILINE)

    assert set(shown) <= set(COMMANDS)


@pytest.mark.parametrize("code", CODES)
def test_every_problem_code_says_what_to_do(code: str) -> None:
    row = next((cells for cells in rows_of(OPERATIONS) if f"`{code}`" in cells[0]), None)

    assert row is not None
    assert str(CODES[code][0]) in row[1]
    assert row[3]


def test_every_exit_code_is_explained() -> None:
    told = {int(cells[0]) for cells in rows_of(OPERATIONS) if cells[0].isdigit()}

    assert told == set(map(int, ExitCode))


def test_every_metric_of_ours_is_explained() -> None:
    sources = [
        (ROOT / "kvstore" / name).read_text("utf-8") for name in ("node/measures.py", "metrics.py", "http/server.py")
    ]
    ours = set(re.findall(r'"(kvstore_\w+)"', "".join(sources)))
    told = {name.removesuffix("_total") for name in re.findall(r"`(kvstore_\w+)`", OPERATIONS)}

    assert told == ours


def test_limits_are_what_the_code_says() -> None:
    """Each row of the table of limits: the names in its first column have, in that module, the values in its second."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    checked = 0
    for names, values, where, _ in (cells for cells in rows_of(page) if len(cells) == 4 and cells[2].endswith(".py")):
        module = importlib.import_module(where.removesuffix(".py").replace("/", "."))
        for name, value in zip(re.findall(r"`(\w+)`", names), values.split(";"), strict=False):
            assert getattr(module, name) == number_of(value), f"{name} in {where}"
            checked += 1
    assert checked > 20


def number_of(text: str) -> float:
    """The number that a cell begins with, in bytes or seconds: `8,190`, `4 MiB`, `0.1 s`, `1,000 per key`."""
    parts = re.match(r" *([0-9.,]+) ?(\w*)", text)
    assert parts is not None, text
    return float(parts[1].replace(",", "")) * UNITS.get(parts[2], 1)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text("utf-8")):
        file = (page.parent / target) if target else page
        assert file.exists(), f"{target} in {page.name}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in map(anchor_of, headings), f"#{anchor} in {page.name}"


def test_every_mutant_is_in_the_table_of_the_protocol() -> None:
    files = ("test_random_schedules.py", "test_forgetful_schedules.py")
    source = "".join((ROOT / "tests" / "protocol" / name).read_text("utf-8") for name in files)
    mutants = set(re.findall(r'^    "([a-z-]+)": \(Rules', source, re.MULTILINE))
    page = (ROOT / "docs" / "protocol.md").read_text("utf-8")

    assert mutants
    assert mutants == {cells[0].strip("`") for cells in rows_of(page) if re.fullmatch(r"`[a-z]+(-[a-z]+)+`", cells[0])}
