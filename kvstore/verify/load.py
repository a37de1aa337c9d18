"""Load on a cluster: the workloads' workers side by side, their final looks, and the tidying up behind them.

It may be run against a cluster that others use: it reads and writes nothing but keys, locks and votes under a prefix
of its own, at a bounded rate, for a bounded time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from kvstore.client.asynchronous import AsyncClient
from kvstore.client.over_http.store import HttpStore
from kvstore.client.values import Delete
from kvstore.errors import KvstoreError
from kvstore.http_client import HttpClient
from kvstore.verify.history import History, Outcome, Recorder
from kvstore.verify.workloads.convergence import Convergence
from kvstore.verify.workloads.counters import Counters
from kvstore.verify.workloads.locks import Locks
from kvstore.verify.workloads.mixed import Mixed
from kvstore.verify.workloads.register import Registers
from kvstore.verify.workloads.sets import Sets
from kvstore.verify.workloads.votes import Votes
from kvstore.verify.workloads.worker import Journal, Worker
from kvstore.verify.workloads.workload import Workload

WORKLOADS = ("register", "set", "counter", "lock", "vote", "convergence", "mixed")
TIMEOUT_S = 2.0
"""Of a call while faults may act: short, so that a worker whose node is away has another try soon."""
FINISH_TIMEOUT_S = 15.0
"""Of a final look, when all is well."""
FINISH_S_MAX = 150.0
"""For all final looks together."""
CLEAN_BATCH = 500


@dataclass(frozen=True)
class LoadPlan:
    """What to do to which nodes."""

    nodes: Mapping[str, str]
    """Name -> address, http://HOST:PORT."""
    run_id: str
    """In the names of all that is touched."""
    workloads: Sequence[str] = WORKLOADS
    seed: int = 0
    rate: float = 150.0
    """Steps a second, of all workers together."""
    concurrency: int = 3
    """Workers of each workload."""
    timeout_s: float = TIMEOUT_S
    weak_copies: int = 1
    """W of weak and eventual writes that must not be lost: one more than folders that may be lost."""

    @property
    def prefix(self) -> str:
        """What all names begin with."""
        return f"verify/{self.run_id}/"


@dataclass
class Load:
    """The workers, and what they have written down. An async context manager."""

    plan: LoadPlan
    file: IO[bytes] | None = None
    """Where the history goes while it happens."""
    journal: Journal = field(init=False)

    def __post_init__(self) -> None:
        self.journal = Journal(Recorder(time.monotonic, self.file), time.monotonic)
        self._http = HttpClient(list(self.plan.nodes.values()))
        self._workloads: list[Workload] = [self._workload(name) for name in self.plan.workloads]
        self._workers: list[tuple[Workload, Worker]] = [
            (workload, self._worker(workload.name, place, number))
            for place, workload in enumerate(self._workloads)
            for number in range(self.plan.concurrency)
        ]

    async def __aenter__(self) -> Load:
        self._http.open()
        for _, worker in self._workers:
            await worker.open()
        return self

    async def __aexit__(self, *raised: object) -> None:
        for _, worker in self._workers:
            await worker.close()
        await self._http.close()

    def history(self) -> History:
        """All that happened so far."""
        return self.journal.recorder.history()

    def unknowns(self) -> int:
        """How many calls nobody knows the end of."""
        return sum(effort.outcome is Outcome.UNKNOWN for effort in self.journal.efforts)

    async def run(self, over: asyncio.Event) -> None:
        """Steps, until `over` is set."""
        async with asyncio.TaskGroup() as group:
            for workload, worker in self._workers:
                group.create_task(self._steps(workload, worker, over))

    async def finish(self) -> list[str]:
        """The final looks. What of them had no answer, in words; nothing when all is well."""
        failed: list[str] = []

        async def look(workload: Workload, worker: Worker) -> None:
            await worker.be_patient(FINISH_TIMEOUT_S)
            if not await workload.finish(worker):
                failed.append(f"{workload.name}: a final read had no answer")

        try:
            async with asyncio.timeout(FINISH_S_MAX), asyncio.TaskGroup() as group:
                for workload, worker in self._workers:
                    group.create_task(look(workload, worker))
        except TimeoutError:
            failed.append(f"the final reads did not end within {FINISH_S_MAX:.0f} s")
        return failed

    async def clean(self) -> str:
        """Deletes all keys of the run. Says in words what is left."""
        prefix, deleted = self.plan.prefix, 0
        try:
            async with AsyncClient(HttpStore(list(self.plan.nodes.values()), timeout_s=FINISH_TIMEOUT_S)) as client:
                keys = [entry.key async for entry in client.list(prefix, consistency="strong")]
                for start in range(0, len(keys), CLEAN_BATCH):
                    batch = keys[start : start + CLEAN_BATCH]
                    results = await client.batch([Delete(key) for key in batch])
                    deleted += sum(not isinstance(result, KvstoreError) for result in results)
        except KvstoreError as error:
            return f"{deleted} keys under {prefix} were deleted, others may be left: {error}"
        left = f"; {len(keys) - deleted} could not be" if deleted < len(keys) else ""
        stays = [
            what
            for name, what in (("vote", "its votes, which are for ever"), ("lock", "the last fences of its locks"))
            if name in self.plan.workloads
        ]
        tail = f"; what stays: {' and '.join(stays)}" if stays else ""
        return f"{deleted} keys under {prefix} were deleted{left}{tail}"

    async def _steps(self, workload: Workload, worker: Worker, over: asyncio.Event) -> None:
        now_s = asyncio.get_running_loop().time
        interval_s = len(self._workers) / self.plan.rate
        next_s = now_s() + worker.dice.random() * interval_s
        while not over.is_set():
            if (wait_s := next_s - now_s()) > 0:
                await asyncio.sleep(wait_s)
            next_s = max(next_s + interval_s, now_s())  # what could not be done in its time is not made up for
            await workload.step(worker)

    def _workload(self, name: str) -> Workload:
        prefix = self.plan.prefix
        match name:
            case "register":
                return Registers(prefix)
            case "set":
                return Sets(prefix, self.plan.weak_copies)
            case "counter":
                return Counters(prefix)
            case "lock":
                return Locks(prefix)
            case "vote":
                return Votes(prefix)
            case "convergence":
                return Convergence(prefix, self._http, self.plan.weak_copies)
            case "mixed":
                return Mixed(prefix)
        raise ValueError(f"{name!r} is no workload; there are {', '.join(WORKLOADS)}")

    def _worker(self, workload: str, place: int, number: int) -> Worker:
        """Of three workers two keep to a node; of those that write on both sides of a partition, all."""
        names = list(self.plan.nodes)
        turn = (place + number) % len(names)
        names = names[turn:] + names[:turn]
        keeps = workload == "convergence" or number % 3 != 2
        return Worker(
            self.journal,
            workload,
            [self.plan.nodes[name] for name in (names[:1] if keeps else names)],
            names[0] if keeps else None,
            random.Random(f"{self.plan.seed}/{workload}/{number}"),
            self.plan.timeout_s,
        )
