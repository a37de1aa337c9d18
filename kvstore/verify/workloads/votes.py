"""vote: several clients propose at the same moment; one wins, for ever, and everyone is told the same."""

from __future__ import annotations

from kvstore.client.values import Decision
from kvstore.verify.history import Kind
from kvstore.verify.workloads.worker import Told, Worker

CANDIDATES = 4
"""Proposals for each vote."""
READS = 0.25


class Votes:
    """One vote after another. Votes can't be deleted: their names hold the run's id, and they stay."""

    name = "vote"

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}vote-"
        self._proposals = 0

    async def step(self, worker: Worker) -> None:
        """Proposes, or asks who won."""
        if self._proposals and worker.dice.random() < READS:
            await self._look(worker, worker.dice.randrange(self._count))
            return
        name, candidate = f"{self._prefix}{self._proposals // CANDIDATES}", f"c{self._proposals}"
        self._proposals += 1
        await worker.call(
            Kind.VOTE,
            name,
            lambda: worker.client.vote(name, candidate),
            lambda decision: {"value": decision.winner},
            value=candidate,
        )

    async def finish(self, worker: Worker) -> bool:
        """Asks who won, vote by vote."""
        told = [await self._look(worker, number) for number in range(self._count)]
        return all(one.is_ok for one in told)

    @property
    def _count(self) -> int:
        return -(-self._proposals // CANDIDATES)

    async def _look(self, worker: Worker, number: int) -> Told[Decision | None]:
        name = f"{self._prefix}{number}"
        return await worker.call(
            Kind.RESULT,
            name,
            lambda: worker.client.vote_result(name),
            lambda decision: {"value": None if decision is None else decision.winner},
        )
