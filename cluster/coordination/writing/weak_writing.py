"""Weak and eventual writes on their way, and the hints that they leave behind.

    enough replicas have it ............... written; home replicas that seem dead are left a hint, on disk before the
                                            answer
    an eventual write for one copy that
      no home replica can be asked ........ kept as a sole hint: written
      none has acknowledged for a while ... the same; what was sent may still arrive, under the same ballot
      all refused, and can't merge now .... kept aside, and merged back: written
    any other that falls short ............ unknown, and kept aside where it was refused; or not applied

A hint never counts as one of several copies that were asked for.

Where all home replicas seem alive and nothing is seen to stand in its way, it goes in a volley (volley.py) with the
others of its turn; what is not taken at once begins its conversation with that very accept.
"""

from __future__ import annotations

from collections.abc import Callable

from cluster.coordination.drive import Context, Drive
from cluster.coordination.writing.shared_round import Votes
from cluster.coordination.writing.volley import HedgingRound, Volleys
from cluster.levels import Level
from cluster.membership.placement import partition_of
from cluster.membership.topology import Topology
from cluster.protocol.messages import Accept
from cluster.protocol.weak_write import Outrun, Stuck, Taken, WeakWrite
from cluster.repair.hints import Hints, KeepAside
from cluster.replica.replica import Replica
from cluster.requests import Unavailable, Unknown, WriteOutcome, WriteRequest, Written
from cluster.tasks import safely
from storage.ballot import NONE
from storage.record import Record

HINT_AFTER_S = 1.0
"""How long an eventual write waits for a home replica before it is kept as a hint; half its timeout if that is
shorter. Far above a healthy answer."""
FULL = (
    "no home replica of the key answers, and what this node keeps for absent replicas already fills hints_bytes_max. "
    "Wait until nodes return, or give it more room"
)


class WeakWriter:
    """The weak and eventual writes of one node."""

    def __init__(
        self,
        context: Context,
        replica: Replica,
        topology: Callable[[], Topology],
        own_slot: int,
        *,
        hints: Hints,
        keep_aside: KeepAside,
        clock_offset_max_s: float,
    ) -> None:
        self._context, self._replica, self._topology, self._own_slot = context, replica, topology, own_slot
        self._hints, self._keep_aside, self._clock_offset_max_s = hints, keep_aside, clock_offset_max_s
        self._under_way: dict[int, bytes] = {}
        self._volleys = Volleys(context, HedgingRound)

    def begin(self, request: WriteRequest, deadline_s: float, on_outcome: Callable[[WriteOutcome], None]) -> None:
        """Writes; on_outcome follows exactly once, by the deadline."""
        topology = self._topology()
        alive = self._context.roster.writable(topology.replicas_of(request.key))
        is_hintable = request.level is Level.EVENTUAL and request.needed == 1
        if len(alive) < request.needed and not is_hintable:
            on_outcome(Unavailable(request.needed, len(alive), topology.names(alive)))
            return
        writing = _WeakWriting(self, topology, request, is_hintable, deadline_s, on_outcome)
        if len(alive) == topology.n and writing.may_go_straight:
            self._volleys.add(_Shot(writing, request.key, topology, request.needed, writing.decided_s))
        else:
            writing.start(bool(alive))

    def oldest(self, partition: int) -> int | None:
        """The lowest origin of the writes of this partition that are under way; None when there is none."""
        partitions = self._topology().partitions
        origins = (origin for origin, key in self._under_way.items() if partition_of(key, partitions) == partition)
        return min(origins, default=None)


class _Shot:
    """One of them in a volley."""

    __slots__ = ("_writing", "deadline_s", "key", "quorum", "topology")

    def __init__(self, writing: _WeakWriting, key: bytes, topology: Topology, quorum: int, deadline_s: float) -> None:
        self._writing, self.key, self.topology, self.quorum, self.deadline_s = (
            writing,
            key,
            topology,
            quorum,
            deadline_s,
        )

    def too_few(self, alive: list[int]) -> bool:
        """Its own conversation has the answer to that."""
        if len(alive) >= self.quorum:
            return False
        self._writing.start_with(alive)
        return True

    def straight_accept(self) -> Accept:
        """What it asks of the replicas."""
        return self._writing.accept()

    def converse(self, begun: Accept | None = None) -> None:
        """It goes its own way."""
        self._writing.start(is_anybody_there=True)

    def chosen(self, accept: Accept, votes: Votes, is_prepared: bool) -> None:
        """These have it on disk, as many as were asked for."""
        self._writing.taken_by(votes)

    def doubtful(self, accept: Accept, votes: Votes) -> None:
        """Its time for replicas has passed."""
        self._writing.fell_short_with(votes)


