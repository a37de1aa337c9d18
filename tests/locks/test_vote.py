"""The vote: of several proposals one wins, once and for ever."""

from __future__ import annotations

import pytest

from cluster.locks.register import MayBeChanged, NotChanged
from cluster.locks.vote import Proposal, Vote, vote_key
from tests.locks.memory_register import FakeClock, MemoryRegister


@pytest.fixture
def register() -> MemoryRegister:
    return MemoryRegister(FakeClock(1_000))


@pytest.fixture
def vote(register: MemoryRegister) -> Vote:
    return Vote(register)


async def test_the_first_wins_and_all_are_told_the_same(vote: Vote, register: MemoryRegister) -> None:
    assert await vote.decision(1) is None
    first = await vote.propose(Proposal("a", b"1"), 1)
    second = await vote.propose(Proposal("b", b"2"), 1)
    assert (first.is_new, second.is_new) == (True, False)
    assert first.decision == second.decision == await vote.decision(1)
    assert first.decision.winner == Proposal("a", b"1")
    assert first.decision.decided_ms == 1_000
    assert register.changes == 1


@pytest.mark.parametrize("is_applied", [True, False])
async def test_proposing_again_after_an_unknown_outcome_does_no_harm(
    vote: Vote, register: MemoryRegister, is_applied: bool
) -> None:
    register.next_failure, register.is_applied = MayBeChanged("nobody knows"), is_applied
    with pytest.raises(MayBeChanged):
        await vote.propose(Proposal("a", b"1"), 1)
    again = await vote.propose(Proposal("a", b"1"), 1)
    assert again.decision.winner.candidate == "a"
    assert again.is_new is not is_applied
    assert register.changes == 1


async def test_the_next_may_win_where_the_first_surely_did_not(vote: Vote, register: MemoryRegister) -> None:
    register.next_failure = NotChanged("too few")
    with pytest.raises(NotChanged):
        await vote.propose(Proposal("a", b"1"), 1)
    assert (await vote.propose(Proposal("b", b"2"), 1)).is_new


def test_votes_are_kept_apart_from_keys_of_applications() -> None:
    assert vote_key("v") == b"\0vote/v"
