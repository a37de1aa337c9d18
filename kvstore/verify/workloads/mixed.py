"""mixed: strong, weak and eventual calls on the same keys. Strong ones stay linearizable around the others."""

from __future__ import annotations

from kvstore.client.values import Consistency
from kvstore.verify.history import Kind
from kvstore.verify.workloads.register import compare_and_set, put, read, version_of
from kvstore.verify.workloads.worker import Worker
from kvstore.verify.workloads.workload import RotatingKeys, Unique, seen

WEAK_LEVELS: tuple[Consistency, ...] = ("weak", "eventual")
KEYS_AT_ONCE = 3
CALLS_EACH = 40
READS, WEAK_READS, CAS, PUTS = 0.35, 0.45, 0.6, 0.75
"""Up to here a step reads, reads weakly, compares and sets, writes; above it writes weakly or eventually."""


class Mixed:
    """All levels on a few keys."""

    name = "mixed"

    def __init__(self, prefix: str) -> None:
        self._keys = RotatingKeys(f"{prefix}m", KEYS_AT_ONCE, CALLS_EACH)
        self._unique = Unique()

    async def step(self, worker: Worker) -> None:
        """One call."""
        key, draw = self._keys.draw(worker.dice), worker.dice.random()
        if draw < READS:
            await read(worker, key)
        elif draw < WEAK_READS:
            level = worker.dice.choice(WEAK_LEVELS)
            await worker.call(Kind.WEAK_READ, key, lambda: worker.client.get(key, consistency=level), seen, level=level)
        elif draw < CAS:
            await compare_and_set(worker, key, self._unique())
        elif draw < PUTS:
            await put(worker, key, self._unique())
        else:
            await weak_put(worker, key, self._unique())

    async def finish(self, worker: Worker) -> bool:
        """Reads every key once more."""
        told = [await read(worker, key) for key in self._keys.all()]
        return all(one.is_ok for one in told)


async def weak_put(worker: Worker, key: str, value: str, copies: int = 1) -> None:
    """A blind write at one of the two levels that ask no majority, acknowledged by so many replicas."""
    level = worker.dice.choice(WEAK_LEVELS)
    await worker.call(
        Kind.WEAK_PUT,
        key,
        lambda: worker.client.put(key, value, consistency=level, w=copies),
        version_of,
        value=value,
        level=level,
    )
