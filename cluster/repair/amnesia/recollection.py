"""Recollection: a node's knowledge of whether its memory is whole, its peers', and the way back when it is not.

It joins the parts: what is remembered of others (membership/peer_memory.py), whether they remember more of this node
than it does (verification.py), learning all anew (recovery.py), or single keys (quarantine.py), looking for what has
rotted (scrubbing.py), and answering others that recover (witness.py).

What is remembered of a peer is worth only what is on disk: a member that is killed forgets the rest, and would tell the
peer's next folder that it remembers nothing. So whose folder a peer has is written down the moment it is heard, and

    a question is not answered before     it is on disk who asked. So each of those by whose word a folder is whole
                                          will tell any other folder of that member about it, killed meanwhile or not.
                                          If it was killed before that, its word did not count, and is asked for anew;
                                          and what was written down for nobody's use only costs a recovery
    a recovery does not end before        the peers by whose promises it recovers have been heard, and are on disk:
                                          whoever forgot its peers does not tell them "nothing" as one that is whole
    a peer that recovers                  is on disk as such before this node promises anything to it: facts and
                                          promises reach the disk in the order in which they were put

What is left is a member of which those that alone can be asked have never heard: its first folder is lost, and they
were cut off from it from the first moment on; or, among five, it was away while they lost theirs one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import structlog

from cluster.membership.fitness import Bar
from cluster.membership.peer_memory import PEERS, PeerMemory
from cluster.protocol.messages import Alive, Heartbeat, Remembered
from cluster.repair.amnesia.quarantine import Quarantine
from cluster.repair.amnesia.recovery import Recovery
from cluster.repair.amnesia.rounds import Rounds
from cluster.repair.amnesia.verification import RECOVERY, UNVERIFIED_FROM, Standing, Verification
from cluster.repair.amnesia.witness import Witness
from cluster.repair.parts import Parts
from cluster.repair.scrubbing import Scrubbing

LOOK_S = 1.0
"""How often it is looked whether others have grown, or started anew on their folder, so that it has to go to disk."""
_BOOT_BITS = 63
log = structlog.get_logger()


class Recollection:
    """One node's. The node is barred as unverified from here on."""

    def __init__(
        self,
        parts: Parts,
        *,
        clock_offset_max_s: float,
        scrub_period_s: float,
        on_changed: Callable[[], None],
    ) -> None:
        """on_changed is called when others should hear at once what stands against this node now."""
        engine, commits, topology = parts.engine, parts.commits, parts.topology
        self._context, self._engine, self._commits, self._fitness = parts.context, engine, commits, parts.fitness
        self._tasks, self._on_changed = parts.tasks, on_changed
        self.boot = self._new_boot()
        self._is_noting = False
        self.peers = PeerMemory(engine.facts.get(PEERS))
        self._noted = set(self.peers.slots)  # those of whom something is on disk
        began_with = engine.commit_sequence
        if noted := engine.facts.get(UNVERIFIED_FROM):
            began_with = min(began_with, int(noted))
        commits.set_fact(UNVERIFIED_FROM, str(began_with).encode())
        self.verification = Verification(
            parts.slot,
            lambda: topology().by_slot,
            lambda slot: topology().by_slot[slot].name,
            incarnation=engine.incarnation,
            began_with=began_with,
        )
        if unfinished := engine.facts.get(RECOVERY):
            self.verification.lose(unfinished.decode())
        elif engine.was_cut_short is not None:
            self.verification.lose(engine.was_cut_short)
            commits.set_fact(RECOVERY, engine.was_cut_short.encode())
        self.rounds = Rounds(parts.context, topology, parts.slot, clock_offset_max_s)
        self.witness = Witness(parts)
        self.recovery = Recovery(parts, self.rounds, self._recovered)
        self.quarantine = Quarantine(parts, self.rounds, self.recovery, self.lose)
        self.scrubbing = Scrubbing(engine, parts.context.clock, scrub_period_s, self.quarantine.found)
        self._fitness.bar(Bar.UNVERIFIED, self.verification.question)

    def start(self) -> None:
        """Begins to look after the node's memory, and its peers'."""
        self._tasks.spawn(self._run(), "remember the peers")
        self._tasks.spawn(self.quarantine.run(), "recover damaged keys")
        self._tasks.spawn(self.scrubbing.run(), "scrub")
        if self.verification.standing is Standing.LOST:
            self._begin_recovery()
        else:
            self._stand(self.verification.look())

    # -- what is said and heard --------------------------------------------------------------------------------

    def beaten_by(self, beat: Heartbeat) -> Remembered | None:
        """A peer has beaten; what it is to be told that was remembered of it before this run of its process."""
        told = self.peers.tell(beat.slot, beat.boot)
        bars = Bar(beat.fitness)
        if bars & Bar.RECOVERING:
            self.peers.recovers(beat.slot, beat.boot)
        elif bars & Bar.UNVERIFIED:
            self.peers.asked(beat.slot, beat.incarnation, beat.boot)
        else:
            self.peers.met(beat.slot, beat.incarnation, beat.boot, beat.commit_sequence)
        if self.peers.has_news(beat.slot):
            self._note_peers()
        return told

    def has_noted(self, slot: int) -> bool:
        """Whether it would be noticed, if this node were killed now, that the peer comes back on another folder."""
        return slot in self._noted

    def answered(self, slot: int, alive: Alive, sent_s: float, boot: int) -> None:
        """A peer has answered the beat that was sent at that moment of the monotonic clock, and as that run.

        What it remembers besides a run that has ended in a recovery says nothing of this one: such a beat may have been
        overtaken, and its answer then says that another run came after it, which is this one.
        """
        self.rounds.heard(slot, alive.ballot)
        if boot != self.boot:
            return
        if slot in self._noted:
            self.recovery.heard(slot, alive.ballot, sent_s)
        bars = Bar(alive.fitness)
        self._stand(self.verification.answered(slot, alive.remembered, bars, is_noted=alive.is_noted))

    def heard(self, slot: int, boot: int, commit_sequence: int) -> None:
        """A frame of replies came: what is acknowledged in it is covered by this sequence."""
        self.peers.told(slot, boot, commit_sequence)

    def mark(self) -> tuple[int, int]:
        """What each frame of replies says of this node: its boot, and how far it has committed."""
        return self.boot, self._engine.commit_sequence

    # -- where it stands ---------------------------------------------------------------------------------------

    def lose(self, reason: str) -> None:
        """It is known that something was lost, and not of which keys."""
        self.verification.lose(reason)
        self._begin_recovery()

    def _stand(self, standing: Standing) -> None:
        is_unverified = bool(self._fitness.bars & Bar.UNVERIFIED)
        if standing is Standing.LOST:
            if not self._fitness.bars & Bar.RECOVERING:
                self._begin_recovery()
        elif is_unverified and standing is Standing.WHOLE:
            # On disk first: else others could come to remember more than the next run would begin with, which costs a
            # recovery. On a full disk that may take for ever, nothing is committed meanwhile, and reading is to go on.
            if not self._is_noting:
                self._is_noting = True
                self._commits.when(self._commits.set_fact(UNVERIFIED_FROM, b""), self._take_part)
            elif self._commits.is_full:
                self._take_part()
        elif is_unverified and standing is Standing.UNVERIFIED:
            self._fitness.bar(Bar.UNVERIFIED, self.verification.question)

    def _take_part(self) -> None:
        if self.verification.standing is Standing.WHOLE and self._fitness.bars & Bar.UNVERIFIED:
            self._fitness.clear(Bar.UNVERIFIED)
            self._on_changed()

    def _begin_recovery(self) -> None:
        # What it remembers of the others is as old as the rest: it must not be held against them once it is whole.
        self.peers.forget()
        self._noted = set()  # another one: what is on its way to disk counts no more
        self._note_peers()
        self.recovery.begin(self.verification.reason)
        self._fitness.clear(Bar.UNVERIFIED)
        self._on_changed()

    def _recovered(self) -> None:
        """All is learned anew: as far as others are concerned, this is another run."""
        self.boot = self._new_boot()
        self.verification.recovered()
        self._on_changed()

    def _new_boot(self) -> int:
        return self._context.random.getrandbits(_BOOT_BITS) or 1

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            if self.peers.is_worth_writing(lambda slot: not self._context.transport.is_alive(slot)):
                self._note_peers()

    def _note_peers(self) -> None:
        slots = self.peers.slots
        self._commits.when(self._commits.set_fact(PEERS, self.peers.pack()), partial(self._noted.update, slots))
