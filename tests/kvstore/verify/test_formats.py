"""Histories in files: three formats, and the verdicts that are known of some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvstore.verify.formats import INITIAL, guess_format, read_as
from kvstore.verify.history import HistoryError, Kind, Outcome, Recorder, events_of, read_history, write_history
from kvstore.verify.judge import judge

EXAMPLES = sorted((Path(__file__).parent / "examples").glob("*-*"))
LABELLED = Path(__file__).parents[4] / "shared" / "histories"
"""Porcupine's labelled logs, beside the checkout; 109 of them were judged while this was written."""


def labels() -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads((LABELLED / "verdicts.json").read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return {name: label for name, label in known.items() if (LABELLED / name).exists()}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_get_the_verdict_in_their_names(path: Path) -> None:
    form, verdict = path.stem.split("-")[:2]

    assert judge(read_as(path, form), initial=INITIAL[form]).verdict == verdict
    assert guess_format(path) == form or path.stat().st_size == 0


@pytest.mark.skipif(not labels(), reason=f"there are no labelled histories in {LABELLED}")
@pytest.mark.parametrize("name", labels() or ["none"])
def test_labelled_histories_get_their_verdicts(name: str) -> None:
    label = labels()[name]
    history = read_as(LABELLED / name, label["model"])
    wanted = {True: "valid", False: "violated", None: "undecided"}[label["linearizable"]]

    assert len(history) == label["invocations"]
    assert judge(history, initial=INITIAL[label["model"]]).verdict == wanted


def test_an_etcd_log_is_read_as_its_format_says() -> None:
    history = read_as(Path(__file__).parent / "examples" / "etcd-valid.log", "etcd")

    told = [(op.kind, op.argument, op.outcome) for op in history]
    assert told == [
        (Kind.PUT, 1, Outcome.OK),
        (Kind.READ, None, Outcome.OK),
        (Kind.CAS, 3, Outcome.CONFLICT),
        (Kind.PUT, 4, Outcome.UNKNOWN),
        (Kind.CAS, 2, Outcome.OK),
        (Kind.READ, None, Outcome.FAIL),
        (Kind.READ, None, Outcome.OK),
        (Kind.READ, None, Outcome.OK),
    ]
    assert [op.is_open for op in history] == [False, False, False, True, False, False, False, False]


@pytest.mark.parametrize(
    ("form", "line", "says"),
    [
        ("etcd", "INFO  jepsen.util - 0 :invoke :swap 1", "line 1: no line of an etcd history"),
        ("etcd", "INFO  jepsen.util - 0 :invoke :cas 1", "line 1: a cas has"),
        ("etcd", "INFO  jepsen.util - 0 :ok :write 1", "line 1: process 0 completes a call that it did not invoke"),
        ("kv", '{:process 0, :type :invoke, :f :swap, :key "0"}', "line 1: this line lacks"),
        ("kv", "put 0 1", "line 1: no line of a kv history"),
        ("jsonl", "[1]", "line 1: a line is a JSON object"),
        ("jsonl", "{", "line 1: "),
        ("jsonl", '{"process": 1, "type": "done"}', "line 1: 'done' is no type of event"),
        ("jsonl", '{"type": "ok"}', "line 1: an event without 'process'"),
        ("jsonl", '{"process": 1, "type": "invoke", "op": "put"}', "line 1: an invocation needs op and key"),
    ],
)
def test_what_is_no_history_is_refused_with_its_line(form: str, line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_text(line + "\n")

    with pytest.raises(HistoryError) as refused:
        read_as(path, form)

    assert says in str(refused.value)


def test_a_process_has_one_call_in_flight() -> None:
    recorder = Recorder(lambda: 0.0)
    call = recorder.begin(1, Kind.PUT, "k", value="a")

    with pytest.raises(HistoryError, match="another of its own is in flight"):
        recorder.begin(1, Kind.READ, "k")
    recorder.ok(call)
    recorder.begin(1, Kind.READ, "k")


def test_what_is_recorded_is_read_back_the_same(tmp_path: Path) -> None:
    path, other = tmp_path / "history.jsonl", tmp_path / "copy.jsonl"
    with path.open("wb") as file:
        now = iter(range(100))
        recorder = Recorder(lambda: float(next(now)), file)
        recorder.ok(recorder.begin(1, Kind.PUT, "k", value="a", node="n1"), version="10")
        recorder.conflict(recorder.begin(2, Kind.CAS, "k", value="b", expected=None), value="a")
        recorder.unknown(recorder.begin(3, Kind.DELETE, "k"), error="outcome-unknown")
        recorder.begin(4, Kind.READ, "k")
    written = recorder.history()

    assert read_history(path).operations == written.operations
    write_history(written, other)
    assert events_of(read_history(other)) == events_of(written)
    assert [op.outcome for op in written] == ["ok", "conflict", "unknown", "unknown"]
    assert written.operations[2].more == {"error": "outcome-unknown"}
    assert written.outcomes()["put"] == {"ok": 1}
