"""The table of the whole campaign: what its exit code says, and that it ends when its time is over."""

from __future__ import annotations

import time

import pytest

from cli.errors import ExitCode
from tests.simulation.faults import Caught
from tests.verify import whole_campaign
from tests.verify.campaign import Row
from tests.verify.whole_campaign import Clock, Line, code_of, parsed, provoked, simulated


def not_caught(name: str) -> tuple[str, Caught | None]:
    """Another process runs this."""
    return name, Caught(3, 1.0, "it was seen") if name == "seen" else None


def never(name: str) -> tuple[str, Caught | None]:
    """A seed that does not end."""
    time.sleep(600)
    return name, None


def test_a_fault_that_nobody_notices_fails_the_campaign() -> None:
    seen, unseen = provoked(["seen", "unseen"], 1, Clock(1.0), not_caught)

    assert (seen.result, seen.code) == ("caught", ExitCode.DONE)
    assert unseen.result.startswith("NOT CAUGHT")
    assert code_of([seen, unseen]) is ExitCode.UNEXPECTED


def test_what_does_not_end_is_ended_when_the_time_is_over() -> None:
    (line,) = provoked(["a"], 1, Clock(0.02), never)

    assert line.result == "NOT RUN TO ITS END: the time was over"
    assert line.code is ExitCode.UNEXPECTED


def test_seeds_that_were_not_reached_are_told() -> None:
    line = simulated(parsed(["--seeds", "5", "--jobs", "1"]), Clock(0.0))

    assert line.result == "NOT ALL: 0 when the time was over"
    assert line.code is ExitCode.UNEXPECTED


@pytest.mark.parametrize(
    ("row", "result", "code"),
    [
        (Row("kill", {"set": "valid", "vote": "valid"}), "valid (2 workloads)", ExitCode.DONE),
        (Row("kill", {"set": "valid", "vote": "violated"}), "valid: set; violated: vote", ExitCode.VIOLATION),
        (Row("kill", {"set": "undecided"}), "undecided: set", ExitCode.UNEXPECTED),
        (Row("kill", {"set": "valid"}, owed=["a read"]), "valid (1 workloads)", ExitCode.VIOLATION),
        (Row("kill", was_run=False), "nothing", ExitCode.UNEXPECTED),
    ],
)
def test_a_cell_of_the_matrix_is_a_line(row: Row, result: str, code: ExitCode) -> None:
    line = whole_campaign._cell(row)

    assert (line.result, line.code) == (result, code)


def test_a_violation_counts_for_more_than_what_is_not_known() -> None:
    lines = [Line("a", "b", "c", "d", code) for code in (ExitCode.DONE, ExitCode.UNEXPECTED, ExitCode.VIOLATION)]

    assert code_of(lines) is ExitCode.VIOLATION
    assert code_of(lines[:2]) is ExitCode.UNEXPECTED
    assert code_of(lines[:1]) is ExitCode.DONE
