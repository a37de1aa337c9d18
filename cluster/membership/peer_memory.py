"""What this node remembers of the other members, so that one that lost its memory can be told.

Of each member: the folder it works on (its incarnation), the highest commit sequence that was heard from it, and the
run of its process that said so (its boot, a number drawn at each start). Only what a full member says is remembered:
one that is unverified or recovering must not overwrite what it is to be measured by. Of one that recovers it is
remembered that it does: it votes for the partitions that it has done, so any folder that comes after it, even the one
that was remembered before, has missed something, until a run has recovered to the end.

Of a member of which nothing is remembered it is noted, too, that it asked, and on which folder: with the answer it may
begin to vote, and the next one to ask on another folder must hear of it. That hides nothing, for there is nothing to be
measured by.

A member that starts is told what was remembered *before* that run, however often it asks: what it said of itself
meanwhile can't count against it, nor hide what it had forgotten. If another run of the same member came after its own,
it is told that it is superseded: two processes work on copies of one folder.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import structs

from cluster.protocol.messages import Remembered

PEERS = "peers"
"""The fact under which this is on disk."""
GROWTH_WRITTEN = 16
"""Commits by which a member must have grown to be written down again. Writing is a commit too, which the others hear
of: with this, idle nodes come to rest, since each write answers at least so many commits of somebody else."""


class Run(msgspec.Struct, frozen=True, array_like=True):
    """One run of a member's process, as it was heard."""

    incarnation: str
    boot: int
    commit_sequence: int
    is_recovering: bool = False
    """It had lost its memory, and was heard last while it learned it anew: incarnation and sequence are of the full run
    before it, empty where none was heard."""
    has_only_asked: bool = False
    """It was not heard yet as a full member: it has asked what is remembered of it, and that was nothing. It may be
    full by now, so another folder has missed what it voted for; its sequence, 0, says nothing."""

    @property
    def is_full(self) -> bool:
        """Whether it was heard last as a full member."""
        return not (self.is_recovering or self.has_only_asked)


class Memory(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered of one member."""

    last: Run
    before: Run | None = None
    """The run that was heard before the last one."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[int, Memory]).decode


class PeerMemory:
    """Slot -> what is remembered. Pure: who calls it sees to the disk."""

    def __init__(self, written: bytes | None) -> None:
        """written: what pack() gave, None on a new folder."""
        self._memories = _decode(written) if written else {}
        self._written = dict(self._memories)
        self._early: dict[int, tuple[int, int]] = {}  # (boot, sequence) of a run that has not said yet that it is full

    @property
    def slots(self) -> frozenset[int]:
        """Of whom anything is remembered."""
        return frozenset(self._memories)

    def tell(self, slot: int, boot: int) -> Remembered | None:
        """What to tell that run of a member about itself; None when nothing was remembered before it."""
        memory = self._memories.get(slot)
        if memory is None:
            return None
        if memory.last.boot == boot:
            return None if memory.before is None else _remembered(memory.before)
        is_superseded = memory.before is not None and memory.before.boot == boot
        return _remembered(memory.last, is_superseded)

    def asked(self, slot: int, incarnation: str, boot: int) -> None:
        """A member that is not verified yet has asked what is remembered of it."""
        if slot not in self._memories:
            self._memories[slot] = Memory(Run(incarnation, boot, 0, has_only_asked=True))

    def met(self, slot: int, incarnation: str, boot: int, commit_sequence: int) -> None:
        """A full member has said who it is."""
        memory = self._memories.get(slot)
        early_boot, early_sequence = self._early.get(slot, (0, 0))
        if early_boot == boot:
            commit_sequence = max(commit_sequence, early_sequence)
        if memory is None:
            self._memories[slot] = Memory(Run(incarnation, boot, commit_sequence))
        elif memory.last.boot == boot and memory.last.has_only_asked:
            self._memories[slot] = Memory(Run(incarnation, boot, commit_sequence), memory.before)
        elif memory.last.boot == boot:
            self._grow(slot, memory, commit_sequence)
        elif memory.before is None or memory.before.boot != boot:  # not one that is superseded, or a late message of it
            self._memories[slot] = Memory(Run(incarnation, boot, commit_sequence), memory.last)

    def recovers(self, slot: int, boot: int) -> None:
        """A member has said that it lost its memory and learns it anew."""
        memory = self._memories.get(slot)
        if memory is None:
            self._memories[slot] = Memory(Run("", boot, 0, is_recovering=True))
        elif memory.last.boot == boot:
            if not memory.last.is_recovering:
                self._memories[slot] = Memory(structs.replace(memory.last, is_recovering=True), memory.before)
        elif memory.before is None or memory.before.boot != boot:  # as in met()
            last = memory.last
            run = Run(last.incarnation, boot, last.commit_sequence, is_recovering=True)
            self._memories[slot] = Memory(run, last)

    def told(self, slot: int, boot: int, commit_sequence: int) -> None:
        """A frame of replies said how far that run of a member has committed."""
        memory = self._memories.get(slot)
        if memory is not None and memory.last.boot == boot and memory.last.is_full:
            self._grow(slot, memory, commit_sequence)
        else:
            self._early[slot] = (boot, commit_sequence)

    def forget(self) -> None:
        """This node has lost its memory: what it remembers of others may be of long ago."""
        self._memories.clear()
        self._early.clear()

    def commit_sequence(self, slot: int) -> int:
        """The highest that was heard of the member's last run; 0 when none was."""
        memory = self._memories.get(slot)
        return memory.last.commit_sequence if memory is not None else 0

    def has_news(self, slot: int) -> bool:
        """Whether the disk does not know whose folder the member has, or whether it recovers: not to be put off."""
        memory, written = self._memories.get(slot), self._written.get(slot)
        if memory is None or written is None:
            return memory is not None
        is_known = written.last.incarnation == memory.last.incarnation
        return not is_known or written.last.is_recovering != memory.last.is_recovering

    def is_worth_writing(self, is_away: Callable[[int], bool]) -> bool:
        """Whether what is on disk is too far behind: a new run, much growth, or any for a member that is away."""
        return any(self._is_behind(slot, memory, is_away) for slot, memory in self._memories.items())

    def _is_behind(self, slot: int, memory: Memory, is_away: Callable[[int], bool]) -> bool:
        written = self._written.get(slot)
        if written is memory:
            return False
        if written is None or written.last.boot != memory.last.boot or memory.last.is_recovering:
            return True
        if written.last.has_only_asked != memory.last.has_only_asked:
            return True
        growth = memory.last.commit_sequence - written.last.commit_sequence
        return growth >= GROWTH_WRITTEN or is_away(slot)

    def pack(self) -> bytes:
        """All of it, for the disk; from now on that counts as written."""
        self._written = dict(self._memories)
        return _encode(self._memories)

    def _grow(self, slot: int, memory: Memory, commit_sequence: int) -> None:
        last = memory.last
        if commit_sequence > last.commit_sequence:
            self._memories[slot] = Memory(structs.replace(last, commit_sequence=commit_sequence), memory.before)


def _remembered(run: Run, is_superseded: bool = False) -> Remembered:
    return Remembered(run.incarnation, run.commit_sequence, is_superseded, run.is_recovering)
