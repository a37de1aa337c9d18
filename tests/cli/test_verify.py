"""`kvstore verify --history`: the first line, the exit code, the explanation, and the page that is drawn."""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path

import pytest

from cli.main import main
from cli.verdicts import judge_aloud, show_judgement
from kvstore.verify.history import History, write_history
from tests.kvstore.verify.histories import Register, history, in_a_row, one

EXAMPLES = Path(__file__).parents[1] / "kvstore" / "verify" / "examples"
STALE = EXAMPLES / "jsonl-violated-stale-read.jsonl"


@pytest.fixture
def verify(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    def run(*arguments: object) -> int:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["kvstore", "verify", *map(str, arguments)])
        return main()

    return run


@pytest.mark.parametrize(
    ("file", "form", "verdict", "code"),
    [
        ("jsonl-valid.jsonl", "jsonl", "valid", 0),
        ("etcd-valid.log", "etcd", "valid", 0),
        ("kv-valid.txt", "kv", "valid", 0),
        ("etcd-violated-back-in-time.log", "etcd", "violated", 9),
        ("kv-violated-lost-append.txt", "kv", "violated", 9),
        ("etcd-undecided-empty.log", "etcd", "undecided", 1),
    ],
)
def test_the_first_line_is_the_verdict(verify, capsys, tmp_path, file, form, verdict, code) -> None:  # type: ignore[no-untyped-def]
    assert verify("--history", EXAMPLES / file, "--format", form, "--timeline", tmp_path / "page.html") == code
    assert verify("--history", EXAMPLES / file, "--timeline", tmp_path / "page.html") == code  # by its first line

    assert capsys.readouterr().out.splitlines()[0] == verdict
    assert (tmp_path / "page.html").exists() is (verdict == "violated")


def test_a_violation_is_explained_in_words(verify, capsys, tmp_path) -> None:  # type: ignore[no-untyped-def]
    verify("--history", STALE, "--timeline", tmp_path / "page.html")

    told = capsys.readouterr()
    assert [line.split() for line in told.out.splitlines()[5:]] == [
        ["process", "operation", "answer", "from", "until"],
        ["1", "put", "'a'", "ok", "0.1", "0.2"],
        ["2", "put", "'b'", "ok", "0.4", "0.5"],
        ["3", "read", "ok:", "'a'", "0.8", "0.9"],
    ]
    assert told.err == f"timeline: {tmp_path / 'page.html'}\n"


def test_the_page_is_left_neither_beside_the_history_nor_here(verify, capsys, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for folder in ("kept", "temporary"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    history_file = tmp_path / "kept" / "run.jsonl"
    history_file.write_bytes(STALE.read_bytes())

    assert verify("--history", history_file) == 9

    page = Path(capsys.readouterr().err.removeprefix("timeline: ").strip())
    assert page.read_text("utf-8").startswith("<!doctype html>")
    assert page.name == "run.jsonl.html"
    assert (tmp_path / "temporary") in page.parents
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["run.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "temporary"]


def test_a_page_that_can_not_be_written_is_told_and_the_verdict_stands(verify, capsys, tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert verify("--history", STALE, "--timeline", tmp_path / "no" / "page.html") == 9
    assert "the timeline could not be written" in capsys.readouterr().err


def test_every_key_without_an_order_is_told(verify, capsys, tmp_path) -> None:  # type: ignore[no-untyped-def]
    keys = [f"k{number}" for number in range(9)]
    calls = [one(1, "put", key, value="a") + one(2, "read", key, told_value="z") for key in keys]
    write_history(in_a_row(*calls, one(1, "put", "fine", value="a")), tmp_path / "run.jsonl")

    assert verify("--history", tmp_path / "run.jsonl", "--timeline", tmp_path / "page.html") == 9
    words = capsys.readouterr().out.splitlines()
    assert words[1] == "linearizability: violated, 19 operations on 10 keys; broken on 9 of them"
    assert sum("nobody had written that" in line for line in words) == 5
    assert "4 further findings, on 'k5', 'k6', 'k7', 'k8': -o json shows them all" in words
    assert (tmp_path / "page.html").read_text("utf-8").count('<section class="card"') == 5

    assert verify("--history", tmp_path / "run.jsonl", "--timeline", tmp_path / "page.html", "-o", "json") == 9
    assert [finding["key"] for finding in json.loads(capsys.readouterr().out)["findings"]] == keys


def test_json_has_it_all(verify, capsys, tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert verify("--history", STALE, "--timeline", tmp_path / "page.html", "-o", "json") == 9

    told = json.loads(capsys.readouterr().out)
    (finding,) = told["findings"]
    assert told["verdict"] == "violated"
    assert told["timeline"] == str(tmp_path / "page.html")
    assert [event["type"] for event in finding["events"]] == ["invoke", "ok"] * 3
    assert finding["minimal"] is True


def test_what_is_no_history_is_told_with_its_line(verify, capsys) -> None:  # type: ignore[no-untyped-def]
    assert verify("--history", EXAMPLES / "kv-valid.txt", "--format", "etcd") == 1
    assert "line 1: no line of an etcd history" in capsys.readouterr().err
    assert verify("--history", EXAMPLES / "not-there") == 2


def test_control_signs_of_a_history_do_not_steer_the_terminal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    judged = in_a_row(
        one(1, "put", "k\x1b[2J", value="a\x1b"), one("\x1b", "read", "k\x1b[2J", told_value="\x1bz\nvalid")
    )

    show_judgement(judge_aloud(judged), judged, timeline=tmp_path / "page.html")

    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.timeout(120)
def test_a_hundred_thousand_operations_on_a_thousand_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """Takes about 5 s of one core; the bound is a minute."""
    dice = random.Random(1)
    events = []
    for key in range(1000):
        of_key = Register(dice, processes=5, values=50, key=f"k{key}").run(100)
        events += [{**event, "process": f"{key}-{event['process']}"} for event in of_key]
    judged = history(*events)

    assert len(judged) == 100_000
    assert show_judgement(judge_aloud(judged, time_limit_s=60.0), judged) == 0
    assert "100,000 operations on 1,000 keys" in capsys.readouterr().out


def test_no_operations_are_no_proof(capsys: pytest.CaptureFixture[str]) -> None:
    assert show_judgement(judge_aloud(History(())), History(())) == 1
    assert "there are no operations" in capsys.readouterr().out
