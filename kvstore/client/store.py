"""Store: what the client needs of whatever keeps the data, written by its consumer.

    message passing   client/http_store.py: the nodes of a cluster, over HTTP
    shared memory     kvstore/embedded: a file that several processes of a host have open

Everything that is the same for both (lock objects that renew themselves, comparing values, walking a listing, the
client without `await`) stands above this interface, and is written once: `AsyncClient(store)` (client/asynchronous.py)
and `Client(store)` (client/facade.py). A store is made without an event loop; open() is where it meets its own.

All methods belong to one event loop. Each call has one deadline, `timeout_s` seconds from when it is made; None is the
store's own. What they raise is a KvstoreError; ValueError and TypeError for arguments that no store could take.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from kvstore.client.values import (
    Consistency,
    Count,
    Decision,
    Fence,
    Lease,
    LockInfo,
    Operation,
    Page,
    Results,
    Value,
    Written,
)

TIMEOUT_S = 5.0
"""One call's deadline, unless it says otherwise."""
WAIT_S_MAX = 600.0
"""The longest that anybody waits for a lock in one call."""


class Store(Protocol):
    """Where the data is."""

    @property
    def timeout_s(self) -> float:
        """The deadline of calls that name none."""
        ...

    async def open(self) -> None:
        """Called before the first of the other calls, on the loop that they will run on; once."""
        ...

    async def close(self) -> None:
        """Called after the last; once. Locks that are held are not released: their leases end by themselves."""
        ...

    async def get(
        self,
        key: str,
        *,
        fence: Fence | None,
        consistency: Consistency | None,
        r: Count | None,
        timeout_s: float | None,
    ) -> Value | None:
        """The value; None where there is none. fence: the key remembers it before the value is told."""
        ...

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        if_match: str | None,
        create: bool,
        fence: Fence | None,
        ttl_s: float | None,
        content_type: str | None,
        consistency: Consistency | None,
        w: Count | None,
        timeout_s: float | None,
    ) -> Written:
        """Writes the value. if_match: only over this version, `*` over any; create: only where there is none."""
        ...

    async def delete(
        self,
        key: str,
        *,
        if_match: str | None,
        fence: Fence | None,
        consistency: Consistency | None,
        w: Count | None,
        timeout_s: float | None,
    ) -> Written:
        """Deletes; deleting what is not there succeeds."""
        ...

    async def page(
        self,
        prefix: str,
        *,
        values: bool,
        after: str | None,
        limit: int,
        consistency: Consistency | None,
        r: Count | None,
        timeout_s: float | None,
    ) -> Page:
        """A part of the keys with this prefix, in byte order, those behind `after`; limit: 1 to 1,000 of them."""
        ...

    async def batch(
        self,
        operations: Sequence[Operation],
        *,
        consistency: Consistency | None,
        r: Count | None,
        w: Count | None,
        timeout_s: float | None,
    ) -> Results:
        """One result for each operation, in order: what was refused is an error in the list and leaves the rest alone.

        Operations on one key take effect in the order they stand in. Raises where nothing is known of any of them.
        """
        ...

    async def acquire(
        self, name: str, *, owner: str, ttl_s: float, wait_s: float, permits: int, timeout_s: float | None
    ) -> Lease:
        """Takes the lock, if need be after waiting for wait_s, which is apart from timeout_s. Raises LockHeld.

        After OutcomeUnknown nobody knows the token: a grant that was made all the same ends with its lease. So it
        does when the call is cancelled, unless the store can give it back.
        """
        ...

    async def renew(self, name: str, token: str, *, timeout_s: float | None) -> None:
        """Begins the lease anew. Raises LockLost where the token holds nothing any more."""
        ...

    async def release(self, name: str, token: str, *, timeout_s: float | None) -> None:
        """Gives the lock back. Raises LockLost where the token held nothing any more."""
        ...

    async def lock_info(self, name: str, *, timeout_s: float | None) -> LockInfo | None:
        """The lock as it stands; None where nobody holds it."""
        ...

    async def locks(self, prefix: str, *, timeout_s: float | None) -> list[LockInfo]:
        """All locks with this prefix that somebody holds, in byte order."""
        ...

    async def propose(self, name: str, candidate: str, value: Any, *, timeout_s: float | None) -> Decision:
        """Decides the vote if nobody has, and tells what was decided. `value` is JSON."""
        ...

    async def decision(self, name: str, *, timeout_s: float | None) -> Decision | None:
        """What the vote decided; None while nothing is."""
        ...


Opened = Callable[[], Awaitable[Store]]
"""The store of a client, opened if it was not."""
