"""When a grant may be taken over: once it was watched, unrenewed, for the whole lease, and no moment sooner."""

from __future__ import annotations

import pytest

from cluster.locks import lease_watch
from cluster.locks.lease_watch import RATE_MARGIN, LeaseWatch
from cluster.locks.lock_state import Grant, LockState
from tests.locks.memory_register import FakeClock

KEY = b"k"
LEASE_S = 10 * RATE_MARGIN


def held(*grants: tuple[int, int, float]) -> LockState:
    """The state with these grants: fence, renewals and seconds of lease of each."""
    return LockState(9, 3, tuple(Grant("o", b"t", fence, int(ttl_s * 1000), count) for fence, count, ttl_s in grants))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def watch(clock: FakeClock) -> LeaseWatch:
    return LeaseWatch(clock)


def test_the_whole_lease_must_pass(clock: FakeClock, watch: LeaseWatch) -> None:
    watch.saw(KEY, held((1, 0, 10)))
    clock.pass_s(LEASE_S - 0.001)
    assert watch.over(KEY) == frozenset()
    clock.pass_s(0.002)
    assert watch.over(KEY) == {(1, 0)}


def test_looking_often_makes_no_lease_longer_or_shorter(clock: FakeClock, watch: LeaseWatch) -> None:
    for _ in range(10):
        watch.saw(KEY, held((1, 0, 10)))
        assert not watch.over(KEY)
        clock.pass_s(1)
    clock.pass_s(0.2)
    assert watch.over(KEY) == {(1, 0)}


def test_a_renewal_begins_anew(clock: FakeClock, watch: LeaseWatch) -> None:
    watch.saw(KEY, held((1, 0, 10)))
    clock.pass_s(9)
    watch.saw(KEY, held((1, 1, 10)))
    clock.pass_s(9)
    assert watch.over(KEY) == frozenset()
    clock.pass_s(2)
    assert watch.over(KEY) == {(1, 1)}


def test_a_state_that_comes_late_makes_no_lease_shorter(clock: FakeClock, watch: LeaseWatch) -> None:
    watch.saw(KEY, held((1, 1, 10)))
    clock.pass_s(9)
    watch.saw(KEY, held((1, 0, 10)))  # read before the renewal, and answered after it
    watch.saw(KEY, held((1, 1, 10)))
    clock.pass_s(9)
    assert watch.over(KEY) == frozenset()


def test_each_grant_has_its_own_time(clock: FakeClock, watch: LeaseWatch) -> None:
    watch.saw(KEY, held((1, 0, 10)))
    clock.pass_s(5)
    watch.saw(KEY, held((1, 0, 10), (2, 0, 3)))
    assert watch.next_end_s(KEY) == pytest.approx(3 * RATE_MARGIN)
    assert watch.left_s(KEY, held((1, 0, 10)).grants[0]) == pytest.approx(LEASE_S - 5)
    clock.pass_s(3.1)
    assert watch.over(KEY) == {(2, 0)}
    assert watch.next_end_s(KEY) == 0


def test_locks_have_nothing_to_do_with_one_another(clock: FakeClock, watch: LeaseWatch) -> None:
    watch.saw(b"a", held((1, 0, 1)))
    clock.pass_s(2)
    assert watch.over(b"b") == frozenset()
    assert watch.next_end_s(b"b") is None
    assert watch.left_s(b"b", held((1, 0, 1)).grants[0]) == pytest.approx(RATE_MARGIN)


def test_a_free_lock_is_forgotten(clock: FakeClock, watch: LeaseWatch) -> None:
    watch.saw(KEY, held((1, 0, 1)))
    watch.saw(KEY, LockState(1))
    clock.pass_s(5)
    assert watch.over(KEY) == frozenset()
    assert watch.next_end_s(KEY) is None


def test_what_others_have_seen_counts_from_when_it_was_told(clock: FakeClock, watch: LeaseWatch) -> None:
    watch.heard_of(KEY, held((1, 0, 10)))
    clock.pass_s(9)
    watch.heard_of(KEY, held((1, 1, 10)))  # nothing that this process has seen
    clock.pass_s(2)
    assert watch.over(KEY) == {(1, 0)}


def test_of_too_many_locks_those_seen_last_are_remembered(
    clock: FakeClock, watch: LeaseWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_watch, "LOCKS_MAX", 2)
    for key in (b"a", b"b", b"a", b"c"):
        watch.saw(key, held((1, 0, 1)))
    clock.pass_s(2)
    assert [bool(watch.over(key)) for key in (b"a", b"b", b"c")] == [True, False, True]
