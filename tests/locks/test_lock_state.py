"""What a lock's register holds, and the pure steps that change it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.locks.lock_state import (
    Grant,
    LockState,
    Wish,
    acquired,
    decode,
    encode,
    expired,
    lock_key,
    name_of_lock,
    released,
    renewed,
    token_digest,
)

NOW_MS = 1_790_000_000_000
FREE = LockState()


def wish(name: str, permits: int = 1, ttl_ms: int = 10_000) -> Wish:
    return Wish(name, name.encode(), ttl_ms, permits)


def taken(state: LockState, *wishes: Wish, now_ms: int = NOW_MS) -> LockState:
    for one in wishes:
        after = acquired(state, one, (), now_ms)
        assert after is not None
        state = after
    return state


def test_a_free_lock_is_granted_under_the_time() -> None:
    assert taken(FREE, wish("a")).grants == (Grant("a", b"a", NOW_MS, 10_000),)


@pytest.mark.parametrize("now_ms", [0, NOW_MS - 1_000_000, NOW_MS, NOW_MS + 5])
def test_fences_grow_whatever_the_clock_says(now_ms: int) -> None:
    before = taken(FREE, wish("a"))
    state = released(before, b"a")
    assert state is not None
    assert taken(state, wish("b"), now_ms=now_ms).fence == max(NOW_MS + 1, now_ms)


def test_a_lock_that_is_held_is_not_granted() -> None:
    assert acquired(taken(FREE, wish("a")), wish("b"), (), NOW_MS) is None


def test_a_lock_that_is_over_is() -> None:
    state = taken(FREE, wish("a"))
    after = acquired(state, wish("b"), {state.grants[0].identity}, NOW_MS)
    assert after is not None
    assert [grant.owner for grant in after.grants] == ["b"]


def test_of_a_grant_that_was_renewed_meanwhile_none_is_given_back() -> None:
    state = taken(FREE, wish("a"))
    found = state.grants[0].identity
    again = renewed(state, b"a")
    assert again is not None
    assert released(again, b"a", found) is None
    assert released(state, b"a", found) == released(again, b"a") == released(again, b"a", again.grants[0].identity)


def test_what_was_seen_before_a_renewal_says_nothing_of_what_is_there_now() -> None:
    state = taken(FREE, wish("a"))
    over = {state.grants[0].identity}
    again = renewed(state, b"a")
    assert again is not None
    assert acquired(again, wish("b"), over, NOW_MS) is None
    assert expired(again, over) is None


def test_asking_twice_takes_no_second_permit_and_begins_the_lease_anew() -> None:
    state = taken(FREE, wish("a", 2), wish("b", 2))
    again = taken(state, wish("a", 2))
    assert [(grant.owner, grant.fence, grant.renewals) for grant in again.grants] == [
        ("a", NOW_MS, 1),
        ("b", NOW_MS + 1, 0),
    ]
    assert again.fence == state.fence


def test_who_asks_again_after_its_lease_is_granted_anew() -> None:
    state = taken(FREE, wish("a"))
    again = acquired(state, wish("a"), {state.grants[0].identity}, NOW_MS)
    assert again is not None
    assert again.grants == (Grant("a", b"a", NOW_MS + 1, 10_000),)


def test_a_semaphore_has_as_many_holders_as_permits() -> None:
    state = taken(FREE, *(wish(name, 3) for name in "abc"))
    assert acquired(state, wish("d", 3), (), NOW_MS) is None
    left = released(state, b"b")
    assert left is not None
    assert [grant.owner for grant in taken(left, wish("d", 3)).grants] == ["a", "c", "d"]


@pytest.mark.parametrize("permits", [1, 2, 4])
def test_who_asks_for_other_permits_waits_until_nobody_holds_it(permits: int) -> None:
    state = taken(FREE, wish("a", 3))
    assert acquired(state, wish("b", permits), (), NOW_MS) is None
    after = acquired(state, wish("b", permits), {state.grants[0].identity}, NOW_MS)
    assert after is not None
    assert (after.permits, len(after.grants)) == (permits, 1)


def test_a_token_that_holds_nothing_changes_nothing() -> None:
    state = taken(FREE, wish("a"))
    assert renewed(state, b"b") is None
    assert released(state, b"b") is None
    assert released(FREE, b"a") is None


def test_the_fence_stays_when_the_lock_is_released() -> None:
    state = released(taken(FREE, wish("a")), b"a")
    assert state == LockState(NOW_MS, 1, (), (NOW_MS,))
    assert state.is_free


def test_only_what_is_over_is_taken_away() -> None:
    state = taken(FREE, wish("a", 2), wish("b", 2))
    assert expired(state, ()) is None
    left = expired(state, {state.grants[0].identity})
    assert left is not None
    assert [grant.owner for grant in left.grants] == ["b"]


def test_a_register_without_a_value_is_a_free_lock() -> None:
    assert decode(None) == FREE


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x93\x01", b"\x93\xff\x01\x90"])
def test_another_value_is_none(value: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(value)


GRANTS = st.builds(
    Grant,
    owner=st.text(st.characters(codec="utf-8"), max_size=5),
    token=st.binary(min_size=16, max_size=16),
    fence=st.integers(0, (1 << 63) - 1),
    ttl_ms=st.integers(1_000, 3_600_000),
    renewals=st.integers(0, 1 << 40),
)


@given(st.builds(LockState, st.integers(0, (1 << 63) - 1), st.integers(1, 100), st.lists(GRANTS).map(tuple)))
def test_what_is_written_is_read(state: LockState) -> None:
    assert decode(encode(state)) == state


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=50))
def test_keys_of_locks_are_none_of_applications(name: str) -> None:
    assert name_of_lock(lock_key(name)) == name
    assert b"\0" in lock_key(name)


def test_digests_differ_and_say_nothing() -> None:
    assert len({token_digest(token) for token in ("a", "b", "", "a\udcff")}) == 4
    assert len(token_digest("x" * 256)) == 16
