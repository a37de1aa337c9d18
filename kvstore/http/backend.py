"""What the HTTP layer needs of the node: written by its consumer, so that the two meet in this file alone.

The node (kvstore/node/node.py) brings both; the tests bring a small honest stand-in. Nothing here knows HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

import msgspec

from cluster.locks.lock_state import Wish
from cluster.locks.outcomes import (
    AcquireOutcome,
    Client,
    LockFailure,
    LockShown,
    LocksListed,
    LookFailure,
    ReleaseOutcome,
    RenewOutcome,
)
from cluster.locks.vote import Decision, Proposal, Voted
from cluster.requests import (
    FencedReadOutcome,
    ListOutcome,
    ListRequest,
    ReadOutcome,
    ReadRequest,
    WriteOutcome,
    WriteRequest,
)

MemberState = Literal["self", "alive", "suspect", "down"]
"""How a node sees a member: itself, heard lately, not heard for a while, given up on for routing."""

Unreachable = Literal["unreachable"]


class MemberView(msgspec.Struct, frozen=True):
    """A member as one node sees it."""

    name: str
    slot: int
    """Its number in the cluster: part of every ballot that it issues, never given twice."""
    http: str | None
    """HOST:PORT where applications reach it; None until it has told."""
    peer: str
    """HOST:PORT where nodes reach it."""
    zone: str
    """Where it stands; empty when zones are not used."""
    state: MemberState
    incarnation: str | None
    """The id of its data folder, 32 hexadecimal digits; None until it has told."""
    unfit: tuple[str, ...] = ()
    """What stands against its taking part, in words: what it said, and what this node sees of its clock."""


class RepairReport(msgspec.Struct, frozen=True):
    """What the comparison of one partition's replicas found, and what became of it."""

    partition: int
    node: str
    """The replica that compared itself with the others."""
    differed: int
    """Keys that were not the same on all replicas that could be asked."""
    fetched: int
    """Records that it took over from others."""
    sent: int
    """Records that others took over from it."""
    left: int
    """Keys that still differ: refused, or changed meanwhile."""
    bytes_moved: int
    """Of peer messages, both ways."""
    unreachable: tuple[str, ...]
    """The replicas that could not be asked."""


class ConvergenceView(msgspec.Struct, frozen=True):
    """How far this node is from agreeing with the others, as it knows it."""

    unfit: tuple[str, ...]
    """What stands against its taking part, in words."""
    hints: int
    """Writes kept for replicas that could not be reached."""
    hints_bytes: int
    hints_sole: int
    """Those of them of which no home replica has a copy."""
    kept_aside: int
    """Weak writes that wait to be merged back."""
    partitions_in_sync: int
    """Partitions of this node that were equal with all their replicas when last compared."""
    partitions_differing: int
    partitions_unchecked: int
    """Those that could not be compared with all their replicas since this node started."""
    anti_entropy_age_s: float | None
    """Seconds since the last round that reached all peers; None before the first."""
    quarantined: int
    """Records whose checksum did not match, and that take part in nothing until they are recovered."""
    recovering_partitions: int
    """Partitions of which this node has still to learn what it holds."""
    purge_held_back_by: tuple[str, ...]
    """Why tombstones that are old enough can't be purged, in words."""


