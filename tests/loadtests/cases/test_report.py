"""The page, the table, the sentences and the plots, from results that are made up."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from matplotlib.axes import Axes

from loadtests.cases.command import main
from loadtests.cases.groups import GROUPS
from loadtests.cases.groups.group import CaseGroup, Plot
from loadtests.cases.report import style
from loadtests.cases.report.page import caption, draw, write_page
from loadtests.cases.report.words import number
from loadtests.cases.results import ETCD, KVSTORE, Results, read_results
from tests.loadtests.cases.sample import DATE, MACHINE, group, results

PLOTS = [(cases, plot) for cases in GROUPS for plot in cases.plots]
NAMES = [plot.name for _, plot in PLOTS]


def page_of(found: Results, folder: Path) -> str:
    write_page(found, folder / "cases.md", folder / "plots")
    return (folder / "cases.md").read_text()


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    before = results()
    before.write(tmp_path / "cases.json")

    assert msgspec.to_builtins(read_results(tmp_path / "cases.json")) == msgspec.to_builtins(before)
    assert read_results(tmp_path / "none.json").groups == {}


def row_of(axes: Axes) -> int:
    """Axes of one row may share the label of their y axis."""
    place = axes.get_subplotspec()
    assert place is not None
    return place.rowspan.start


@pytest.mark.parametrize(("cases", "plot"), PLOTS, ids=NAMES)
@pytest.mark.parametrize("sides", [(KVSTORE, ETCD), (KVSTORE,)], ids=["both", "alone"])
def test_every_plot_has_units_on_its_axes_and_says_when_and_where(
    cases: CaseGroup, plot: Plot, sides: tuple[str, ...], tmp_path: Path
) -> None:
    found = group(cases.name, sides)
    canvas = style.new_canvas(plot.size)
    plot.draw(found, canvas)
    assert all(row_of(axes) in {row_of(other) for other in canvas.axes if other.get_ylabel()} for axes in canvas.axes)

    draw(plot, found, tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    for said in (DATE, MACHINE.cpu, "2 cores", plot.title.split("(")[0].strip()):
        assert said in text
    assert style.COLOURS[KVSTORE].lower() in text.lower()
    assert (style.COLOURS[ETCD].lower() in text.lower()) == (ETCD in sides)


@pytest.mark.parametrize(("cases", "plot"), PLOTS, ids=NAMES)
def test_a_plot_is_the_same_file_again_and_of_moderate_size(cases: CaseGroup, plot: Plot, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(plot, group(cases.name), tmp_path / name)

    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes()
    assert len(first) < 200_000


def test_the_page_has_one_table_with_every_case_and_a_plot_each(tmp_path: Path) -> None:
    page = page_of(results(), tmp_path)
    table = [line for line in page.splitlines() if line.startswith("|")]

    assert len([line for line in table if line.startswith("| --- |")]) == 1
    assert {line.count("|") for line in table} == {9}
    for cases in GROUPS:
        assert f"| **{cases.title}** |" in page
    assert set(re.findall(r"\(plots/([\w-]+)\.svg\)", page)) == set(NAMES)
    assert {path.stem for path in (tmp_path / "plots").glob("*.svg")} == set(NAMES)
    row = next(line for line in table if line.startswith("| strong put |"))
    assert row == "| strong put | requests/s | 2,000 | 1,000 | 2.00 | 1.5 / 20.0 / 30.0 | 1.5 / 20.0 / 30.0 | 0 / 0 |"


@pytest.mark.parametrize(("cases", "plot"), PLOTS, ids=NAMES)
def test_sentences_follow_the_figures(cases: CaseGroup, plot: Plot) -> None:
    found = group(cases.name)
    slower = [
        msgspec.structs.replace(one, rounds=[msgspec.structs.replace(r, per_s=r.per_s / 8) for r in one.rounds])
        if one.side == KVSTORE
        else one
        for one in found.figures
    ]
    said = plot.words(found)

    assert said
    assert all(sentence.endswith(".") for sentence in said)
    if plot.name not in ("death", "one-down", "members", "cold-keys", "key-counts"):  # which compare with themselves
        assert plot.words(msgspec.structs.replace(found, figures=slower)) != said


def test_a_ratio_is_the_median_of_the_rounds_ratios(tmp_path: Path) -> None:
    found = group("levels")

    assert found.ratio("strong put") == pytest.approx(2.0)
    assert found.ratio("weak put") is not None
    assert group("levels", (KVSTORE,)).ratio("strong put") is None


def test_the_page_says_where_etcd_was_not_there(tmp_path: Path) -> None:
    alone = results((KVSTORE,))
    without = msgspec.structs.replace(MACHINE, etcd="not installed")
    alone.groups = {name: msgspec.structs.replace(one, machine=without) for name, one in alone.groups.items()}
    page = page_of(alone, tmp_path)

    assert "**etcd is not installed there**" in page
    assert "| strong put | requests/s | 2,000 | - | - |" in page


def test_a_page_of_several_runs_says_which_figures_are_of_which(tmp_path: Path) -> None:
    found = results()
    found.groups["batch"] = group("batch", date="2031-03-04", is_quick=True)
    page = page_of(found, tmp_path)

    assert re.search(r"^POST /v1/batch: .*2031-03-04.*quick run", page, re.MULTILINE)
    assert "2031-03-04" in (tmp_path / "plots" / "batch.svg").read_text()
    assert DATE in (tmp_path / "plots" / "levels.svg").read_text()


def test_faults_stand_on_the_page(tmp_path: Path) -> None:
    found = results()
    found.groups["levels"] = msgspec.structs.replace(found.groups["levels"], faults=["7 answers 503 to PUT (strong)"])

    assert "- 7 answers 503 to PUT (strong)" in page_of(found, tmp_path)


def test_a_late_generator_is_told_in_its_row(tmp_path: Path) -> None:
    found = results()
    rates = found.groups["fixed-rate"]
    late = [msgspec.structs.replace(one, more={"late_p99_ms": 9.0}) for one in rates.figures]
    found.groups["fixed-rate"] = msgspec.structs.replace(rates, figures=late)

    assert "generator late" in page_of(found, tmp_path)
    assert "30.0 (generator late)" not in page_of(results(), tmp_path)


def test_replot_makes_everything_from_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "plots" / "cases.json"
    results().write(file)
    before = file.read_bytes()
    options = [
        "--replot",
        "--json",
        str(file),
        "--page",
        str(tmp_path / "cases.md"),
        "--plots",
        str(tmp_path / "plots"),
    ]
    done = CliRunner().invoke(main, options)

    assert done.exit_code == 0, done.output
    assert file.read_bytes() == before
    assert (tmp_path / "cases.md").exists()
    assert {path.stem for path in (tmp_path / "plots").glob("*.svg")} == set(NAMES)


def test_a_group_that_is_not_there_is_refused() -> None:
    done = CliRunner().invoke(main, ["--only", "levels,nonsense"])

    assert done.exit_code == 2
    assert "nonsense" in done.output


def test_captions_name_what_was_measured() -> None:
    assert caption(group("levels")) == (
        "2031-02-03; 2 cores of A Processor, 24 GiB, Linux 6.1; "
        "Python 3.11.7, SQLite 3.40.1, etcd 3.4.23; commit abc1234"
    )


@pytest.mark.parametrize(("value", "text"), [(0.031, "0.031"), (3.14, "3.1"), (14.0, "14.0"), (12_345.6, "12,346")])
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text
