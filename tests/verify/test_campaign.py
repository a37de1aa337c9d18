"""The matrix' table, and what its exit code says."""

from __future__ import annotations

import time

import pytest

from cli.errors import ExitCode
from kvstore.verify.history import Kind, Recorder
from tests.verify.campaign import TOGETHER, Row, code_of, line_of, markdown, parsed, verdicts_of


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (Row("kill", {"set": "valid"}, seen=["n1 called n2 down"]), ExitCode.DONE),
        (Row("kill", {"set": "valid", "vote": "violated"}), ExitCode.VIOLATION),
        (Row("kill", {"set": "valid"}, owed=["n1 did not come back"]), ExitCode.VIOLATION),
        (Row("kill", {"set": "undecided"}), ExitCode.UNEXPECTED),
        (Row("kill", {"set": "valid"}, missed=["kill"]), ExitCode.UNEXPECTED),
    ],
)
def test_the_exit_code_is_that_of_the_worst_row(row: Row, code: ExitCode) -> None:
    assert code_of([Row("none", {"set": "valid"}), row]) == code


def test_each_workload_is_judged_by_itself() -> None:
    recorder = Recorder(time.monotonic)
    recorder.ok(recorder.begin(1, Kind.COUNT, "c", workload="counter"), value=7)
    recorder.ok(recorder.begin(1, Kind.VOTE, "v", value="a", workload="vote"), value="a")
    assert verdicts_of(recorder.history(), ["counter", "vote", "set"]) == {
        "counter": "violated",
        "vote": "valid",
        "set": "undecided",
    }


def test_the_worst_of_several_runs_stands_in_the_table() -> None:
    row = Row("kill")
    for verdict in ("valid", "undecided", "valid"):
        row.worse("set", verdict)
    assert row.verdicts == {"set": "undecided"}
    row.worse("set", "violated")
    assert row.verdicts == {"set": "violated"}


def test_the_table_says_what_was_not_seen() -> None:
    options = parsed(["--faults", "kill,wipe", "--workloads", "set,vote"])
    rows = [
        Row("kill", {"set": "valid", "vote": "violated"}, 10, 1, 2, 3, ["n1 called n2 down"]),
        Row(TOGETHER, {"set": "valid", "vote": "valid"}, missed=["wipe"]),
    ]
    table = markdown(rows, options, line_of(options)).splitlines()
    assert "seed 1" in table[0]
    assert table[4] == "| kill | valid | **VIOLATED** | 10 | 1 | 2 | 3 | n1 called n2 down |"
    assert "NOT SEEN TO ACT: wipe" in table[5]
