"""The replica: applies the acceptor's decisions to memory and disk, in this order and no other.

A request is decided at once, in memory, on the event loop. What changed goes into the group commit; the reply leaves
after that commit, and so does the reply to every later request that was shown the change: a value that is in memory
and not yet on disk was never there if the power goes. A key that is not in memory is loaded first, many at a time,
and requests for it wait in the order they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import structlog

from cluster.ballot_clock import BallotClock
from cluster.membership.fitness import Fitness
from cluster.protocol.acceptor import Acceptor, Decision
from cluster.protocol.messages import (
    UNSEEN,
    Accept,
    Accepted,
    Glance,
    Glimpsed,
    Held,
    Prepare,
    PrepareMany,
    PromisedMany,
    Read,
    ReplicaRequest,
    Reply,
    Scan,
    Scanned,
    Taken,
    Unfit,
    Volley,
)
from cluster.protocol.proposer import is_plain_promise
from cluster.repair.hash_trees import HashTrees, digest, digest_of_record
from cluster.replica.gates import Gates
from cluster.replica.marks import PartitionMarks
from cluster.replica.record_cache import Entry, RecordCache
from cluster.tasks import Tasks, safely
from storage.ballot import NONE
from storage.engine import Damaged, Engine, StorageError
from storage.group_commit import GroupCommit
from storage.keyspace import hash_of
from storage.record import Record, ReplicaState

Respond = Callable[[int, Reply], None]
"""Called once per request with the token it came with and the reply."""

LOADING_KEYS_MAX = 20_000
"""Keys that wait to be read from disk; beyond it a request is refused rather than queued in memory."""
LEAF_ATTEMPTS, LEAF_ROWS = 20, 1_000
SCAN_VALUE_BYTES_MAX = 4 * 1024 * 1024
"""Values in one page of a scan, so that a page fits a frame."""

PURGE_KEYS = 500
"""Rows that go in one transaction: few enough that a write behind it does not notice."""

_NOTHING = ReplicaState()
log = structlog.get_logger()


class Replica:
    """One node's share of the data."""

    def __init__(
        self,
        engine: Engine,
        commits: GroupCommit,
        clock: BallotClock,
        tasks: Tasks,
        *,
        cache_bytes_max: int,
        trees: HashTrees,
        marks: PartitionMarks,
        fitness: Fitness,
        on_kept_aside: Callable[[bytes, Record], None],
        acceptor: Acceptor | None = None,
    ) -> None:
        """on_kept_aside(key, record) is told, after it is on disk, of each weak record that was pushed out."""
        self._trees, self._marks, self._fitness = trees, marks, fitness
        self._engine, self._commits, self._clock, self._tasks = engine, commits, clock, tasks
        self._acceptor = acceptor or Acceptor()
        self._cache = RecordCache(cache_bytes_max)
        self._on_kept_aside = on_kept_aside
        self.gates = Gates()
        """Where floors are being raised just now."""
        self._purging: dict[int, set[bytes]] = {}
        """Partition -> keys that changed since its purge began."""
        self._marks_ticket = 0
        self._loading: dict[bytes, list[tuple[ReplicaRequest, Respond, int]]] = {}
        self._to_load: list[bytes] = []
        self._outdated: set[bytes] = set()
        """Keys that were restored or forgotten while they were read from disk: what is read of them is no longer so."""
        self.damaged: dict[bytes, str] = {}
        """Keys whose checksum did not match: they take part in nothing."""
        self._made_whole = 0
        """How many of them became sound again since the start."""

    def handle(self, request: ReplicaRequest, respond: Respond, token: int) -> None:
        """Decides the request; respond(token, reply) follows when what the reply shows is on disk."""
        if self._fitness.bars:
            reason = self._fitness.why_not(self._trees.partition_of(request.key), type(request) is Read)
            if reason is not None:
                respond(token, Unfit(reason))
                return
        entry = self._cache.get(request.key)
        if entry is None:
            self._load(request, respond, token)
        elif type(request) is Read:
            self._reply(entry.ticket, respond, token, _held(entry.state.record, request.value))
        else:
            reply = self._decide(request, entry)  # type: ignore[arg-type]
            self._reply(entry.ticket, respond, token, reply)

    def handle_volley(self, volley: Volley, respond: Respond, token: int) -> None:
        """Decides each of the accepts; one reply follows when all that was granted is on disk.

        What can't be granted at once, for whatever reason, is left out. What is only not in memory is loaded and
        decided all the same, so that this replica has it although nobody may ask for it again.
        """
        last = highest = 0
        left: list[int] = []
        unpromised: list[int] = []
        bars, partition_of, get = self._fitness.bars, self._trees.partition_of, self._cache.get
        credible_max, decide = self._clock.credible_max, self._how_accepts_are_decided()
        for place, accept in enumerate(volley.accepts):
            key, ballot = accept.key, max(accept.record.ballot, accept.next_ballot)
            entry = get(key)
            if entry is None:
                left.append(place)
                self.handle(accept, _told_nobody, 0)
                continue
            if ballot >= credible_max or (bars and self._fitness.why_not(partition_of(key), reads=False) is not None):
                left.append(place)
                continue
            highest = max(highest, ballot)
            state = entry.state
            decision = decide(state, accept)
            if decision.state is not state:
                self._write(key, entry, state.record, decision)
            reply = decision.reply
            if type(reply) is Accepted:
                last = max(last, entry.ticket)
                if not reply.promised_next:
                    unpromised.append(place)
            else:
                left.append(place)
        self._clock.absorb(highest)
        self._reply(last, respond, token, Taken(left, unpromised))

    def handle_prepares(self, many: PrepareMany, respond: Respond, token: int) -> None:
        """Decides each of the prepares, once its key is in memory; one reply follows when all have been answered."""
        left: list[int] = []
        outstanding = len(many.prepares)

        def replied(place: int, reply: Reply) -> None:
            nonlocal outstanding
            outstanding -= 1
            if not is_plain_promise(reply):
                left.append(place)
            if not outstanding:
                respond(token, PromisedMany(left))

        for place, prepare in enumerate(many.prepares):
            self.handle(prepare, replied, place)
        if not many.prepares:
            respond(token, PromisedMany(left))

    def _how_accepts_are_decided(self) -> Callable[[ReplicaState, Accept], Decision]:
        return self._accept_gated if self.gates.are_any else self._acceptor.accept

    def glimpse(self, key: bytes) -> ReplicaState | None:
        """The key's state if this replica can vouch for it at once: it takes part, and what it holds is on disk."""
        if self._fitness.bars:
            return None
        return self.peek_committed(key)

    def handle_glance(self, glance: Glance, respond: Respond, token: int) -> None:
        """Tells the ballots of what it can vouch for at once."""
        states = map(self.glimpse, glance.keys)
        respond(token, Glimpsed([UNSEEN if state is None else state.ballot for state in states]))

    def peek(self, key: bytes) -> ReplicaState | None:
        """The state in memory, committed or not; None when it is not in memory."""
        entry = self._cache.get(key)
        return entry.state if entry is not None else None

    def peek_committed(self, key: bytes) -> ReplicaState | None:
        """The state in memory if it is on disk too: what a read may show without waiting."""
        entry = self._cache.get(key)
        return entry.state if entry is not None and entry.ticket <= self._commits.committed else None

    def _decide(self, request: Prepare | Accept, entry: Entry) -> Reply:
        """The reply, which may be sent after the commit of the entry's ticket."""
        state = entry.state
        highest = max(request.record.ballot, request.next_ballot) if type(request) is Accept else request.ballot  # type: ignore[union-attr]
        if highest >= self._clock.credible_max:
            return Unfit("a ballot lies more than a year ahead; the clock of its node is wrong")
        self._clock.absorb(highest)
        if type(request) is Accept:
            decision = self._how_accepts_are_decided()(state, request)
        else:
            assert type(request) is Prepare
            decision = self._acceptor.prepare(state, request)
        if decision.state is not state:
            self._write(request.key, entry, state.record, decision)
        return decision.reply

    def _accept_gated(self, state: ReplicaState, request: Accept) -> Decision:
        """An accept while a floor is being raised somewhere: what is as old is refused, or is the end of that."""
        partition, ballot = self._trees.partition_of(request.key), request.record.ballot
        refusal = self._acceptor.sealed(state, request, self.gates.sealed(partition))
        if refusal is not None:
            return refusal
        decision = self._acceptor.accept(state, request)
        if decision.state.record is not state.record:
            self.gates.note(partition, ballot, "a write as old as the floor came late")
        return decision

    def _write(self, key: bytes, entry: Entry | None, before: Record | None, decision: Decision) -> int:
        """Puts what was decided into memory and into the next commit; the ticket of that. The hash tree follows the
        record: its ballot, and its fences, which may change under the same ballot.

        entry: what the cache has just given of the key, where it is there and shows the record `before`.
        """
        if self._purging:
            self._purging.get(self._trees.partition_of(key), set()).add(key)
        state = decision.state
        ticket = self._commits.put(key, state)
        digest = None if entry is None else entry.digest
        if state.record is not before:
            was = digest if digest is not None else digest_of_record(key, before)
            digest = digest_of_record(key, state.record)
            if digest != was:
                place = hash_of(key) if entry is None else entry.place
                self._commits.set_leaf(*self._trees.exchange(place, was, digest))
        if entry is None:
            self._cache.put(key, state, ticket)
            self._cache.shrink(self._commits.committed)
        elif self._cache.replace(key, entry, state, ticket, digest):
            self._cache.shrink(self._commits.committed)
        if decision.displaced is not None:
            ticket = self._commits.keep(key, decision.displaced)
            self._commits.when(ticket, partial(self._on_kept_aside, key, decision.displaced))
        return ticket

    def _gone(self, key: bytes, record: Record) -> None:
        """The hash tree follows: a record is dropped, and nothing takes its place."""
        self._commits.set_leaf(*self._trees.exchange(hash_of(key), digest_of_record(key, record), 0))

    def _reply(self, ticket: int, respond: Respond, token: int, reply: Reply) -> None:
        if ticket <= self._commits.committed:
            respond(token, reply)
        else:
            self._commits.when(ticket, partial(respond, token, reply))

    # -- what is not in memory ---------------------------------------------------------------------------------

    def _load(self, request: ReplicaRequest, respond: Respond, token: int) -> None:
        key = request.key
        if key in self.damaged:
            respond(token, Unfit(self.damaged[key]))
        elif key in self._loading:
            self._loading[key].append((request, respond, token))
        elif len(self._loading) >= LOADING_KEYS_MAX:
            respond(token, Unfit("too many keys wait to be read from disk"))
        else:
            self._loading[key] = [(request, respond, token)]
            self._to_load.append(key)
            if len(self._to_load) == 1:
                self._tasks.spawn(self._load_all(), "load records")

    async def _load_all(self) -> None:
        """Loads what was asked for since; what is asked for meanwhile makes the next load."""
        keys, self._to_load = self._to_load, []
        loaded: dict[bytes, ReplicaState | Damaged] = {}
        try:
            loaded = await self._engine.load(keys)
        except StorageError as error:
            log.error("records can't be read", keys=len(keys), error=str(error))
        finally:
            for key in keys:
                safely(self._loaded, key, loaded.get(key))
            self._cache.shrink(self._commits.committed)

    def _loaded(self, key: bytes, found: ReplicaState | Damaged | None) -> None:
        """A key's state is here, or it is clear that it can't be had: those who wait are answered."""
        waiting = self._loading.pop(key)
        if key in self._outdated:
            self._outdated.discard(key)
            for request, respond, token in waiting:
                safely(self.handle, request, respond, token)
            return
        if isinstance(found, ReplicaState) and key not in self.damaged:  # a scrub may have found more than the load
            marked = self._marks.put_on(key, found)
            self._cache.put(key, marked, 0 if marked is found else self._marks_ticket)
            for request, respond, token in waiting:
                safely(self.handle, request, respond, token)
            return
        if not isinstance(found, ReplicaState):
            self._exclude(key, found)
        for _, respond, token in waiting:
            safely(respond, token, Unfit(self.damaged.get(key, "the disk could not be read")))

    # -- what was forgotten and is learned anew ------------------------------------------------------------------

    async def restore(self, found: Mapping[bytes, Record | None], promised: int) -> int:
        """Puts in what rounds without this replica settled, past its bar; the ticket of the commit that holds it.

        The keys take part in nothing at this time: their partition is recovering, or they are damaged. `promised` is
        above all that this replica can have promised for them. None: nobody else holds the key.
        """
        # Held on to: with little memory an entry may leave it while the others are loaded and written.
        entries = {key: self._cache.get(key) for key in found}
        missing = [key for key, entry in entries.items() if entry is None]
        loaded = await self._engine.load(missing) if missing else {}
        ticket = self._commits.committed
        for key, record in found.items():
            entry = self._cache.get(key) or entries[key]
            state = entry.state if entry is not None else loaded[key]
            self.gates.void(self._trees.partition_of(key))
            is_damaged = isinstance(state, Damaged) or key in self.damaged
            if isinstance(state, Damaged):
                state = _NOTHING  # a row that was only lost, behind an index that had rotted, is true
            decision = self._acceptor.restore(self._marks.put_on(key, state), record, promised)
            self._outdate(key)
            ticket = self._write(key, None, state.record, decision)
            if is_damaged:
                self._commits.when(ticket, partial(self._restored, key))
        return ticket

    def _outdate(self, key: bytes) -> None:
        if key in self._loading:
            self._outdated.add(key)

    def _restored(self, key: bytes) -> None:
        """A damaged key is sound again; what its lost row was in the hash tree is not known."""
        self.damaged.pop(key, None)
        self._made_whole += 1
        self._tasks.spawn(self.rebuild_leaf(self._trees.leaf_of(key)), "rebuild a leaf")

    async def forget(self, keys: Iterable[bytes]) -> None:
        """Drops what the floor of its partition covers and nobody else holds. The partition is recovering."""
        for key, state in (await self._engine.load(list(keys))).items():
            if not isinstance(state, Damaged):
                self._outdate(key)
                self._cache.remove(key)
                self._commits.drop(key)
                if state.record is not None:
                    self._gone(key, state.record)

    def exclude(self, key: bytes, reason: str) -> None:
        """From now on this replica takes no part for the key: what it holds of it is damaged."""
        self._cache.remove(key)
        self.damaged[key] = reason

    def is_being_written(self, key: bytes) -> bool:
        """Whether a commit under way writes the key anew."""
        entry = self._cache.get(key)
        return entry is not None and entry.ticket > self._commits.committed

    async def rebuild_leaf(self, leaf: int) -> None:
        """Sums up a leaf of the hash trees anew from its rows: what was in it of a damaged row can't be known.

        Gives up when the leaf changes all the time; anti-entropy then finds nothing in it that differs, and the next
        damaged row of it, or start, tries again.
        """
        first, behind = self._trees.places(leaf)
        for _ in range(LEAF_ATTEMPTS):
            before = self._trees.sum_of(leaf)
            await self._commits.wait(self._commits.ticket)
            total, after, complete = 0, None, False
            while not complete:
                page = await self._engine.rows(first, behind, after, LEAF_ROWS)
                total += sum(digest(row.key, row.ballot, row.fences) for row in page.rows if row.ballot != NONE)
                complete = page.complete or not page.rows
                after = None if complete else (hash_of(page.rows[-1].key), page.rows[-1].key)
            if self._trees.sum_of(leaf) == before:
                await self._commits.wait(self._commits.mend_leaf(*self._trees.set_sum(leaf, total)))
                return

    # -- what holds for a whole partition ------------------------------------------------------------------------

    def raise_promise(self, partition: int, ballot: int) -> int:
        """Promises this ballot for every key of the partition; the ticket of the commit after which it holds."""
        self._clock.absorb(ballot)
        ticket = self._commits.set_fact(*self._marks.raise_promise(partition, ballot))
        self._mark_cached(partition, ticket)
        return ticket

    def raise_floor(self, partition: int, floor: int) -> int:
        """From now on what is absent here has this floor; the ticket of the commit after which it holds.

        Nothing goes by it: a tombstone that is here says more than a floor does.
        """
        ticket = self._commits.set_fact(*self._marks.raise_floor(partition, floor))
        self._mark_cached(partition, ticket, absent_only=True)
        return ticket

    async def purge(self, partition: int, floor: int, expired_before_ms: int) -> tuple[int, int]:
        """Raises the floor of a partition: what it covers goes, and stays gone.

        The floor is on disk before the first row goes. A row that is in use at this moment stays
        for the next time. Gives how many went, and the ticket of the last commit, which is durable.
        """
        if partition in self._purging:
            return 0, self._commits.committed
        touched = self._purging[partition] = set()
        try:
            await self._commits.wait(self._commits.ticket)  # what changed before is read; what changes now is touched
            first, behind = self._trees.places_of(partition)
            keys = await self._engine.purgeable(first, behind, floor, expired_before_ms)
            ticket, gone = self.raise_floor(partition, floor), 0
            await self._commits.wait(ticket)
            for start in range(0, len(keys), PURGE_KEYS):
                some = await self._engine.load(keys[start : start + PURGE_KEYS])
                dropped = [key for key, found in some.items() if self._is_droppable(key, found, floor, touched)]
                states = {key: self._drop(key, some[key]) for key in dropped}
                ticket = self._commits.ticket
                await self._commits.wait(ticket)
                self._forget_absent(states)
                gone += len(dropped)
            return gone, ticket
        finally:
            del self._purging[partition]

    def _is_droppable(self, key: bytes, found: ReplicaState | Damaged, floor: int, touched: set[bytes]) -> bool:
        """Whether what was read of the key is still all there is of it, and nobody needs it any more."""
        if isinstance(found, Damaged) or key in touched or key in self._loading or key in self.damaged:
            return False
        if found.record is not None and found.record.fences:
            return False  # a fence outlives its key: see Record.fences
        entry = self._cache.get(key)
        return max(found.promised, found.ballot) <= floor and (
            entry is None or (entry.ticket <= self._commits.committed and entry.state.promised <= floor)
        )

    def _drop(self, key: bytes, found: ReplicaState | Damaged) -> ReplicaState:
        """The row goes with the next commit. Until then memory says what the disk does not say yet."""
        assert isinstance(found, ReplicaState)
        absent = self._marks.put_on(key, _NOTHING)
        self._cache.put(key, absent, self._commits.drop(key))
        if found.record is not None:
            self._gone(key, found.record)
        return absent

    def _forget_absent(self, states: Mapping[bytes, ReplicaState]) -> None:
        """What the disk says now, too, need not be in memory."""
        for key, absent in states.items():
            entry = self._cache.get(key)
            if entry is not None and entry.state is absent:
                self._cache.remove(key)

    def _mark_cached(self, partition: int, ticket: int, *, absent_only: bool = False) -> None:
        """Puts the partition's marks on what is in memory of it, and soon on what is loaded."""
        self._marks_ticket = ticket
        for key, entry in self._cache.entries():
            if absent_only and entry.state.record is not None:
                continue  # before its place is worked out: most of them are of other partitions, too
            if self._trees.partition_of(key) == partition:
                marked = self._marks.put_on(key, entry.state)
                if marked is not entry.state:
                    entry.state, entry.ticket = marked, ticket

    def _exclude(self, key: bytes, found: Damaged | None) -> None:
        if found is not None:
            self.damaged[key] = found.reason
            log.error("a record is damaged; this replica takes no part for its key", key=repr(key), reason=found.reason)

    async def scan(self, request: Scan) -> Reply:
        """A page of this replica's committed records; none where a record in its range takes part in nothing, for its
        row may be gone, and it must not look absent."""
        try:
            while True:
                whole_before = self._made_whole
                page = await self._engine.scan(
                    request.prefix, request.after, request.limit, request.values, SCAN_VALUE_BYTES_MAX
                )
                if self._made_whole == whole_before:
                    break  # else one may have been read without its row that is out of quarantine by now
        except StorageError as error:
            log.error("a listing met a damaged record", prefix=repr(request.prefix), error=str(error))
            return Unfit(str(error))
        last = None if page.complete or not page.entries else page.entries[-1].key
        for key, reason in self.damaged.items():
            if key.startswith(request.prefix) and key > (request.after or b"") and (last is None or key <= last):
                return Unfit(reason)
        return Scanned(page.entries, page.complete)

    def keep_aside(self, key: bytes, record: Record, kept: Callable[[], None]) -> None:
        """Keeps a weak write on disk that could not be brought in; calls back when it is there."""
        ticket = self._commits.keep(key, record)
        self._commits.when(ticket, partial(self._on_kept_aside, key, record))
        self._commits.when(ticket, kept)

    @property
    def cached_keys(self) -> int:
        """Keys in memory."""
        return len(self._cache)

    @property
    def cached_bytes(self) -> int:
        """Estimated memory of the keys in memory."""
        return self._cache.size_bytes


def _told_nobody(token: int, reply: Reply) -> None:
    """Whoever asked has been answered."""


def _held(record: Record | None, value: bool) -> Held:
    if value or record is None or record.value is None:
        return Held(record, False)
    return Held(record.without_value(), True)
