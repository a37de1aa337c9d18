"""Second act: three candidates propose themselves at the same moment, each through another node."""

from __future__ import annotations

import asyncio

from cli.demo.stage import Stage
from cli.demo.story import Story

CANDIDATES = ("anna", "ben", "chloe")


async def vote(stage: Stage, story: Story) -> None:
    """Exactly one wins, all are told the same, and so is who comes late."""
    story.chapter("A vote")
    story.tell(
        f"{', '.join(CANDIDATES)} propose themselves at the same moment, each through another node. Whoever has a "
        "majority of the replicas first has won, once and for ever."
    )
    clients = list(stage.clients.values())
    told = await asyncio.gather(
        *(client.vote("captain", candidate) for client, candidate in zip(clients, CANDIDATES, strict=True))
    )
    winners = {decision.winner for decision in told}
    story.see(
        "vote",
        len(winners) == 1 and winners <= set(CANDIDATES) and sum(decision.is_new for decision in told) <= 1,
        f"{' and '.join(sorted(winners))} won; told to "
        + ", ".join(f"{candidate}: {decision.winner}" for candidate, decision in zip(CANDIDATES, told, strict=True)),
    )
    late = await stage.clients["n3"].vote("captain", "dora")
    story.see(
        "vote-stands",
        {late.winner} == winners and not late.is_new,
        f"dora comes late, through n3, and is told: {late.winner}",
    )
