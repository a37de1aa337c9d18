"""Clients of locks on nodes in virtual time, who know exactly what they hold and until when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from cluster.locks.lock_state import Wish, lock_key, token_digest
from cluster.locks.outcomes import AcquireOutcome
from tests.coordination.three_nodes import Cluster


class Connection:
    """A client's connection, which a test can end."""

    def __init__(self) -> None:
        self.is_here = True
        self._callbacks: list[Callable[[], None]] = []

    def when_gone(self, callback: Callable[[], None]) -> None:
        if self.is_here:
            self._callbacks.append(callback)
        else:
            callback()

    def end(self) -> None:
        self.is_here = False
        for callback in self._callbacks:
            callback()


_numbers = count()


@dataclass
class Locker:
    """One client. Each time it asks it has a new token."""

    cluster: Cluster
    name: str
    ttl_s: float = 10.0
    connection: Connection = field(default_factory=Connection)
    token: bytes = b""

    async def acquire(self, at: int, lock: str, wait_s: float = 0.0, timeout_s: float = 5.0) -> AcquireOutcome:
        self.token = token_digest(f"{self.name}/{next(_numbers)}")
        wish = Wish(self.name, self.token, int(self.ttl_s * 1000))
        return await self.cluster.nodes[at].locks.acquire(lock, wish, wait_s, timeout_s, self.connection)


def lock_led_by(cluster: Cluster, slot: int) -> str:
    """A lock whose keeper is that node while all are well."""
    return next(
        name for name in map("lock-{}".format, count()) if cluster.topology.replicas_of(lock_key(name))[0] == slot
    )