class Backend(Protocol):
    """Coordinates requests. Outcomes are values; an exception from here is a fault of ours, answered with 500.

    Cancelling an awaited call does not undo what was sent. The level of a request is one of the three, `needed`
    comes from levels.quorum_size with the view's n, keys and values are within their limits.
    """

    async def read(self, request: ReadRequest) -> FencedReadOutcome:
        """Answers within the request's timeout, give or take a turn of the loop."""
        ...

    async def write(self, request: WriteRequest) -> WriteOutcome:
        """Answers within the request's timeout, give or take a turn of the loop."""
        ...

    def begin_read(self, request: ReadRequest, on_outcome: Callable[[ReadOutcome], None]) -> None:
        """A read without a fence, for a caller that has no task to wait in; on_outcome is called once, maybe before
        this returns.
        """
        ...

    def begin_write(self, request: WriteRequest, on_outcome: Callable[[WriteOutcome], None]) -> None:
        """The same of a write without a fence."""
        ...

    def begin_writes(
        self, requests: Sequence[WriteRequest], timeout_s: float, on_outcome: Callable[[int, WriteOutcome], None]
    ) -> None:
        """The same of strong writes of different keys that need as many replicas each, for they cost less together.

        Each is a write for itself: on_outcome(place, outcome) is called once for each. They have timeout_s from now,
        whatever they say themselves.
        """
        ...

    async def list(self, request: ListRequest) -> ListOutcome:
        """Answers within the request's timeout, give or take a turn of the loop."""
        ...

    async def versions(self, key: bytes, timeout_s: float) -> Mapping[str, int | Unreachable | None]:
        """The version that each replica of the key holds, by member name; None where it holds no value.

        A question to each replica, not a read: nothing is settled or repaired by it.
        """
        ...

    async def repair(self, partition: int, timeout_s: float) -> RepairReport | str:
        """Compares the partition's replicas now and brings them together; why not, where none could be asked."""
        ...


class LockBackend(Protocol):
    """Locks and votes. As with Backend, outcomes are values, and an exception is a fault of ours."""

    async def acquire(self, name: str, wish: Wish, wait_s: float, timeout_s: float, client: Client) -> AcquireOutcome:
        """Takes the lock, if need be after waiting in the order of arrival for up to wait_s.

        A client that has gone meanwhile is passed over; what is answered then reaches nobody.
        """
        ...

    async def renew(self, name: str, token: bytes, timeout_s: float) -> RenewOutcome:
        """Begins the lease of the token with this digest anew."""
        ...

    async def release(self, name: str, token: bytes, timeout_s: float) -> ReleaseOutcome:
        """Gives back what the token with this digest holds."""
        ...

    async def show(self, name: str, timeout_s: float) -> LockShown | LookFailure:
        """The lock as it stands; without holders where nobody holds it."""
        ...

    async def list_held(
        self, prefix: str, after: str | None, limit: int, timeout_s: float
    ) -> LocksListed | LookFailure:
        """The locks that somebody holds."""
        ...

    async def propose(self, name: str, proposal: Proposal, timeout_s: float) -> Voted | LockFailure:
        """Decides the vote, if nobody has."""
        ...

    async def decision(self, name: str, timeout_s: float) -> Decision | LookFailure | None:
        """What the vote has decided; None while nothing is."""
        ...

    def stop_waiting(self) -> None:
        """Ends whoever waits here, at once, with Unavailable and the reason; nobody waits from now on. Idempotent."""
        ...


class ClusterView(Protocol):
    """The cluster as this node sees it now. All of it is at hand: nothing here waits."""

    @property
    def node_name(self) -> str:
        """This node."""
        ...

    @property
    def cluster_name(self) -> str: ...

    @property
    def cluster_id(self) -> str: ...

    @property
    def epoch(self) -> int:
        """Number of the topology that requests are served under."""
        ...

    @property
    def n(self) -> int:
        """Replicas per key: the replication factor, or the number of members where that is smaller."""
        ...

    @property
    def partitions(self) -> int:
        """How many slices the key space has."""
        ...

    @property
    def members(self) -> Sequence[MemberView]:
        """All members, this node too, by slot."""
        ...

    @property
    def moving(self) -> Sequence[int]:
        """Partitions on their way to other nodes."""
        ...

    def partition_of(self, key: bytes) -> int:
        """The partition that the key falls in."""
        ...

    def replica_set(self, partition: int) -> tuple[str, ...]:
        """The names of its n replicas, in order of preference."""
        ...

    def primary(self, partition: int) -> str:
        """The first live node of the replica set, through which strong writes go."""
        ...

    @property
    def convergence(self) -> ConvergenceView:
        """How far this node is from agreeing with the others."""
        ...

    def unready(self) -> Sequence[str]:
        """Why this node should get no requests now, in words; empty when it is ready."""
        ...
