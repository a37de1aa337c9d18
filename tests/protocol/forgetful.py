"""Random schedules in which replicas lose their memory: all of it, or what they learned since some earlier moment.

It goes by the real steps (cluster/repair/amnesia): the others promise a ballot above all that was given out, list what
they hold, what differs is settled by a round of theirs, and the rest is copied. Messages are lost between all these
steps, recoveries die and begin anew, and everything that was on its way before arrives some time later.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec

from cluster.protocol.acceptor import newest
from cluster.protocol.changes import SETTLE
from cluster.protocol.messages import Answer, Held, Outcome, Read, Request, Unfit
from cluster.protocol.prepared import PreparedBallots
from cluster.protocol.proposer import Refuted
from cluster.protocol.repair_messages import Inventoried, Inventory, PromiseRaised, RaisePromise
from cluster.protocol.steps import Answers, Ask, HandOver, Pause
from cluster.repair.amnesia.findings import Copy, compare, copies_of
from storage.ballot import NONE, SLOT_BITS
from storage.engine import Row
from storage.fences import digest_of
from storage.record import Record, ReplicaState
from tests.protocol.linearizable import Call
from tests.protocol.world import KEY, MAJORITY, REPLICAS, Conversation, Options, Replica, Rules, World

Steps = Generator[Ask, Answers, tuple[str, Any]]


class Recovery:
    """Ours, on one key. A mutant leaves something out."""

    def __init__(self, world: ForgetfulWorld, slot: int) -> None:
        self.world, self.slot, self.replica = world, slot, world.replicas[slot]
        self.others = tuple(other for other in range(REPLICAS) if other != slot)

    def run(self) -> Steps:
        ballot = self.world.above_all(self.slot)
        floors = yield from self._all(RaisePromise(0, ballot), PromiseRaised)
        floor = max(answer.floor for answer in floors)
        listed = yield from self._all(Inventory(0, None, 9), Inventoried)
        state = self.replica.state
        own = {KEY: Copy(state.ballot, digest_of(state.record.fences))} if state.record is not None else {}
        found = compare([self.copies(answer.rows) for answer in listed], own, max(floor, self.replica.floor))
        record = None
        if found.covered:
            self.replica.state = ReplicaState(self.replica.state.promised)
        elif found.to_fetch:
            (held,) = yield from self._all(Read(KEY, value=True), Held, self.others[:1])
            record = held.record
            if record is None or record.ballot != found.to_fetch[KEY]:
                found.to_settle.append(KEY)
        if found.to_settle:
            record = yield from self._settle(ballot)
        self.restore(record, ballot)
        self.replica.raise_floor(max(floor, self.replica.floor))
        return "recovered", None

    def copies(self, rows: list[Row]) -> dict[bytes, Copy]:
        return copies_of(rows, None)

    def restore(self, record: Record | None, promised: int) -> None:
        decision = self.world.rules.acceptor.restore(self.replica.state, record, promised)
        self.replica.state = decision.state
        if decision.displaced is not None:
            self.replica.keep(decision.displaced)

    def _all(self, request: Request, kind: type, slots: tuple[int, ...] = ()) -> Generator[Ask, Answers, list[Any]]:
        """The answers of all of them, asked again until they come."""
        slots = slots or self.others
        while True:
            answers = yield Ask(request, len(slots), slots)
            granted = [answer for _, answer in answers if type(answer) is kind]
            if len(granted) == len(slots):
                return granted

    def _settle(self, above: int) -> Generator[Ask, Answers, Record | None]:
        while True:
            steps = self.world.rules.proposer(
                KEY,
                SETTLE,
                majority=MAJORITY,
                tick=lambda lower: self.world.tick(self.slot, max(lower, above)),
                prepared=PreparedBallots(lambda _: None),
            ).run()
            answers: Answers | None = None
            for _ in range(20):
                try:
                    step = steps.send(answers)  # type: ignore[arg-type]
                except StopIteration as end:
                    settled: Refuted = end.value
                    return settled.record
                answers = [] if isinstance(step, Pause) else (yield msgspec.structs.replace(step, slots=self.others))


class VotesAfterAmnesia(Recovery):
    """Nobody asks whether its memory is whole."""

    def run(self) -> Steps:
        return "recovered", None
        yield


class CopiesWithoutFences(Recovery):
    """What bears one ballot is taken for the same, whatever its fences."""

    def copies(self, rows: list[Row]) -> dict[bytes, Copy]:
        return {row.key: Copy(row.ballot) for row in rows}


class CopiesFromOne(Recovery):
    def run(self) -> Steps:
        (held,) = yield from self._all(Read(KEY, value=True), Held, self.others[:1])
        self.restore(held.record, NONE)
        return "recovered", None


class CopiesFromBoth(Recovery):
    def run(self) -> Steps:
        held = yield from self._all(Read(KEY, value=True), Held)
        self.restore(newest([answer.record for answer in held]), NONE)
        return "recovered", None


class ListsBeforeThePromise(Recovery):
    """All the steps, in the wrong order: what comes between the list and the promise is missed."""

    def run(self) -> Steps:
        listed = yield from self._all(Read(KEY, value=True), Held)
        ballot = self.world.above_all(self.slot)
        yield from self._all(RaisePromise(0, ballot), PromiseRaised)
        self.restore(newest([answer.record for answer in listed]), ballot)
        return "recovered", None


class WitnessReplica(Replica):
    """A replica that also answers one that recovers, as witness.py does."""

    def handle(self, request: Request, *more: Any) -> Answer:
        if isinstance(request, RaisePromise):
            self.state = ReplicaState(max(self.state.promised, request.ballot), self.state.record, self.state.floor)
            self.is_touched = True
            return PromiseRaised(self.floor)
        if isinstance(request, Inventory):
            record = self.state.record
            if record is None:
                return Inventoried([], complete=True)
            of_fences = digest_of(record.fences)
            row = Row(KEY, self.state.promised, record.ballot, record.origin, record.value is None, 0, of_fences)
            return Inventoried([row], complete=True)
        return super().handle(request, *more)


class ForgetfulWorld(World):
    """A world in which one replica at a time may have lost its memory."""

    def __init__(
        self, seed: int, options: Options, rules: Rules, amnesia: float, recovery: type[Recovery] = Recovery
    ) -> None:
        super().__init__(seed, options, rules)
        self.replicas = [WitnessReplica(rules) for _ in range(REPLICAS)]
        self.prepared = [rules.prepared(lambda _, replica=replica: replica.state) for replica in self.replicas]
        self.amnesia, self.recovery = amnesia, recovery
        self.barred: int | None = None
        self.recovering: Conversation | None = None
        self.forgotten = 0
        self._excused = NONE  # weak writes up to here, acknowledged or about to be, may have had their one copy there
        self._earlier: list[list[ReplicaState]] = [[ReplicaState()] for _ in range(REPLICAS)]

    def above_all(self, slot: int) -> int:
        """No ballot that was given out is above this one: the clocks, and twice what they may be apart."""
        self.clocks[slot] = max(self.clocks) + 1
        return (self.clocks[slot] << SLOT_BITS) | slot

    def _deliver(self, event: tuple[Any, ...]) -> None:
        if self.barred is None and self.random.random() < self.amnesia:
            self._forget(self.random.randrange(REPLICAS))
        elif self.barred is not None and (self.recovering is None or self.recovering.is_over):
            self._begin_recovery()  # the last one died
        kind, *rest = event
        if kind in ("relay", "duplicate") and rest[0] == self.barred:
            return
        if kind == "request" and rest[2] == self.barred:
            self.events.append(("answer", *rest[:3], Unfit("it recovers")))
            return
        super()._deliver(event)
        for slot, replica in enumerate(self.replicas):
            if replica.state is not self._earlier[slot][-1] and slot != self.barred:
                self._earlier[slot].append(replica.state)

    def _forget(self, slot: int) -> None:
        """Its folder is empty, or an older one; its process dies with what it was about."""
        self._restart(slot)
        replica, earlier = self.replicas[slot], self._earlier[slot]
        replica.state = ReplicaState() if self.random.random() < 0.5 else self.random.choice(earlier)
        if replica.state.record is None:
            replica.raise_floor(replica.floor)
        self._earlier[slot] = [replica.state]
        replica.kept_aside.clear()
        self._excused = (max(self.clocks) + 1) << SLOT_BITS
        self.forgotten += 1
        self.barred = slot
        self._begin_recovery()

    def _begin_recovery(self) -> None:
        assert self.barred is not None
        self.live += 1
        self.recovering = talk = Conversation(
            self.barred, self.recovery(self, self.barred).run(), Call("recovery", "", None, self.now)
        )
        self._advance(talk, None)

    def _advance(self, talk: Conversation, answers: Answers | None) -> None:
        if answers is None and talk.node == self.barred and talk is not self.recovering:
            talk.steps.close()
            self._end(talk, "fail", None)  # a node that recovers proposes nothing
        else:
            super()._advance(talk, answers)

    def _end(self, talk: Conversation, outcome: str, record: Record | None) -> None:
        super()._end(talk, outcome, record)
        if outcome == "recovered":
            assert self.barred is not None
            self._earlier[self.barred] = [self.replicas[self.barred].state]
            self.barred = None

    def _hand_over(self, node: int, step: HandOver) -> Generator[Any, Any, Outcome]:
        return super()._hand_over((node + 1) % REPLICAS if node == self.barred else node, step)

    def converges(self) -> bool:
        if self.barred is not None:
            self._alone(self.recovery(self, self.barred).run())
            self.barred = None
        self.acknowledged = [origin for origin in self.acknowledged if origin > self._excused]
        return super().converges()
