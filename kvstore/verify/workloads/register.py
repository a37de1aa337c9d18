"""register: strong reads, writes, deletions and compare-and-set by several clients on a few keys."""

from __future__ import annotations

from kvstore.client.values import Value, Written
from kvstore.verify.history import Kind
from kvstore.verify.workloads.worker import Told, Worker
from kvstore.verify.workloads.workload import RotatingKeys, Unique, seen

KEYS_AT_ONCE = 3
CALLS_EACH = 60
READS, CAS, PUTS = 0.4, 0.75, 0.95
"""Up to here a step reads, compares and sets, writes; above it deletes."""
LOOKS_FIRST = 0.7
"""Who does not look first compares with something old, and mostly must not win."""


def version_of(written: Written) -> dict[str, str]:
    """A write's answer as histories have it."""
    return {"version": written.version}


class Registers:
    """Strong calls on a few keys, each of which must look like one register."""

    name = "register"

    def __init__(self, prefix: str) -> None:
        self._keys = RotatingKeys(f"{prefix}r", KEYS_AT_ONCE, CALLS_EACH)
        self._unique = Unique()

    async def step(self, worker: Worker) -> None:
        """One call."""
        key, draw = self._keys.draw(worker.dice), worker.dice.random()
        if draw < READS:
            await read(worker, key)
        elif draw < CAS:
            await compare_and_set(worker, key, self._unique())
        elif draw < PUTS:
            await put(worker, key, self._unique())
        else:
            await delete(worker, key)

    async def finish(self, worker: Worker) -> bool:
        """Reads every key once more."""
        told = [await read(worker, key) for key in self._keys.all()]
        return all(one.is_ok for one in told)


async def read(worker: Worker, key: str) -> Told[Value | None]:
    """A strong read. The worker remembers what it saw, for its next compare-and-set."""
    told = await worker.call(Kind.READ, key, lambda: worker.client.get(key, consistency="strong"), seen)
    if told.is_ok:
        worker.memory[key] = told.result
    return told


async def put(worker: Worker, key: str, value: str) -> Told[Written]:
    """A strong write."""
    return await worker.call(
        Kind.PUT, key, lambda: worker.client.put(key, value, consistency="strong"), version_of, value=value
    )


async def delete(worker: Worker, key: str) -> Told[Written]:
    """A strong deletion."""
    return await worker.call(Kind.DELETE, key, lambda: worker.client.delete(key, consistency="strong"))


async def compare_and_set(worker: Worker, key: str, value: str) -> Told[Written]:
    """Over what the worker saw last, mostly just now; where it saw nothing, the key must be absent.

    Values are unique, so "still this version" and "still this value" are the same.
    """
    if worker.dice.random() < LOOKS_FIRST:
        await read(worker, key)
    expected: Value | None = worker.memory.get(key)
    return await worker.call(
        Kind.CAS,
        key,
        lambda: worker.client.compare_and_set(key, expected, value),
        version_of,
        value=value,
        expected=None if expected is None else expected.text,
    )
