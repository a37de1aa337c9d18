"""The witness: what a replica tells one that lost its memory and learns it anew (recovery.py).

It promises a ballot for a whole partition, which is the prepare of a round over all of its keys, and then lists what it
holds. Both are answered when what they show is on disk.
"""

from __future__ import annotations

from functools import partial

import structlog

from cluster.protocol.messages import Reply, Unfit
from cluster.protocol.repair_messages import Inventoried, Inventory, PromiseRaised, RaisePromise
from cluster.repair.parts import Parts
from cluster.replica.replica import Respond
from storage.ballot import NONE
from storage.engine import StorageError

PAGE_ROWS_MAX = 2_000
"""Rows of one page: with the longest keys, 2 MiB."""
log = structlog.get_logger()


class Witness:
    """The answering side of a recovery."""

    def __init__(self, parts: Parts) -> None:
        self._replica, self._engine, self._commits = parts.replica, parts.engine, parts.commits
        self._marks, self._trees, self._fitness = parts.marks, parts.trees, parts.fitness
        self._ballots, self._tasks = parts.context.ballots, parts.tasks
        self._topology, self._own_slot = parts.topology, parts.slot

    def handle(self, request: RaisePromise | Inventory, respond: Respond, token: int) -> None:
        """Answers a replica that recovers."""
        reason = self._why_not(request.partition)
        if reason is not None:
            respond(token, Unfit(reason))
        elif isinstance(request, RaisePromise):
            if request.ballot >= self._ballots.credible_max:
                respond(token, Unfit("a ballot lies more than a year ahead; the clock of its node is wrong"))
                return
            ticket = self._replica.raise_promise(request.partition, request.ballot)
            floor = self._marks.floors.get(request.partition, NONE)
            self._commits.when(ticket, partial(respond, token, PromiseRaised(floor)))
        else:
            self._tasks.spawn(self._list(request, respond, token), "list for a replica that recovers")

    def _why_not(self, partition: int) -> str | None:
        sets = self._topology().replica_slots
        if partition >= len(sets) or self._own_slot not in sets[partition]:
            return f"this node holds no replica of partition {partition}"
        return self._fitness.why_not(partition, reads=False)

    async def _list(self, inventory: Inventory, respond: Respond, token: int) -> None:
        reply: Reply
        first, behind = self._trees.places_of(inventory.partition)
        try:
            await self._commits.wait(self._commits.ticket)
            limit = min(max(inventory.limit, 1), PAGE_ROWS_MAX)
            page = await self._engine.rows(first, behind, inventory.after, limit)
            reply = Inventoried(page.rows, page.complete)
        except StorageError as error:
            log.error("rows can't be listed for a replica that recovers", error=str(error))
            reply = Unfit(str(error))
        respond(token, reply)
