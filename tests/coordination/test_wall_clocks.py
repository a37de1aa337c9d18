"""Whose wall clock is right: judged from what heartbeats bring, and bent by a file for tests on real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.clock import LOOK_AGAIN_S, BentClock
from cluster.membership.wall_clocks import SAMPLES_MAX, Verdict, WallClocks
from tests.coordination.test_ballot_clock import HandClock

ALLOWED_MS = 5_000
HOUR_MS = 3_600_000
BASE_MS = 1_790_000_000_000.0
"""Our wall clock less our monotonic one."""


def told(clocks: WallClocks, slot: int, ahead_ms: float, *, at_s: float = 100.0, way_s: float = 0.001) -> None:
    """The peer answers with a wall clock that is so far ahead of ours; its answer takes as long as the question."""
    clocks.heard(slot, int(BASE_MS + at_s * 1000 + ahead_ms), at_s - way_s, at_s + way_s)


def judged(*ahead_ms: float | None, own_step_ms: float = 0) -> tuple[Verdict, set[int]]:
    """The verdict, with peers in slots 1, 2, ... that are so far ahead of the time; None was never heard."""
    clocks = WallClocks(ALLOWED_MS)
    for slot, ahead in enumerate(ahead_ms, start=1):
        if ahead is not None:
            told(clocks, slot, ahead)
    judgement = clocks.judge(BASE_MS + own_step_ms, range(1, len(ahead_ms) + 1))
    return judgement.verdict, set(judgement.off_ms)


@pytest.mark.parametrize(
    ("peers", "own", "verdict", "off"),
    [
        pytest.param((0, 0), 0, Verdict.RIGHT, set(), id="all agree"),
        pytest.param((0, 0), HOUR_MS, Verdict.WRONG, {1, 2}, id="ours is ahead"),
        pytest.param((0, 0), -HOUR_MS, Verdict.WRONG, {1, 2}, id="ours is behind"),
        pytest.param((4_900, -4_900), 0, Verdict.RIGHT, set(), id="within what is allowed, both ways"),
        pytest.param((5_100, 0), 0, Verdict.RIGHT, {1}, id="one peer is off: a majority is right"),
        pytest.param(
            (HOUR_MS, HOUR_MS), HOUR_MS, Verdict.RIGHT, set(), id="a majority that is wrong together is right"
        ),
        pytest.param((-HOUR_MS, HOUR_MS), 0, Verdict.WRONG, {1, 2}, id="all three differ: nobody is right"),
        pytest.param((None, None), HOUR_MS, Verdict.OPEN, set(), id="nobody was heard"),
        pytest.param((0, None), HOUR_MS, Verdict.OPEN, {1}, id="the third may agree with either"),
        pytest.param((0, None), 0, Verdict.RIGHT, set(), id="two of three agree"),
        pytest.param((HOUR_MS,), 0, Verdict.WRONG, {1}, id="two members that differ: neither is right"),
        pytest.param((None,), 0, Verdict.OPEN, set(), id="one of two, alone"),
        pytest.param((0, 0, None, None), HOUR_MS, Verdict.OPEN, {1, 2}, id="two of five against us"),
        pytest.param((0, 0, 0, None), HOUR_MS, Verdict.WRONG, {1, 2, 3}, id="three of five against us"),
        pytest.param((0, HOUR_MS, HOUR_MS), 0, Verdict.WRONG, {2, 3}, id="two against two"),
        pytest.param((), HOUR_MS, Verdict.RIGHT, set(), id="a single node is right by itself"),
    ],
)
def test_a_majority_of_the_members_knows_the_time(
    peers: tuple[float | None, ...], own: float, verdict: Verdict, off: set[int]
) -> None:
    assert judged(*peers, own_step_ms=own) == (verdict, off)


@pytest.mark.parametrize(
    ("peers", "own", "wrong"),
    [
        pytest.param((HOUR_MS, 0), 0, {1}, id="one is off"),
        pytest.param((0, 0), HOUR_MS, set(), id="we are"),
        pytest.param((4_000, -4_000), 0, set(), id="two that are off from one another, not from us"),
        pytest.param((-4_000, -8_000), 0, set(), id="one that is off from us, not from the other"),
        pytest.param((HOUR_MS, None), 0, set(), id="the third may agree with it"),
        pytest.param((HOUR_MS,), 0, {1}, id="two members that differ"),
        pytest.param((HOUR_MS, HOUR_MS, 0, 0), 0, {1, 2}, id="two of five"),
        pytest.param((HOUR_MS, HOUR_MS, HOUR_MS, 0), 0, {4}, id="two of five, one of them we"),
    ],
)
def test_a_peer_is_wrong_by_the_measure_that_it_has_for_itself(
    peers: tuple[float | None, ...], own: float, wrong: set[int]
) -> None:
    """Three clocks four seconds apart are all right; the first and the last refused each other for ever."""
    clocks = WallClocks(ALLOWED_MS)
    for slot, ahead in enumerate(peers, start=1):
        if ahead is not None:
            told(clocks, slot, ahead)
    judgement = clocks.judge(BASE_MS + own, range(1, len(peers) + 1))
    assert set(judgement.wrong_ms) == wrong


def test_an_answer_is_compared_with_the_middle_of_its_way() -> None:
    """A peer four seconds away (there and back) is not four seconds behind."""
    clocks = WallClocks(ALLOWED_MS)
    told(clocks, 1, 0, way_s=2.0)
    assert clocks.offset_ms(1, BASE_MS) == pytest.approx(0, abs=1)


def test_the_fastest_answer_counts() -> None:
    """A slow one may be off by half of its way; those before and after it know better."""
    clocks = WallClocks(ALLOWED_MS)
    told(clocks, 1, 100)
    for number in range(SAMPLES_MAX - 1):
        told(clocks, 1, 1_500, at_s=101.0 + number, way_s=1.5)
    assert clocks.offset_ms(1, BASE_MS) == pytest.approx(100, abs=1)
    told(clocks, 1, 1_500, at_s=110.0, way_s=1.5)
    assert clocks.offset_ms(1, BASE_MS) == pytest.approx(1_500, abs=1), "a good one does not count for ever"


def test_an_answer_that_lay_about_says_nothing() -> None:
    """A paused node finds answers that waited for it: their time is old, and nobody's clock is wrong."""
    clocks = WallClocks(ALLOWED_MS)
    told(clocks, 1, 0)
    clocks.heard(1, int(BASE_MS + 101_000), 101.0, 161.0)
    assert clocks.offset_ms(1, BASE_MS) == pytest.approx(0, abs=1)
    assert clocks.judge(BASE_MS, [1]).verdict is Verdict.RIGHT
    fresh = WallClocks(ALLOWED_MS)
    fresh.heard(1, int(BASE_MS + 101_000), 101.0, 161.0)
    assert fresh.judge(BASE_MS, [1]).verdict is Verdict.OPEN


