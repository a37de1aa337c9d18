"""Random schedules over the real acceptor, proposer and readers: one key, three replicas, three coordinators.

Messages are lost, duplicated and reordered; coordinators crash between two rounds; replicas copy records to one
another at any moment (read repair, hints, anti-entropy); clocks are skewed. When the schedule ends the network
heals and two more things must hold: the replicas are equal, and no acknowledged weak write gave way to an older one.

A world is one seed. It is broken on purpose by handing it a subclass with one rule missing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from cluster.protocol.acceptor import Acceptor
from cluster.protocol.changes import RENEW, SETTLE, Change, Merge, Put
from cluster.protocol.messages import Accept, Accepted, Answer, Held, Outcome, Prepare, Read, Refused, Request, Settled
from cluster.protocol.prepared import PreparedBallots
from cluster.protocol.proposer import Chosen, Proposer, Refuted, Uncertain
from cluster.protocol.quorum import Quorum, Verdict
from cluster.protocol.reader import Agreed, StrongRead
from cluster.protocol.steps import Answers, Ask, HandOver, Pause
from cluster.protocol.weak_write import Taken, WeakWrite
from cluster.requests import Condition, ConditionKind, Unavailable, Unknown, Written
from storage.ballot import NONE, SLOT_BITS
from storage.record import Record, ReplicaState
from tests.protocol.linearizable import Call

REPLICAS, MAJORITY, ATTEMPTS = 3, 2, 4
KEY = b"k"


@dataclass(frozen=True)
class Options:
    """How rough the world is. Chances are per message or per step."""

    loss: float = 0.08
    duplicate: float = 0.15
    relay: float = 0.05
    crash: float = 0.05
    concurrency: int = 4
    calls: int = 14
    weak: float = 0.0
    skew: int = 40
    stride: int = 1  # how far a clock goes on from one ballot to the next, at most
    merge: float = 0.05  # chance per step that a node begins to merge back what it keeps aside
    kinds: tuple[int, int, int] = (40, 25, 35)  # read, put, cas
    own_first: float = 0.0  # chance that a node's own replica hears its request before anything else happens


@dataclass(frozen=True)
class Rules:
    """The parts under test; a mutant replaces one."""

    acceptor: Acceptor = field(default_factory=Acceptor)
    relay_acceptor: Acceptor | None = None
    proposer: type[Proposer] = Proposer
    strong_read: type[StrongRead] = StrongRead
    prepared: type[PreparedBallots] = PreparedBallots
    weak_write: type[WeakWrite] = WeakWrite
    keeps_displaced: bool = True


class Replica:
    """One replica of the key, and what it keeps aside."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.state = rules, ReplicaState()
        self.kept_aside: dict[int, Record] = {}

    def handle(self, request: Request, acceptor: Acceptor | None = None) -> Answer:
        acceptor = acceptor or self.rules.acceptor
        if isinstance(request, Read):
            return Held(self.state.record, False)
        assert isinstance(request, Prepare | Accept)
        decision = (
            acceptor.prepare(self.state, request)
            if isinstance(request, Prepare)
            else acceptor.accept(self.state, request)
        )
        record = decision.state.record
        assert record is None or record.ballot >= record.origin, "a ballot is never below the origin it carries"
        self.state = decision.state
        if decision.displaced is not None and self.rules.keeps_displaced:
            self.kept_aside[decision.displaced.origin] = decision.displaced
        return decision.reply

    def relay(self, record: Record) -> None:
        """Another replica's record arrives, as an ordinary accept."""
        self.handle(Accept(KEY, record, NONE), self.rules.relay_acceptor)


@dataclass
class Conversation:
    """One coordinator at work on one call."""

    node: int
    steps: Generator[Any, Any, tuple[str, Any]]
    call: Call
    number: int = 0
    quorum: Quorum | None = None
    grants: Callable[[Answer], bool] = bool
    answers: Answers = field(default_factory=list)
    is_over: bool = False