class _WeakWriting:
    """One of them. In the sweeper only while it waits for this node's own disk."""

    __slots__ = (
        "_expires_at_ms",
        "_is_hintable",
        "_is_kept",
        "_is_over",
        "_on_outcome",
        "_record",
        "_request",
        "_slots",
        "_then",
        "_topology",
        "_write",
        "_writer",
        "deadline_s",
        "may_go_straight",
        "patience_s",
    )

    def __init__(
        self,
        writer: WeakWriter,
        topology: Topology,
        request: WriteRequest,
        is_hintable: bool,
        deadline_s: float,
        on_outcome: Callable[[WriteOutcome], None],
    ) -> None:
        self._writer, self._topology, self._request, self._is_hintable = writer, topology, request, is_hintable
        self._slots = topology.replicas_of(request.key)
        self.deadline_s, self.patience_s = deadline_s, float("inf")
        self._on_outcome: Callable[[WriteOutcome], None] | None = on_outcome
        self._is_over = self._is_kept = False
        self._expires_at_ms = request.expires_at_ms(writer._context.ballots.now_ms())
        # A record that lies here may be stamped far ahead, by a clock that was wrong before this node last started.
        state = writer._replica.peek(request.key)
        self._make_record(above=NONE if state is None else state.ballot)
        self.may_go_straight = state is not None and state.promised <= state.ballot
        """Whether the replica here has the key in memory, and nothing that a weak write steps back for."""

    def _make_record(self, above: int) -> None:
        ballots, allowed_s = self._writer._context.ballots, self._writer._clock_offset_max_s
        request, topology = self._request, self._topology
        ballot = ballots.tick(above)
        self._writer._under_way[ballot] = request.key
        self._record = Record(ballot, ballot, True, request.value, request.content_type, self._expires_at_ms)
        self._write = WeakWrite(
            request.key,
            self._record,
            needed=request.needed,
            majority=topology.majority,
            replicas=topology.n,
            name_of=lambda slot: topology.by_slot[slot].name,
            horizon=lambda ballot: ballots.horizon(ballot, allowed_s),
        )

    def start(self, is_anybody_there: bool) -> None:
        """Begins."""
        if not is_anybody_there:
            self._keep_sole()
            return
        context, key = self._writer._context, self._request.key
        Drive(context, key, self._write.run(), self._slots, self.decided_s, self._ended, self._fell_short).start()

    def start_with(self, alive: list[int]) -> None:
        """The same where others may have gone since it was taken on; nothing of it was sent."""
        needed = self._request.needed
        if len(alive) < needed and not self._is_hintable:
            self._release()
            self._tell(Unavailable(needed, len(alive), self._topology.names(alive)))
        else:
            self.start(bool(alive))

    @property
    def decided_s(self) -> float:
        """Until when it is tried to have replicas take it."""
        if not self._is_hintable:
            return self.deadline_s
        timeout_s = self._request.timeout_s
        return self.deadline_s - timeout_s + min(HINT_AFTER_S, timeout_s / 2)

    # -- in a volley -------------------------------------------------------------------------------------------------

    def accept(self) -> Accept:
        """What the first message asks for. Once it is sent, nobody can say that the write is not applied."""
        self._write.may_be_applied = True
        return self._write.first_accept

    def taken_by(self, votes: Votes) -> None:
        """Enough of them took it with the first message."""
        self._heard(votes)
        self._taken()

    def fell_short_with(self, votes: Votes) -> None:
        """Too few did, and there is no time to ask again."""
        self._heard(votes)
        self._fell_short()

    def _heard(self, votes: Votes) -> None:
        self._write.taken.update(votes.names)
        self._write.lost = list(votes.lost)

    def _ended(self, end: Taken | Stuck | Outrun) -> None:
        if isinstance(end, Taken):
            self._taken()
        elif isinstance(end, Outrun):
            self._release()
            self._make_record(above=end.highest)
            self.start(is_anybody_there=True)
        else:
            self._fell_short()

    # -- enough have it ----------------------------------------------------------------------------------------------

    def _taken(self) -> None:
        targets = self._missed()
        if targets and self._writer._hints.add(self._request.key, self._record, targets, False, self._hinted):
            self._wait(then=self._acknowledge)
        else:
            self._acknowledge()
        self._release()

    def _missed(self) -> tuple[int, ...]:
        """The home replicas that will not have it by themselves. One that is merely slow will, for it was sent it."""
        write, by_slot = self._write, self._topology.by_slot
        is_writable = self._writer._context.roster.is_writable
        return tuple(
            slot
            for slot in self._slots
            if (not is_writable(slot) or slot in write.lost) and by_slot[slot].name not in write.taken
        )

    def _hinted(self) -> None:
        if not self._is_over:
            self._writer._context.sweeper.discard(self)
            self._acknowledge(hinted=True)

    def _acknowledge(self, hinted: bool = False) -> None:
        names = tuple(sorted(self._write.taken))
        self._tell(Written(self._record.origin, len(names), names, hinted))

    # -- too few have it, and there is no time or no way to go on ----------------------------------------------------

    def _fell_short(self) -> None:
        writer, request, write = self._writer, self._request, self._write
        if write.met_wrong_clock:
            self._is_hintable = False  # what stands in its way may win over it in the end, and it was never read
        if write.must_be_kept and writer._hints.has_room(request.key, self._record):
            self._is_kept = True
            self._wait(then=self._admit)
            writer._keep_aside(request.key, self._record, self._kept_aside)
        elif self._is_hintable and not write.must_be_kept:
            self._keep_sole()
        else:
            self._release()
            self._admit(FULL if write.must_be_kept else "")

    def _kept_aside(self) -> None:
        self._release()
        if self._is_hintable:
            self._kept()
        elif not self._is_over:
            self._writer._context.sweeper.discard(self)
            self._admit()

    def _keep_sole(self) -> None:
        """Its ballot must not be given out again after a crash: first the clock's ceiling, then the hint."""
        self._wait(then=self._give_up)
        self._writer._context.ballots.when_durable(self._put_sole)

    def _give_up(self) -> None:
        """The clock's ceiling did not get to the disk in time, and so neither did the hint."""
        self._release()
        self._admit()

    def _put_sole(self) -> None:
        if self._is_over:
            return
        self._then = self._admit_hint
        is_there_room = self._writer._hints.add(self._request.key, self._record, self._slots, True, self._kept)
        self._release()
        if not is_there_room:
            self._writer._context.sweeper.discard(self)
            self._admit(FULL)

    def _kept(self) -> None:
        """It is on this node's disk, and will be brought to the others from there."""
        if not self._is_over:
            self._writer._context.sweeper.discard(self)
            own = self._topology.by_slot[self._writer._own_slot].name
            self._tell(Written(self._record.origin, 1, (own,), hinted=True))

    def _admit_hint(self) -> None:
        """The hint is on its way to the disk, and the time is up."""
        self._is_kept = True
        self._admit()

    def _admit(self, reason: str = "") -> None:
        """Tells what is known of a write that fell short."""
        names, needed = tuple(sorted(self._write.taken)), self._request.needed
        if self._write.may_be_applied or self._is_kept:
            self._tell(Unknown(needed, len(names), names, self._record.origin))
        else:
            self._tell(Unavailable(needed, len(names), names, reason))

    def _tell(self, outcome: WriteOutcome) -> None:
        """The first word counts: what comes of it later is nobody's news."""
        on_outcome, self._on_outcome = self._on_outcome, None
        if on_outcome is not None:
            safely(on_outcome, outcome)

    # -- waiting for this node's disk --------------------------------------------------------------------------------

    def _wait(self, then: Callable[[], None]) -> None:
        """A stalled disk must not hold up the answer beyond the deadline: `then` gives it."""
        self._then = then
        self._writer._context.sweeper.add(self)

    def expire(self) -> None:
        """The disk did not get done in time."""
        self._is_over = True
        self._then()

    def hurry(self) -> None:
        """A disk is not hurried."""

    def _release(self) -> None:
        """From here on somebody else knows of it: a replica, the hints, what is kept aside, or nobody."""
        self._writer._under_way.pop(self._record.origin, None)
