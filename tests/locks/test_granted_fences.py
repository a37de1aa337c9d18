"""Which fences a lock says that it granted."""

from __future__ import annotations

from cluster.locks.lock_state import RECENT_MAX, LockState, Wish, acquired, decode, encode, released


def granted(count: int) -> tuple[LockState, list[int]]:
    """A lock after so many grants and releases, and their fences."""
    state, fences = LockState(), []
    for number in range(count):
        token = b"%d" % number
        taken = acquired(state, Wish("owner", token, 1_000), (), 10 * number + 10)
        assert taken is not None
        fences.append(taken.fence)
        left = released(taken, token)
        assert left is not None
        state = decode(encode(left))
    return state, fences


def test_a_lock_knows_each_fence_that_it_granted_and_no_other() -> None:
    state, fences = granted(RECENT_MAX - 1)
    assert [number for number in range(max(fences) + 20) if state.may_have_granted(number)] == fences


def test_a_lock_that_never_granted_any_has_granted_none() -> None:
    assert not any(LockState().may_have_granted(number) for number in (0, 1, 10**18))


def test_of_a_fence_from_long_ago_nobody_says_that_it_was_not_granted() -> None:
    state, fences = granted(RECENT_MAX + 5)
    assert state.may_have_granted(fences[0])
    assert state.may_have_granted(fences[0] + 1)
    assert not state.may_have_granted(fences[-1] + 1)
    assert not state.may_have_granted(fences[-1] - 1)
