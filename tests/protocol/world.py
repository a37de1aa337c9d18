"""Random schedules over the real acceptor, proposer and readers: one key, three replicas, three coordinators.

Messages are lost, duplicated and reordered; coordinators crash between two rounds; replicas copy records to one another
at any moment (read repair, hints, anti-entropy); clocks are skewed; values expire; nodes restart; holders of a lock
read and write under its fence, some of them after another has got it; floors are raised step by step between all that,
up to the very present. When the schedule ends the network heals and three more things must hold: the replicas are
equal, no acknowledged weak write gave way to an older one, or to what nobody wrote, and no write was chosen over a
higher fence, whether that had been written or only read under. Then all is purged, every accept that was ever sent
arrives once more at every replica, and a last read must fit the history.

A world is one seed. It is broken on purpose by handing it a subclass with one rule missing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from cluster.protocol.acceptor import Acceptor, Decision
from cluster.protocol.changes import RENEW, Change, Merge, Put, Settle
from cluster.protocol.messages import Accept, Accepted, Answer, Held, Outcome, Prepare, Read, Refused, Request, Settled
from cluster.protocol.prepared import PreparedBallots
from cluster.protocol.proposer import Chosen, Proposer, Refuted, Uncertain
from cluster.protocol.quorum import Quorum, Verdict
from cluster.protocol.reader import Agreed, StrongRead
from cluster.protocol.steps import Answers, Ask, HandOver, Pause
from cluster.protocol.weak_write import Taken, WeakWrite
from cluster.repair.floors.criterion import holds_back
from cluster.replica.gates import Gates
from cluster.requests import ALWAYS, Condition, ConditionKind, Fence, Unavailable, Unknown, Written
from storage.ballot import NONE, SLOT_BITS
from storage.record import Record, ReplicaState
from tests.protocol.linearizable import EXPIRES, Call

REPLICAS, MAJORITY, ATTEMPTS = 3, 2, 4
KEY, LOCK = b"k", "lock"
WALLS_APART = 40  # the wall clocks, in deliveries of messages, which are the time of a world
DONE = object()


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
    deletes: float = 0.0  # share of the puts and weak writes that delete
    purges: float = 0.0  # chance per step that somebody begins to raise the floor
    restarts: float = 0.0  # chance per step that a node restarts
    expiring: float = 0.0  # share of the writes whose value expires
    fenced: float = 0.0  # share of the strong writes that bear a fence
    fenced_reads: float = 0.0  # share of the reads that do
    away: float = 0.0  # chance per message that another replica, or none, is cut off from then on
    begins_missed: bool = False  # begins with a fenced write that one replica has missed, and a weak one that none has


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
    compares_all: bool = True
    minds_what_is_kept_aside: bool = True
    records_the_floor: bool = True
    seals: bool = True
    settles_expiry: bool = True
    put: type[Put] = Put
    settle: type[Settle] = Settle
    keeps_fenced_tombstones: bool = True


class Replica:
    """One replica of the key, what it keeps aside, and its share in raising floors, as in cluster/replica."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.state = rules, ReplicaState()
        self.kept_aside: dict[int, Record] = {}
        self.under_way: set[int] = set()  # origins of the weak writes that this node coordinates
        self.floor = NONE
        self.gates = Gates()
        self.is_touched = False
        self.accepts: dict[tuple[int, int], Accept] = {}  # every one that ever came, by ballot and next ballot

    def handle(self, request: Request, acceptor: Acceptor | None = None) -> Answer:
        if isinstance(request, Read):
            return Held(self.state.record, False)
        assert isinstance(request, Prepare | Accept)
        decision = self._decide(request, acceptor or self.rules.acceptor)
        record = decision.state.record
        assert record is None or record.ballot >= record.origin, "a ballot is never below the origin it carries"
        if decision.state is not self.state:
            self.is_touched = True
            if isinstance(request, Accept):
                self.gates.note(0, request.record.ballot, "an accept")
        self.state = decision.state
        if decision.displaced is not None and self.rules.keeps_displaced:
            self.keep(decision.displaced)
        return decision.reply

    def _decide(self, request: Prepare | Accept, acceptor: Acceptor) -> Decision:
        if isinstance(request, Prepare):
            return acceptor.prepare(self.state, request)
        self.accepts[request.record.ballot, request.next_ballot] = request
        if (refusal := acceptor.sealed(self.state, request, self.gates.sealed(0))) is not None:
            return refusal
        return acceptor.accept(self.state, request)

    def keep(self, record: Record) -> None:
        """Keeps a weak record aside, and says so to a gate."""
        self.kept_aside[record.origin] = record
        if self.rules.minds_what_is_kept_aside:
            self.gates.note(0, record.origin, "a record kept aside")

    def is_clear(self, floor: int) -> bool:
        """Whether nothing as old as the floor is kept aside here or under way."""
        if not self.rules.minds_what_is_kept_aside:
            return True
        return min([*self.kept_aside, *self.under_way], default=floor + 1) > floor

    def raise_floor(self, floor: int) -> None:
        """What is absent here has this floor from now on."""
        if not self.rules.records_the_floor:
            return
        self.floor = max(floor, self.floor)
        if self.state.record is None:
            self.state = ReplicaState(max(self.state.promised, self.floor), None, self.floor)

    def restart(self) -> None:
        """What was in memory only is gone."""
        self.gates = Gates()
        self.under_way.clear()

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
        self.talks: list[Conversation] = []
        self.history: list[Call] = []
        self.acknowledged: list[int] = []  # origins of acknowledged weak writes
        self.purged = NONE  # the newest deletion of which some replica dropped the tombstone
        self.now = self.live = self.delivered = 0
        self.walls = [self.random.randrange(WALLS_APART) if options.expiring else 0 for _ in range(REPLICAS)]
        self.seen: tuple[str | None, int | None] = (None, None)  # value and version last read
        self.away: int | None = None  # whom no message reaches
        self.granted = 0  # the highest fence of the one lock
        self.fences_told: list[tuple[int, bool, int]] = []  # origin, whether it was only seen there, fence
        self.fence_of_write: dict[int, int] = {}  # of strong writes that may have been applied, by origin
        self.written: set[int] = set()  # origins of all writes that may have been applied
        self.settled: set[int] = set()  # origins that somebody was told to be on a majority

    def run(self) -> None:
        if self.options.begins_missed:
            self._begin_missed()
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
            if plan and self.options.purges and self.random.random() < self.options.purges:
                self._begin_raising()
            if self.options.restarts and self.random.random() < self.options.restarts:
                self._restart(self.random.randrange(REPLICAS))
            self._deliver(self.events.pop(self.random.randrange(len(self.events))))

    def _begin_missed(self) -> None:
        """One ballot with a fence on two replicas and without it on the third: what else takes many schedules."""
        self.granted = 2
        fenced, weak = self.tick(0), self.tick(1, above=self.clocks[0] << SLOT_BITS)
        first = Record(fenced, fenced, False, b"first", fences={LOCK: self.granted})
        missed = self.random.randrange(REPLICAS)
        for slot, replica in enumerate(self.replicas):
            if slot != missed:
                replica.handle(Accept(KEY, first, NONE))
            replica.handle(Accept(KEY, Record(weak, weak, True, b"second"), NONE))
        self.fences_told.append((fenced, False, self.granted))
        self.written |= {fenced, weak}
        self.history.append(Call("put", "first", None, 1, 2, "ok"))
        self.history.append(Call("weak", "second", None, 3))
        self.now = 3

    def _plan(self) -> list[tuple[str, str | None]]:
        plan: list[tuple[str, str | None]] = []
        for i in range(self.options.calls):
            weak = self.random.random() < self.options.weak
            kind = "weak" if weak else self.random.choices(("read", "put", "cas"), self.options.kinds)[0]
            deletes = self.options.deletes and kind in ("put", "weak") and self.random.random() < self.options.deletes
            expires = self.options.expiring and self.random.random() < self.options.expiring
            plan.append((kind, None if deletes else f"{kind}{i}{EXPIRES if expires else ''}"))
        return plan

    def wall(self, node: int) -> int:
        """What the wall clock of that node shows."""
        return self.walls[node] + self.delivered

    def _put(self, node: int, value: str | None, condition: Condition = ALWAYS) -> Put:
        """The change of a write that `node` coordinates, or hands over to another."""
        moment, now_ms = self._moment(node, value), self.wall(node)
        return self.rules.put(_bytes(value), "", condition, moment, now_ms, self._fence())

    def _fence(self) -> Fence | None:
        """That of a new holder, of the present one, or of one who does not know yet that it is none any more."""
        if not self.options.fenced or self.random.random() >= self.options.fenced:
            return None
        return self._some_fence()

    def _readers_fence(self) -> Fence | None:
        """The same for a read."""
        if not self.options.fenced_reads or self.random.random() >= self.options.fenced_reads:
            return None
        return self._some_fence()

    def _some_fence(self) -> Fence:
        if not self.granted or self.random.random() < 0.4:
            self.granted += 1
            return Fence(LOCK, self.granted)
        return Fence(LOCK, self.random.randint(1, self.granted))

    def _moment(self, node: int, value: str | None) -> int:
        """When the value expires."""
        is_expiring = value is not None and value.endswith(EXPIRES)
        return self.wall(node) + self.random.randint(1, 2 * WALLS_APART) if is_expiring else 0

    def tick(self, node: int, above: int = NONE) -> int:
        step = self.random.randint(1, self.options.stride) if self.options.stride > 1 else 1
        self.clocks[node] = max(self.clocks[node], above >> SLOT_BITS) + step
        return (self.clocks[node] << SLOT_BITS) | node

    # -- calls -------------------------------------------------------------------------------------------------

    def _begin(self, kind: str, value: str | None) -> None:
        self.now += 1
        self.live += 1
        node = self.random.randrange(REPLICAS)
        expected, version = self.seen
        call = Call(kind, value, expected, self.now)
        self.history.append(call)
        asked = self.random.randrange(REPLICAS) if self.options.expiring else node
        steps = {
            "read": lambda: self._read(node, self._readers_fence()),
            "put": lambda: self._change(node, self._put(asked, value)),
            "weak": lambda: self._weak(node, value),
            "cas": lambda: self._change(node, self._put(asked, value, _over(version))),
        }[kind]()
        self._advance(Conversation(node, steps, call), None)

    def _change(self, node: int, change: Change) -> Generator[Any, Any, tuple[str, Any]]:
        """Ends in ok, conflict, fail (surely not applied) or unknown."""
        proposer = self.rules.proposer(
            KEY,
            change,
            majority=MAJORITY,
            tick=lambda above: self.tick(node, above),
            prepared=self.prepared[node],
            now_ms=lambda: self.wall(node),
            clock_offset_max_ms=WALLS_APART,
        )
        try:
            end = yield from self._attempts(proposer.run(), node)
        finally:  # at its end, or when its node dies
            if proposer.sent is not None:
                self.written.add(proposer.sent)
                if isinstance(change, Put) and change.fence is not None:
                    self.fence_of_write[proposer.sent] = change.fence.number
        if isinstance(end, Chosen | Refuted) and end.record is not None:
            self.settled.add(end.record.origin)
        if isinstance(change, Put) and change.fence is not None and isinstance(end, Chosen | Refuted):
            self._note_fence(change, change.fence.number, end)
        if isinstance(end, Chosen):
            return "ok", end.record
        if isinstance(end, Refuted):
            return "conflict", end.record
        if isinstance(end, Uncertain):
            return "unknown", None
        return ("fail" if proposer.sent is None else "unknown"), None

    def _note_fence(self, change: Put, number: int, end: Chosen | Refuted) -> None:
        if isinstance(end, Chosen):
            self.fences_told.append((end.record.origin, False, number))
        elif end.record is not None and (seen := change.highest_seen(end.record)) > number:
            self.fences_told.append((end.record.origin, True, seen))

    def keeps_fences(self) -> bool:
        """Whether no write was chosen over a higher fence that was acknowledged or told, and none is lost in the end.

        An origin only grows along the history of a key: what was refused was refused at the write it met, and what a
        reader saw under its fence was there before all that comes after.
        """
        ends = {replica.state.record.origin for replica in self.replicas if replica.state.record is not None}
        chosen = [(origin, False, self.fence_of_write.get(origin, 0)) for origin in self.settled | ends]
        highest = 0
        for _, is_only_seen, number in sorted(self.fences_told + [entry for entry in chosen if entry[2]]):
            if number < highest and not is_only_seen:
                return False
            highest = max(highest, number)
        return all(_fence_of(replica.state.record) >= highest for replica in self.replicas)

    def _read_fenced(self, node: int, fence: Fence) -> Generator[Any, Any, tuple[str, Any]]:
        """Some node settles it for the reader, with its fence; a reader that is refused has read nothing."""
        change = self.rules.settle(now_ms=self.wall(node), fence=fence)
        outcome, record = yield from self._change(self.random.randrange(REPLICAS), change)
        if outcome != "conflict":
            return "fail", None
        refusal = change.conflict(record, ())
        if refusal is not None and refusal.fence is not None:
            self.fences_told.append((record.origin, True, refusal.fence))
            return "fail", None
        self.fences_told.append((_origin(record), True, fence.number))
        self._saw(record)
        return "ok", record

    def _read(self, node: int, fence: Fence | None = None) -> Generator[Any, Any, tuple[str, Any]]:
        if fence is not None:
            return (yield from self._read_fenced(node, fence))
        others = [slot for slot in range(REPLICAS) if slot != node]
        first = (node, self.random.choice(others))
        read = self.rules.strong_read(KEY, majority=MAJORITY, needed=MAJORITY, first=first)
        end = yield from self._attempts(read.run(), node)
        if end is None:
            return "fail", None
        record = end.record if isinstance(end, Agreed) else None
        is_expired = record is not None and record.is_expired(self.wall(node))
        if not isinstance(end, Agreed) or (is_expired and self.rules.settles_expiry):
            primary = self.random.randrange(REPLICAS) if is_expired else node
            outcome, record = yield from self._change(primary, Settle(now_ms=self.wall(node)))
            if outcome != "conflict":
                return "fail", None
        elif is_expired:
            record = None
        self.settled.add(_origin(record))
        self._saw(record)
        return "ok", record

    def _saw(self, record: Record | None) -> None:
        is_there = record is not None and record.value is not None
        self.seen = (record.value.decode(), record.origin) if is_there else (None, None)

    def _weak(self, node: int, value: str | None) -> Generator[Any, Any, tuple[str, Any]]:
        ballot = self.tick(node)
        record = Record(ballot, ballot, True, _bytes(value), expires_at_ms=self._moment(node, value))
        under_way = self.replicas[node].under_way
        under_way.add(ballot)
        self.written.add(ballot)
        needed = self.random.choice((1, 1, 2, 3))
        write = self.rules.weak_write(
            KEY, record, needed=needed, majority=MAJORITY, replicas=REPLICAS, name_of=lambda slot: f"n{slot}"
        )
        try:
            end = yield from self._attempts(write.run(), node)
            if write.must_be_kept and not isinstance(end, Taken):
                self.replicas[node].keep(record)
        finally:  # at its end, or when its node dies
            under_way.discard(ballot)
        if isinstance(end, Taken):
            self.acknowledged.append(ballot)
        elif write.must_be_kept:
            pass
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

    # -- deleting for good ---------------------------------------------------------------------------------------

    def _begin_raising(self) -> None:
        """Somebody raises the floor, slowly or fast; mostly after anti-entropy has passed over the key."""
        if self.random.random() < 0.7:
            newest = max((replica.state.record for replica in self.replicas), key=_ballot)
            for replica in self.replicas if newest is not None else ():
                replica.relay(newest)
        raising = self._raise_floor(self.random.randrange(REPLICAS), self.options.loss / 2)
        self.events.append(("purger", raising, self.random.choice((0.0, 0.5, 0.9, 1.0))))

    def _raise_floor(self, node: int, loss: float, floor: int = NONE) -> Generator[None, None, None]:
        """Raises the floor to some moment near the present, one message to one replica at a time.

        Whatever is lost before the last step ends it; so does the death of this node, here and there.
        """
        floor = floor or self._some_floor(node)
        order = self.random.sample(range(REPLICAS), REPLICAS)
        for slot in order:
            yield
            if self.random.random() < loss or not self._gate(slot, floor):
                return
        for slot in order if self.rules.compares_all else order[:-1]:
            own = self.replicas[node].state.record
            yield
            its = self.replicas[slot].state.record
            if self.random.random() < loss or (_differ(own, its) and holds_back([own, its], floor)):
                return
        for slot in order:
            yield
            if self.random.random() < loss or not self._confirm(slot, floor):
                return
        for slot in order:
            yield
            if self.random.random() >= loss:
                yield from self._purge(self.replicas[slot], floor)

    def _some_floor(self, node: int) -> int:
        latest = max(self.clocks)
        return (max(1, latest - self.random.randrange(12)) << SLOT_BITS) | node

    def _gate(self, slot: int, floor: int) -> bool:
        member = self.replicas[slot]
        self.clocks[slot] = max(self.clocks[slot], floor >> SLOT_BITS)
        member.gates.put_up(0, floor, 0.0)
        return member.is_clear(floor)

    def _confirm(self, slot: int, floor: int) -> bool:
        member = self.replicas[slot]
        if member.gates.why_not(0, floor) is not None or not member.is_clear(floor):
            return False
        if self.rules.seals:
            member.gates.seal(0, floor)
        return True

    def _purge(self, replica: Replica, floor: int) -> Generator[None, None, None]:
        """As Replica.purge: the floor first, then the rows that nobody has touched meanwhile."""
        if self.rules.seals and not replica.gates.may_purge(0, floor):
            return
        replica.is_touched = False
        gates, state = replica.gates, replica.state
        replica.raise_floor(floor)
        yield
        if replica.gates is not gates:
            return  # it has restarted
        record = state.record
        is_gone = record is None or record.value is None or record.is_expired(min(self.walls) + self.delivered)
        is_fenced = _fence_of(record) > 0 and self.rules.keeps_fenced_tombstones
        is_purgeable = max(state.promised, state.ballot) <= floor and is_gone and not is_fenced
        if is_purgeable and not replica.is_touched:
            self.purged = max(self.purged, NONE if record is None else record.origin)
            replica.state = ReplicaState()
            replica.raise_floor(floor)
        replica.gates.purged(0, floor)

    def _restart(self, slot: int) -> None:
        for talk in self.talks:
            if talk.node == slot and not talk.is_over:
                self._die(talk)
        self.replicas[slot].restart()
        self.prepared[slot].clear()

    # -- the network -------------------------------------------------------------------------------------------

    def _advance(self, talk: Conversation, answers: Answers | None) -> None:
        if answers is None:
            self.talks.append(talk)
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
        self.delivered += 1
        kind, *rest = event
        if self.options.away and self.random.random() < self.options.away:
            self.away = self.random.choice((None, *range(REPLICAS)))
        if kind in ("relay", "duplicate") and rest[0] == self.away:
            return
        if kind == "request" and rest[2] == self.away:
            self.events.append(("answer", *rest[:3], None))
            return
        if kind == "relay":
            self.replicas[rest[0]].relay(rest[1])
        elif kind == "purger":
            if self.random.random() < self.options.crash / 2:
                return
            raising, haste = rest
            while next(raising, DONE) is not DONE:
                if self.random.random() >= haste:
                    self.events.append(event)
                    break
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
            self._die(talk)
        else:
            self._advance(talk, talk.answers)

    def _die(self, talk: Conversation) -> None:
        """Its coordinator died: its client never learns."""
        talk.is_over = True
        talk.steps.close()
        self.live -= 1

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
        origin = records[0].origin if records[0] is not None else self.purged
        written = origin if origin in self.written else self.purged  # what nobody wrote takes no write away
        return (
            all(record == records[0] for record in records)
            and all(acked <= written for acked in self.acknowledged)
            and self.purged <= origin
        )

    def stays_deleted(self) -> bool:
        """Purges all and lets every accept come again; whether the replicas are still as they must be.

        A write of unknown outcome may take effect now. The reads before and after are part of the history.
        """
        floor = (max(self.clocks) + 1) << SLOT_BITS
        for replica in self.replicas:
            replica.restart()
            replica.kept_aside.clear()  # it is merged
        self._read_at_the_end()
        for _ in self._raise_floor(0, 0.0, floor):
            pass
        accepts = [accept for replica in self.replicas for accept in replica.accepts.values()]
        for accept in self.random.sample(accepts, len(accepts)):
            for replica in self.replicas:
                replica.handle(accept)
        is_equal = self.converges()
        self._read_at_the_end()
        return is_equal

    def _read_at_the_end(self) -> None:
        """A read of its own, after all others, and part of the history."""
        self.now += 1
        call = Call("read", "", None, self.now)
        self.history.append(call)
        outcome, record = self._alone(self._read(0))
        self.now += 1
        call.outcome, call.end = outcome, self.now
        call.seen = record.value.decode() if record is not None and record.value is not None else None

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


def _over(version: int | None) -> Condition:
    return Condition(ConditionKind.IF_ABSENT) if version is None else Condition(ConditionKind.IF_VERSION, version)


def _bytes(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _differ(one: Record | None, other: Record | None) -> bool:
    return _ballot(one) != _ballot(other) or _fence_of(one) != _fence_of(other)


def _fence_of(record: Record | None) -> int:
    return (record.fences or {}).get(LOCK, 0) if record is not None else 0


def _ballot(record: Record | None) -> int:
    return record.ballot if record is not None else NONE


def _origin(record: Record | None) -> int:
    return record.origin if record is not None else NONE
