"""Verification: a node that starts takes part in nothing until it is clear that its memory is whole.

An acceptor that forgot what it promised or accepted may make two majorities that share no memory. It can't know by
itself that its folder is empty, foreign or older than it was; so it asks. Until a majority of the members, itself
included, have told what they remember of it, it is unverified; one who remembers more, then or at any later time,
sends it into recovery (recovery.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum

from cluster.levels import majority
from cluster.membership.fitness import Bar
from cluster.protocol.messages import Remembered

NO_BARS = Bar(0)
UNVERIFIED_FROM = "unverified_from"
"""The fact that says with which commit sequence an unverified run began; empty once a run was verified. A folder that
went back in time must not get past what the others remember by what it commits while it still asks."""
RECOVERY = "recovery"
"""The fact that says why a recovery was begun; empty when there is none, or when it is finished."""


class Standing(Enum):
    """What a node knows of its own memory."""

    UNVERIFIED = "not enough members have said what they remember"
    WHOLE = "nobody remembers more"
    LOST = "it lost some of it"


class Verification:
    """Compares what others remember of this node with what it began with. Pure."""

    def __init__(
        self,
        own_slot: int,
        members: Callable[[], Iterable[int]],
        name_of: Callable[[int], str],
        *,
        incarnation: str,
        began_with: int,
    ) -> None:
        """members: all slots. began_with: the commit sequence of this folder when it was opened."""
        self._own_slot, self._members, self._name_of = own_slot, members, name_of
        self._incarnation, self._began_with = incarnation, began_with
        self._answered: set[int] = set()
        self._is_recovered = False
        self.standing = Standing.UNVERIFIED
        self.reason = ""
        """Why the memory is known to be incomplete."""

    def answered(
        self, slot: int, remembered: Remembered | None, bars: Bar = NO_BARS, *, is_noted: bool = True
    ) -> Standing:
        """A member has told what it remembers; None is an answer. Gives where that leaves this node.

        bars: what stood against that member as it said so. One that lost its own memory has none of this node either.
        One that is unverified may have gone back in time, and what it remembers with it: that it remembers more counts
        once it is known to be whole, and until then it has not answered. (Else an old folder would send a member that
        has long recovered into recovery once more, and the two would wait for each other for ever.)

        is_noted: whether that member has this one on its disk. One that has not may forget that it was asked, and say
        "nothing" to the next folder, too; so it has not answered. That it remembers more counts all the same.
        """
        if bars & Bar.RECOVERING:
            return self.look()
        reason = self._contradiction(slot, remembered)
        if reason is not None and bars & Bar.UNVERIFIED:
            return self.look()
        if reason is not None:
            self.lose(reason)
        if is_noted:
            self._answered.add(slot)
        return self.look()

    def look(self) -> Standing:
        """Where this node stands by now."""
        members = set(self._members())
        heard = len(self._answered & members - {self._own_slot}) + 1
        if self.standing is Standing.UNVERIFIED and heard >= majority(len(members)):
            self.standing = Standing.WHOLE
        return self.standing

    def lose(self, reason: str) -> None:
        """It is known, for this reason, that the memory is not whole."""
        if self.standing is not Standing.LOST:
            self.standing, self.reason = Standing.LOST, reason

    def recovered(self) -> None:
        """All is learned anew: what was remembered of earlier times says nothing any more."""
        self.standing, self.reason, self._is_recovered = Standing.WHOLE, "", True

    @property
    def question(self) -> str:
        """For whose answer an unverified node waits, in words."""
        members = sorted(self._members())
        silent = [self._name_of(slot) for slot in members if slot not in self._answered | {self._own_slot}]
        return (
            "this node has just started and asks the others what they remember of it; until a majority "
            f"({majority(len(members))} of {len(members)}, itself included) has answered it takes part in nothing. "
            f"Not heard yet: {', '.join(silent)}"
        )

    def _contradiction(self, slot: int, remembered: Remembered | None) -> str | None:
        if remembered is None:
            return None
        name = self._name_of(slot)
        if remembered.is_superseded:
            return f"another process works as this member, as {name} has heard: on a copy of this folder, perhaps"
        if self._is_recovered:
            return None
        if remembered.was_recovering:
            return (
                f"{name} remembers that this member was recovering before this run, and did not hear that it finished; "
                "what it voted for meanwhile may be in another folder"
            )
        if remembered.incarnation != self._incarnation:
            return f"{name} remembers this member with another folder, {remembered.incarnation}; this one is new to it"
        if remembered.commit_sequence > self._began_with:
            return (
                f"{name} remembers {remembered.commit_sequence} transactions of this folder, and it began with "
                f"{self._began_with}: it is an older state of itself"
            )
        return None
