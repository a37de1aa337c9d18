"""First act: three nodes, the three levels, and a receipt with each answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.demo.stage import Stage
from cli.demo.story import Story

if TYPE_CHECKING:
    from kvstore.client.values import Receipt, Value


async def cluster_comes_up(stage: Stage, story: Story) -> None:
    """Three processes, ready to answer."""
    story.chapter("A cluster")
    story.tell(
        f"Three processes start on this machine: {', '.join(stage.names)}. Each has a folder of its own and speaks "
        "plain HTTP, as if it stood on a machine of its own. Each keeps a copy of every key."
    )
    began = story.seconds
    await stage.start()
    ready_s = story.seconds - began

    async def all_see_all() -> list[int] | None:
        alive = [await _alive(stage, name) for name in stage.names]
        return alive if min(alive) == len(stage.names) else None

    alive = await story.until(all_see_all, "each node to see all three")
    ports = ", ".join(map(str, stage.ports))
    story.see(
        "cluster",
        alive == [len(stage.names)] * len(stage.names),
        f"ready after {ready_s:.1f} s, on ports {ports}; each node sees {min(alive)} members alive",
    )


async def levels(stage: Stage, story: Story) -> None:
    """One write and one read at each level, each through another node where that matters."""
    story.chapter("Each request chooses how much agreement it pays for")
    story.tell("Every answer carries a receipt: the level it was given at, and which replicas stood behind it.")
    await _strong(stage, story)
    await _weak(stage, story)
    await _eventual(stage, story)


async def _strong(stage: Stage, story: Story) -> None:
    written = await stage.clients["n1"].put("greeting", "hello", consistency="strong")
    reads = [await stage.clients[name].get("greeting", consistency="strong") for name in stage.names]
    shown = [read for read in reads if read is not None and (read.version, read.text) == (written.version, "hello")]
    story.see(
        "strong",
        written.level == "strong" and written.acks >= 2 and len(shown) == len(stage.names),
        f"strong write through n1: {in_words(written.receipt)}. "
        f"Strong reads through {', '.join(stage.names)}: {len(shown)} of {len(stage.names)} show it",
    )


async def _weak(stage: Stage, story: Story) -> None:
    client = stage.clients["n2"]
    written = await client.put("visits", "1", consistency="weak")

    async def read() -> Value | None:
        found = await client.get("visits", consistency="weak")
        return found if found is not None and found.version == written.version else None

    found = await story.until(read, "the weak write to be read")
    paid = [receipt.needed for receipt in (written.receipt, found.receipt) if receipt is not None]
    story.see(
        "weak",
        written.level == "weak" and found.text == "1" and paid == [1, 1],
        f"weak write through n2: {in_words(written.receipt)}. Weak read: {in_words(found.receipt)}",
    )


async def _eventual(stage: Stage, story: Story) -> None:
    written = [
        await stage.clients[name].put(f"seen/{name}", "was here", consistency="eventual") for name in stage.names
    ]
    story.see(
        "eventual",
        all(one.level == "eventual" and one.receipt is not None and one.receipt.needed == 1 for one in written),
        f"one eventual write through each node; the last: {in_words(written[-1].receipt)}",
    )


async def _alive(stage: Stage, name: str) -> int:
    """How many members this node sees alive, itself included."""
    overview = (await stage.http.request("GET", "/v1/cluster", only=stage.url(name))).json()
    return sum(member["state"] in {"self", "alive"} for member in overview["members"])


def in_words(receipt: Receipt | None) -> str:
    """A receipt for people."""
    if receipt is None:
        return "no receipt"
    kept = ", kept for the absent" if receipt.hinted else ""
    who = " and ".join(receipt.replicas) or "none"
    return f"{receipt.needed} of {receipt.n} replicas needed, {receipt.acks} answered ({who}){kept}"
