"""set: unique elements, a key each, added at every level. What was acknowledged is there in the end."""

from __future__ import annotations

from kvstore.client.values import Consistency
from kvstore.verify.history import Kind
from kvstore.verify.workloads.worker import Told, Worker
from kvstore.verify.workloads.workload import Unique

LEVELS: tuple[Consistency, ...] = ("strong", "weak", "eventual")
READS = 0.02
"""How often a strong set is read while it grows; the others promise nothing before the end."""


class Sets:
    """A set for each level."""

    name = "set"

    def __init__(self, prefix: str, weak_copies: int = 1) -> None:
        """weak_copies: on so many disks an element is that was added at a level other than strong."""
        self._weak_copies = weak_copies
        self._prefix = f"{prefix}set/"
        self._unique = Unique()

    async def step(self, worker: Worker) -> None:
        """Adds an element to one of the sets."""
        if worker.dice.random() < READS:
            await self._read(worker, "strong")
            return
        level, element = worker.dice.choice(LEVELS), self._unique()
        name, copies = self._prefix + level, None if level == "strong" else self._weak_copies
        await worker.call(
            Kind.ADD,
            name,
            lambda: worker.client.put(f"{name}/{element}", element, consistency=level, w=copies),
            lambda written: {"version": written.version},
            value=element,
            level=level,
        )

    async def finish(self, worker: Worker) -> bool:
        """Reads all sets, by strong listings: of what was written weakly they show what has arrived anywhere."""
        told = [await self._read(worker, level) for level in LEVELS]
        return all(one.is_ok for one in told)

    async def _read(self, worker: Worker, level: str) -> Told[list[str]]:
        name = self._prefix + level

        async def elements() -> list[str]:
            prefix = f"{name}/"
            listed = worker.client.list(prefix, consistency="strong")
            return [entry.key.removeprefix(prefix) async for entry in listed]

        return await worker.call(Kind.READ_ALL, name, elements, lambda found: {"value": found}, level=level)