def test_a_peer_that_stepped_is_seen_at_once() -> None:
    """The samples from before said that it was right, for another second and a half."""
    clocks = WallClocks(ALLOWED_MS)
    for number in range(SAMPLES_MAX):
        told(clocks, 1, 0, at_s=100.0 + number, way_s=0.0001)
    told(clocks, 1, HOUR_MS, at_s=110.0, way_s=0.01)
    assert clocks.offset_ms(1, BASE_MS) == pytest.approx(HOUR_MS, abs=1)
    told(clocks, 1, 0, at_s=110.2, way_s=0.01)
    assert clocks.offset_ms(1, BASE_MS) == pytest.approx(0, abs=1)


# -- the clock that a file bends ---------------------------------------------------------------------------------------


def test_a_clock_is_bent_by_its_file_while_it_runs(tmp_path: Path) -> None:
    """Missing, empty: straight. Anything but a number: as it was before. The monotonic clock is never bent."""
    file, straight = tmp_path / "offset", HandClock()
    bent = BentClock(file, straight)

    def offset_ms() -> int:
        straight.run(2 * LOOK_AGAIN_S)
        return bent.wall_ms() - straight.wall_ms()

    assert offset_ms() == 0
    for text, expected in [
        ("3600000\n", HOUR_MS), ("an hour", HOUR_MS), ("1_000", HOUR_MS), ("9" * 16, HOUR_MS), (" -250 ", -250),
        ("+7", 7), ("", 0), ("5", 5),
    ]:  # fmt: skip
        file.write_text(text)
        assert offset_ms() == expected, text
    file.write_bytes(b"\xff\xfe")
    assert offset_ms() == 5
    file.unlink()
    assert offset_ms() == 0
    assert bent.monotonic_s() == straight.monotonic_s()


def test_a_bent_clock_reads_its_file_now_and_then_only(tmp_path: Path) -> None:
    """Wall time is asked for with every request; a file system is not."""
    file, straight = tmp_path / "offset", HandClock()
    file.write_text("1000")
    bent = BentClock(file, straight)
    assert bent.wall_ms() == straight.wall_ms() + 1000
    file.write_text("2000")
    assert bent.wall_ms() == straight.wall_ms() + 1000
    straight.run(2 * LOOK_AGAIN_S)
    assert bent.wall_ms() == straight.wall_ms() + 2000