class World:
    """One schedule."""

    def __init__(self, seed: int, options: Options, rules: Rules) -> None:
        self.random, self.options, self.rules = Random(seed), options, rules
        self.replicas = [Replica(rules) for _ in range(REPLICAS)]
        self.clocks = [self.random.randrange(options.skew) for _ in range(REPLICAS)]
        self.prepared = [rules.prepared(lambda _, replica=replica: replica.state) for replica in self.replicas]
        self.events: list[tuple[Any, ...]] = []
        self.history: list[Call] = []
        self.acknowledged: list[int] = []  # origins of acknowledged weak writes
        self.now = self.live = 0
        self.seen: tuple[str | None, int | None] = (None, None)  # value and version last read

    def run(self) -> None:
        plan = self._plan()
        while plan or self.events:
            room = self.live < self.options.concurrency
            if plan and room and (not self.events or self.random.random() < 0.35):
                self._begin(*plan.pop(0))
                continue
            if not self.events:
                break
            if self.random.random() < self.options.relay:
                source, target = self.random.sample(range(REPLICAS), 2)
                if (record := self.replicas[source].state.record) is not None:
                    self.events.append(("relay", target, record))
            if plan and room and self.options.weak and self.random.random() < self.options.merge:
                self._begin_merge()
            self._deliver(self.events.pop(self.random.randrange(len(self.events))))

    def _plan(self) -> list[tuple[str, str]]:
        plan = []
        for i in range(self.options.calls):
            weak = self.random.random() < self.options.weak
            kind = "weak" if weak else self.random.choices(("read", "put", "cas"), self.options.kinds)[0]
            plan.append((kind, f"{kind}{i}"))
        return plan

    def tick(self, node: int, above: int = NONE) -> int:
        step = self.random.randint(1, self.options.stride) if self.options.stride > 1 else 1
        self.clocks[node] = max(self.clocks[node], above >> SLOT_BITS) + step
        return (self.clocks[node] << SLOT_BITS) | node

    # -- calls -------------------------------------------------------------------------------------------------

    def _begin(self, kind: str, value: str) -> None:
        self.now += 1
        self.live += 1
        node = self.random.randrange(REPLICAS)
        expected, version = self.seen
        call = Call(kind, value, expected, self.now)
        self.history.append(call)
        steps = {
            "read": lambda: self._read(node),
            "put": lambda: self._change(node, Put(value.encode(), "")),
            "weak": lambda: self._weak(node, value),
            "cas": lambda: self._change(node, self._swap(version, value)),
        }[kind]()
        self._advance(Conversation(node, steps, call), None)

    def _swap(self, version: int | None, value: str) -> Put:
        condition = (
            Condition(ConditionKind.IF_ABSENT) if version is None else Condition(ConditionKind.IF_VERSION, version)
        )
        return Put(value.encode(), "", condition)

    def _change(self, node: int, change: Change) -> Generator[Any, Any, tuple[str, Any]]:
        """Ends in ok, conflict, fail (surely not applied) or unknown."""
        proposer = self.rules.proposer(
            KEY,
            change,
            majority=MAJORITY,
            tick=lambda above: self.tick(node, above),
            prepared=self.prepared[node],
        )
        end = yield from self._attempts(proposer.run(), node)
        if isinstance(end, Chosen):
            return "ok", end.record
        if isinstance(end, Refuted):
            return "conflict", end.record
        if isinstance(end, Uncertain):
            return "unknown", None
        return ("fail" if proposer.sent is None else "unknown"), None

    def _read(self, node: int) -> Generator[Any, Any, tuple[str, Any]]:
        others = [slot for slot in range(REPLICAS) if slot != node]
        first = (node, self.random.choice(others))
        read = self.rules.strong_read(KEY, majority=MAJORITY, needed=MAJORITY, first=first)
        end = yield from self._attempts(read.run(), node)
        if end is None:
            return "fail", None
        record = end.record if isinstance(end, Agreed) else None
        if not isinstance(end, Agreed):
            outcome, record = yield from self._change(node, SETTLE)
            if outcome != "conflict":
                return "fail", None
        value = record.value.decode() if record is not None and record.value is not None else None
        self.seen = value, record.origin if record is not None else None
        return "ok", record

    def _weak(self, node: int, value: str) -> Generator[Any, Any, tuple[str, Any]]:
        ballot = self.tick(node)
        record = Record(ballot, ballot, True, value.encode())
        needed = self.random.choice((1, 1, 2, 3))
        write = self.rules.weak_write(
            KEY, record, needed=needed, majority=MAJORITY, replicas=REPLICAS, name_of=lambda slot: f"n{slot}"
        )
        end = yield from self._attempts(write.run(), node)
        if isinstance(end, Taken):
            self.acknowledged.append(ballot)
        elif write.must_be_kept:
            self.replicas[node].kept_aside[record.origin] = record
        elif not write.may_be_applied:
            return "fail", None
        return "unknown", None  # to strong readers it takes effect once, at any time from now on, or never

    def _attempts(self, steps: Generator[Any, Any, Any], node: int) -> Generator[Any, Any, Any]:
        """Runs steps, but gives up (None) after a few pauses, as a deadline would."""
        answers, attempts = None, 0
        while True:
            try:
                step = steps.send(answers)
            except StopIteration as end:
                return end.value
            attempts += isinstance(step, Pause)
            if attempts >= ATTEMPTS:
                steps.close()
                return None
            if isinstance(step, HandOver):
                answers = yield from self._hand_over(self.random.randrange(REPLICAS), step)
            else:
                answers = [] if isinstance(step, Pause) else (yield step)
                self._absorb(node, answers)

    def _hand_over(self, node: int, step: HandOver) -> Generator[Any, Any, Outcome]:
        """Some node proposes; its answer is lost now and then."""
        outcome, record = yield from self._change(node, step.change)
        if self.random.random() < self.options.loss or outcome == "unknown":
            return Unknown(step.needed, 0, (), None)
        if outcome == "fail":
            return Unavailable(step.needed, 0, ())
        if outcome == "ok":
            return Written(record.origin, MAJORITY, self._holders(record))
        return Settled(record, self._holders(record))

    def _holders(self, record: Record | None) -> tuple[str, ...]:
        """The replicas that hold it or something later; a proposer knows of a majority of them."""
        ballot = record.ballot if record is not None else NONE
        return tuple(f"n{i}" for i, replica in enumerate(self.replicas) if replica.state.ballot >= ballot)

    def _absorb(self, node: int, answers: Answers) -> None:
        for _, answer in answers:
            if isinstance(answer, Refused):
                self.tick(node, answer.highest)

    def _begin_merge(self) -> None:
        node = self.random.randrange(REPLICAS)
        kept = self.replicas[node].kept_aside
        if kept:
            self.live += 1
            record = self.random.choice(sorted(kept.values(), key=lambda record: record.origin))
            self._advance(Conversation(node, self._merge_back(node, record), Call("merge", "", None, self.now)), None)

    def _merge_back(self, node: int, record: Record) -> Generator[Any, Any, tuple[str, Any]]:
        outcome, settled = yield from self._change(node, Merge(record))
        if outcome in ("ok", "conflict"):
            self.replicas[node].kept_aside.pop(record.origin, None)
        return outcome, settled

    # -- the network -------------------------------------------------------------------------------------------

    def _advance(self, talk: Conversation, answers: Answers | None) -> None:
        try:
            ask: Ask = talk.steps.send(answers)
        except StopIteration as end:
            self._end(talk, *end.value)
            return
        slots = ask.slots or tuple(range(REPLICAS))
        talk.number += 1
        grant = ask.request.grant
        talk.grants = ask.grants or (lambda answer: type(answer) is grant)
        talk.quorum, talk.answers = Quorum(ask.needed, len(slots)), []
        for slot in slots:
            if slot == talk.node and self.random.random() < self.options.own_first:
                self.events.append(("answer", talk, talk.number, slot, self.replicas[slot].handle(ask.request)))
                continue
            if self.random.random() < self.options.loss:
                self.events.append(("answer", talk, talk.number, slot, None))
                continue
            self.events.append(("request", talk, talk.number, slot, ask.request))
            if self.random.random() < self.options.duplicate:
                self.events.append(("duplicate", slot, ask.request))

    def _end(self, talk: Conversation, outcome: str, record: Record | None) -> None:
        self.now += 1
        self.live -= 1
        talk.is_over = True
        talk.call.end = self.now
        talk.call.outcome = outcome
        talk.call.seen = record.value.decode() if record is not None and record.value is not None else None

    def _deliver(self, event: tuple[Any, ...]) -> None:
        kind, *rest = event
        if kind == "relay":
            self.replicas[rest[0]].relay(rest[1])
        elif kind == "duplicate":
            self.replicas[rest[0]].handle(rest[1])
        elif kind == "request":
            talk, number, slot, request = rest
            reply = self.replicas[slot].handle(request)
            is_lost = self.random.random() < self.options.loss
            self.events.append(("answer", talk, number, slot, None if is_lost else reply))
        else:
            self._answer(*rest)

    def _answer(self, talk: Conversation, number: int, slot: int, answer: Answer | None) -> None:
        if talk.is_over or talk.number != number or talk.quorum is None:
            return
        if answer is not None:
            talk.answers.append((slot, answer))
        if talk.quorum.add(answer is not None and talk.grants(answer)) is Verdict.PENDING:
            return
        talk.quorum = None
        if self.random.random() < self.options.crash:
            talk.is_over = True  # the coordinator died: its client never learns
            self.live -= 1
        else:
            self._advance(talk, talk.answers)

    # -- after the schedule: everybody reachable, nobody calling ---------------------------------------------------

    def converges(self) -> bool:
        """Whether repair and merging make the replicas equal and lose no acknowledged weak write."""
        for _ in range(12):
            merge = {origin: record for replica in self.replicas for origin, record in replica.kept_aside.items()}
            for source in self.replicas:
                for target in self.replicas:
                    self._compare(source, target, merge)
            for _, record in sorted(merge.items()):
                self._alone(self._change(0, Merge(record)))
        records = [replica.state.record for replica in self.replicas]
        origin = self.replicas[0].state.origin
        return all(record == records[0] for record in records) and all(acked <= origin for acked in self.acknowledged)

    def _compare(self, source: Replica, target: Replica, merge: dict[int, Record]) -> None:
        record = source.state.record
        if record is None:
            return
        reply = target.handle(Accept(KEY, record, NONE))
        if isinstance(reply, Accepted):
            return
        if record.ballot > target.state.ballot:
            self._alone(self._change(0, RENEW))  # a promise is in the way
        elif record.weak and record.origin > target.state.origin:
            merge[record.origin] = record

    def _alone(self, steps: Generator[Any, Any, Any]) -> Any:
        """Runs one coordinator with every replica answering at once."""
        answers = None
        while True:
            try:
                ask = steps.send(answers)
            except StopIteration as end:
                return end.value
            slots = ask.slots or tuple(range(REPLICAS))
            answers = [(slot, self.replicas[slot].handle(ask.request)) for slot in slots]
