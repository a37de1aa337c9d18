"""The ballot clock: no ballot twice, whatever happens to the process, the disk and the wall clock."""

from __future__ import annotations

from collections.abc import Callable

from cluster.ballot_clock import AHEAD_MS_MAX, BALLOT_MS_SHIFT, RESERVE_MS, BallotClock
from storage.ballot import BALLOT_MAX, COUNTERS_MAX, ballot_of, slot_of, unix_ms_of
from tests.coordination.virtual_time import WALL_START_MS

SLOT = 7


class HandClock:
    """A clock that is turned by hand."""

    def __init__(self, wall_ms: int = WALL_START_MS, seconds: float = 100.0) -> None:
        self.wall, self.seconds = wall_ms, seconds

    def wall_ms(self) -> int:
        return self.wall

    def monotonic_s(self) -> float:
        return self.seconds

    def run(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall += int(seconds * 1000)


class Disk:
    """Takes ceilings; says so when it is told to."""

    def __init__(self) -> None:
        self.ceiling_ms = 0
        self._asked: list[tuple[int, Callable[[], None]]] = []

    def reserve(self, ceiling_ms: int, done: Callable[[], None]) -> None:
        self._asked.append((ceiling_ms, done))

    def commit(self, count: int | None = None) -> None:
        """Writes the first so many of the ceilings asked for; all of them unless told."""
        asked, self._asked = self._asked[:count], self._asked[len(self._asked[:count]) :]
        for ceiling_ms, done in asked:
            self.ceiling_ms = ceiling_ms
            done()


def test_ballots_only_grow_and_carry_their_slot() -> None:
    """Also within one millisecond, beyond its counters, and while the time stands still."""
    ballots = BallotClock(HandClock(), SLOT, 0, Disk().reserve)
    given = [ballots.tick() for _ in range(3 * COUNTERS_MAX)]
    assert given == sorted(set(given))
    assert {slot_of(ballot) for ballot in given} == {SLOT}
    assert unix_ms_of(given[0]) == WALL_START_MS


def test_a_ballot_is_above_what_was_absorbed_and_asked_for() -> None:
    """Even where another node's slot is the higher one."""
    ballots = BallotClock(HandClock(), SLOT, 0, Disk().reserve)
    absorbed = ballot_of(WALL_START_MS + 40, 5, 1000)
    ballots.absorb(absorbed)
    first = ballots.tick()
    assert first > absorbed
    assert ballots.tick(above := ballot_of(WALL_START_MS + 90, 0, 1000)) > above


def test_nothing_leaves_before_its_ceiling_is_on_disk() -> None:
    """What waits is called in order once it is, and then no more."""
    disk, called = Disk(), []
    ballots = BallotClock(HandClock(), SLOT, 0, disk.reserve)
    ballots.tick()
    assert not ballots.check_durable()
    ballots.when_durable(lambda: called.append("first"))
    ballots.when_durable(lambda: called.append("second"))
    assert called == []
    disk.commit()
    assert called == ["first", "second"]
    assert ballots.check_durable()
    ballots.when_durable(lambda: called.append("at once"))
    assert called[-1] == "at once"
    disk.commit()
    assert len(called) == 3


def test_ballots_that_ran_ahead_of_the_new_ceiling_wait_for_the_next() -> None:
    """The disk was slow and the clock went on meanwhile: that commit does not cover it."""
    disk, called, clock = Disk(), [], HandClock()
    ballots = BallotClock(clock, SLOT, 0, disk.reserve)
    early = ballots.tick()
    ballots.when_durable(lambda: called.append(early))
    clock.run(2 * RESERVE_MS / 1000)
    late = ballots.tick()
    disk.commit(1)
    assert called == [], "one that waits is held up by any ballot that left meanwhile"
    disk.commit(1)
    assert called == [early]
    assert disk.ceiling_ms > unix_ms_of(late)


def test_the_next_ceiling_is_asked_for_before_it_is_needed() -> None:
    """So that a node which gives out ballots steadily never waits for it."""
    disk, clock = Disk(), HandClock()
    ballots = BallotClock(clock, SLOT, 0, disk.reserve)
    ballots.tick()
    ballots.check_durable()
    disk.commit()
    for _ in range(200):
        clock.run(0.1)
        ballots.tick()
        assert ballots.check_durable()
        disk.commit()


def test_ballots_grow_over_a_restart_with_the_wall_clock_set_back() -> None:
    """A killed node starts from its ceiling, which lies above all it ever gave out."""
    disk = Disk()
    before = BallotClock(HandClock(), SLOT, 0, disk.reserve)
    last = before.tick()
    before.check_durable()
    disk.commit()
    after = BallotClock(HandClock(WALL_START_MS - 3_600_000), SLOT, disk.ceiling_ms, disk.reserve)
    assert after.tick() > last
    assert not after.check_durable(), "above the old ceiling, so it needs a new one"


def test_after_the_seal_no_ballot_counts_as_durable() -> None:
    """After a graceful stop had written the exact ceiling, what still ran gave out ballots above it.

    With the wall clock a second back, the next start gave out the same ballots again.
    """
    disk, clock, called = Disk(), HandClock(), []
    ballots = BallotClock(clock, SLOT, 0, disk.reserve)
    given = ballots.tick()
    ballots.check_durable()
    disk.commit()
    sealed_ms = ballots.seal()
    clock.run(1.0)
    late = ballots.tick()
    assert not ballots.check_durable()
    ballots.when_durable(lambda: called.append(late))
    disk.commit()
    assert called == []
    again = BallotClock(HandClock(WALL_START_MS - 1000), SLOT, sealed_ms, disk.reserve)
    assert again.tick() > given


def test_a_ceiling_that_arrives_after_the_seal_opens_nothing() -> None:
    """It was asked for before, and the seal's lower ceiling is written over it."""
    disk = Disk()
    ballots = BallotClock(HandClock(), SLOT, 0, disk.reserve)
    ballots.tick()
    ballots.check_durable()
    ballots.seal()
    disk.commit()
    ballots.tick(ballot_of(WALL_START_MS + RESERVE_MS // 2, 0, 0))
    assert not ballots.check_durable()


def test_a_failing_callback_drops_no_other() -> None:
    """Who waited behind it was never called, and its conversation hung until the deadline."""
    disk, called = Disk(), []
    ballots = BallotClock(HandClock(), SLOT, 0, disk.reserve)
    ballots.tick()
    ballots.when_durable(lambda: called.append(1 // 0))
    ballots.when_durable(lambda: called.append(1))
    disk.commit()
    assert called == [1]


def test_a_ballot_far_ahead_is_not_credible() -> None:
    """One ballot at the end of the numbers, once absorbed, left this node none to give out: it died for good."""
    ballots = BallotClock(HandClock(), SLOT, 0, Disk().reserve)
    year_ahead = ballots.tick() + ((AHEAD_MS_MAX + 1) << BALLOT_MS_SHIFT)
    assert ballots.credible_max < BALLOT_MAX
    assert year_ahead >= ballots.credible_max
    assert year_ahead - (2000 << BALLOT_MS_SHIFT) < ballots.credible_max
    assert ballots.tick() < BALLOT_MAX


def test_a_small_step_of_the_wall_is_followed_and_a_large_one_is_not() -> None:
    """The physical part goes by the monotonic clock; the wall sets it only within the allowed offset."""
    clock = HandClock()
    ballots = BallotClock(clock, SLOT, 0, Disk().reserve)
    clock.wall += 2_000
    assert ballots.follow_wall(5.0) == 2.0
    assert ballots.now_ms() == clock.wall_ms()
    for step_ms in (5_001, -3_600_000):
        before_ms, wall_ms = ballots.now_ms(), clock.wall
        clock.wall += step_ms
        assert ballots.follow_wall(5.0) == step_ms / 1000
        assert ballots.now_ms() == before_ms
        clock.wall = wall_ms
    clock.run(10)
    assert ballots.now_ms() == clock.wall_ms()
    clock.wall -= 5_000
    last = ballots.tick()
    assert ballots.follow_wall(5.0) == -5.0
    assert ballots.tick() > last, "a wall that went back takes no ballot back"


def test_a_large_step_is_followed_once_a_majority_shares_it() -> None:
    """A node that had started with the wrong time kept it until it was started again."""
    clock = HandClock(WALL_START_MS + 3_600_000)
    ballots = BallotClock(clock, SLOT, 0, Disk().reserve)
    last = ballots.tick()
    clock.wall -= 3_600_000
    assert ballots.follow_wall(5.0) == -3600.0
    assert ballots.now_ms() == WALL_START_MS + 3_600_000
    assert ballots.follow_wall(5.0, is_shared=True) == -3600.0
    assert ballots.now_ms() == WALL_START_MS
    assert ballots.tick() > last, "ballots go on from where they were"


def test_what_is_not_credible_is_not_absorbed() -> None:
    """A refusal that told of a ballot at the end of the numbers would have left none to give out."""
    ballots = BallotClock(HandClock(), SLOT, 0, Disk().reserve)
    ballots.absorb(BALLOT_MAX)
    assert unix_ms_of(ballots.tick()) == WALL_START_MS


def test_the_horizon_lies_beyond_what_clocks_that_are_right_give_out() -> None:
    """As far ahead as is allowed, of this clock or of the ballot in question, whichever is the later."""
    ballots = BallotClock(HandClock(), SLOT, 0, Disk().reserve)
    ballot = ballots.tick()
    assert ballot_of(WALL_START_MS + 5_000, COUNTERS_MAX - 1, 1023) < ballots.horizon(ballot, 5.0)
    assert ballot_of(WALL_START_MS + 5_002, 0, 0) > ballots.horizon(ballot, 5.0)
    ahead = ballot_of(WALL_START_MS + 3_600_000, 0, SLOT)
    assert ballots.horizon(ahead, 5.0) > ahead
    ballots.absorb(ahead)
    assert ballots.horizon(ballot, 5.0) < ahead, "to have heard of a wrong clock makes it no better"
