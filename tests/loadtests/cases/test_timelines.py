"""Time lines of a death, from the ends of single requests."""

from __future__ import annotations

from loadtests.cases.load.generator import Event
from loadtests.cases.report.timelines import failures, longest_gap_s, timeline_of
from loadtests.cases.results import Timeline

VICTIM = 1


def a_death(outage_s: float) -> Timeline:
    """A hundred requests a second, in turn to three members, from second 0; the death at 1.05, over after a while."""
    events = []
    for number in range(300):
        meant_s, home = number / 100, number % 3
        stuck = 1.05 <= meant_s < 1.05 + outage_s
        ended_s = 1.05 + outage_s + 0.001 if stuck else meant_s + 0.001
        events.append(Event(meant_s, ended_s, home, not (stuck and home == VICTIM)))
    return timeline_of(events, "kvstore", "n2", VICTIM, died_s=1.05, bin_s=0.1, seconds=3.0)


def test_the_death_is_a_border_between_bins() -> None:
    line = a_death(outage_s=0.5)

    assert line.first_s == -1.0
    at_death = round(-line.first_s / line.bin_s)
    assert line.survivors_ok[at_death - 1] > 0
    assert [line.survivors_ok[at_death + place] for place in range(5)] == [0] * 5


def test_answers_failures_and_waits_are_counted_where_they_belong() -> None:
    line = a_death(outage_s=0.5)

    assert failures(line) == 17  # every third of the fifty
    assert longest_gap_s(line) == 0.5
    assert max(line.slowest_ms) == 501.0
    assert line.slowest_ms[0] == 1.0


def test_without_an_outage_there_is_no_gap() -> None:
    line = a_death(outage_s=0.0)

    assert longest_gap_s(line) == 0.0
    assert failures(line) == 0


def test_the_end_is_no_gap() -> None:
    """Requests end before the time line does."""
    line = Timeline("etcd", "m1", 0.1, -0.2, [5, 5, 0, 5, 0, 0], [0] * 6, [0] * 6, [1.0] * 6)

    assert longest_gap_s(line) == 0.1


def test_what_is_given_up_after_the_end_counts_in_the_last_bin() -> None:
    events = [Event(0.0, 0.01, 0, True), Event(0.5, 9.0, 0, False)]
    line = timeline_of(events, "etcd", "m1", 0, died_s=0.25, bin_s=0.1, seconds=1.0)

    assert line.failed[-1] == 1
    assert failures(line) == 1
