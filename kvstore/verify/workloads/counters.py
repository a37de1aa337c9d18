"""counter: clients count up by compare-and-set; no increment is lost, none is done twice."""

from __future__ import annotations

from kvstore.client.asynchronous import AsyncClient
from kvstore.errors import Exists, VersionMismatch
from kvstore.verify.history import Kind
from kvstore.verify.workloads.worker import Told, Worker

COUNTERS = 2
READS = 0.3
TRIES_MAX = 30
"""Against other clients; then the last conflict says that nothing was added."""


class Counters:
    """A few counters, each of which must be between what was acknowledged and what was tried."""

    name = "counter"

    def __init__(self, prefix: str) -> None:
        self._keys = [f"{prefix}counter-{number}" for number in range(COUNTERS)]

    async def step(self, worker: Worker) -> None:
        """Counts, or looks where a counter stands."""
        key = worker.dice.choice(self._keys)
        if worker.dice.random() < READS:
            await self._look(worker, key)
        else:
            await worker.call(Kind.INCREMENT, key, lambda: increment(worker.client, key), value=1)

    async def finish(self, worker: Worker) -> bool:
        """Looks at each once more."""
        told = [await self._look(worker, key) for key in self._keys]
        return all(one.is_ok for one in told)

    async def _look(self, worker: Worker, key: str) -> Told[int]:
        async def number() -> int:
            found = await worker.client.get(key, consistency="strong")
            return 0 if found is None else int(found.text)

        return await worker.call(Kind.COUNT, key, number, lambda seen: {"value": seen})


async def increment(client: AsyncClient, key: str) -> None:
    """Adds one. Raises what the client raises; a conflict at the last try, OutcomeUnknown at the first."""
    for tries_left in range(TRIES_MAX, 0, -1):
        found = await client.get(key, consistency="strong")
        number = 1 if found is None else int(found.text) + 1
        try:
            await client.compare_and_set(key, found, str(number))
            return
        except (VersionMismatch, Exists):
            if tries_left == 1:
                raise
