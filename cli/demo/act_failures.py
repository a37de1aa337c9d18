"""Third act: a node is killed, then a second; what goes on, what is refused, and how it heals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.demo.act_levels import in_words
from cli.demo.stage import Stage
from cli.demo.story import Story
from cli.demo.writer import Writer

if TYPE_CHECKING:
    from kvstore.errors import QuorumUnavailable

WRITES = 25
"""Acknowledged before the kill, and again after it."""
READY_S = 30.0
"""For nodes to come back, on a busy machine."""
WITHOUT_MAJORITY_TIMEOUT_S = 2.0


async def node_killed(stage: Stage, story: Story) -> str:
    """The busiest node is killed while strong writes run; which one."""
    story.chapter("A node dies")
    victim = await _primary(stage, Writer.KEY)
    story.tell(
        f"A program counts up a number with strong writes, one after another. In the midst of it {victim}, through "
        "which all writes of this key go, gets kill -9: no goodbye, as when the power fails."
    )
    async with Writer(stage.everyone) as writer:
        await story.until(lambda: writer.has_acknowledged(WRITES), f"{WRITES} acknowledged writes")
        pid = await stage.kill(victim)
        before = len(writer.acknowledged)
        await story.until(lambda: writer.has_acknowledged(before + WRITES), f"{WRITES} writes after the kill")
    story.see(
        "node-lost",
        len(writer.acknowledged) >= before + WRITES,
        f"{victim} (process {pid}) is gone; {before} writes were acknowledged before and "
        f"{len(writer.acknowledged) - before} after, with {writer.longest_wait_s:.2f} s between two of them at most. "
        f"{len(writer.unknown)} got no answer: the program was told that nobody knows whether it was applied",
    )
    survivor = stage.others(victim)[0]
    read = await stage.clients[survivor].get(Writer.KEY, consistency="strong")
    found = int(read.text) if read is not None else None
    story.see(
        "nothing-lost",
        found is not None and writer.may_be_read(found),
        f"a strong read through {survivor} shows {found}; the last acknowledged was {writer.acknowledged[-1]}",
    )
    return victim


async def majority_lost(stage: Stage, story: Story, dead: str) -> tuple[str, str]:
    """A second node is killed; the node that is left, and the text that it refused."""
    story.chapter("The majority is lost")
    second, alone = stage.others(dead)
    await stage.everyone.put("motto", "small steps", consistency="strong")
    await stage.kill(second)
    story.tell(
        f"{second} is killed, too. {alone} is alone and can't know whether the other two are dead or just can't be "
        "reached. A strong write that it took now could contradict one of theirs."
    )
    refused, text = await _refusal(stage, story, alone)
    story.see(
        "refused",
        (refused.status, refused.outcome) == (503, "not-applied")
        and refused.fields.get("needed", 0) >= 2
        and refused.fields.get("got") == 1,
        f"strong write through {alone}: {refused.status} {refused.code}, needed={refused.fields.get('needed')}, "
        f"got={refused.fields.get('got')}, outcome: {refused.outcome}",
    )
    taken = await stage.clients[alone].put("note", "from a lonely node", consistency="eventual")
    read = await stage.clients[alone].get("note", consistency="eventual")
    story.see(
        "taken",
        taken.level == "eventual" and read is not None and read.version == taken.version,
        f"eventual write through {alone}: {in_words(taken.receipt)}",
    )
    return alone, text


async def heal(stage: Stage, story: Story, alone: str, refused: str) -> None:
    """Both nodes come back on the folders that they left."""
    story.chapter("The cluster heals")
    back = stage.others(alone)
    story.tell(f"{' and '.join(back)} start again, on the folders that they left behind.")
    began = story.seconds
    for name in back:
        await stage.start_again(name)
    for name in stage.names:
        await story.until(lambda name=name: stage.is_ready(name), f"{name} to be ready", READY_S)  # type: ignore[misc]
    before = await stage.clients[back[0]].get("motto", consistency="strong")
    shown = None if before is None else before.text
    story.see(
        "not-applied",
        shown is not None and shown != refused,
        f"a strong read through {back[0]} shows {shown!r}, not the refused {refused!r}",
    )
    written = await stage.clients[back[1]].put("motto", "great leaps", consistency="strong")
    story.see(
        "healed",
        written.level == "strong" and written.acks >= 2,
        f"strong write through {back[1]}, {story.seconds - began:.1f} s after: {in_words(written.receipt)}",
    )


async def convergence(stage: Stage, story: Story) -> None:
    """Each node is asked which version each replica holds of each key, until all say the same."""
    story.chapter("The replicas converge")
    keys = ["greeting", "visits", "note", "motto", Writer.KEY, *(f"seen/{name}" for name in stage.names)]
    story.tell(
        f"Two nodes were away while others wrote. Nobody repairs anything by hand. Each node is asked which versions "
        f"all three replicas hold of {len(keys)} keys."
    )
    began = story.seconds

    async def same_everywhere() -> list[str] | None:
        held = [await _held(stage, key) for key in keys]
        same = all(len(versions) == 1 and None not in versions for versions in held)
        return [str(versions.pop()) for versions in held] if same else None

    await story.until(same_everywhere, "all replicas to hold the same versions", READY_S)
    read = [await stage.clients[name].get("note", consistency="weak") for name in stage.names]
    texts = {value.text if value is not None else None for value in read}
    story.see(
        "converged",
        texts == {"from a lonely node"},
        f"{len(keys)} keys x 3 replicas, as told by each of the 3 nodes: one version per key, "
        f"{story.seconds - began:.1f} s after the question. What the lonely node took is on all three",
    )


async def _primary(stage: Stage, key: str) -> str:
    """The node through which strong writes of the key go."""
    answer = await stage.http.request("GET", "/v1/cluster/partitions", query={"key": key})
    return str(answer.json()["primary"])


async def _held(stage: Stage, key: str) -> set[Any]:
    """All versions that the nodes tell of the key's replicas; a replica without one is None."""
    versions = set()
    for name in stage.names:
        query = {"key": key, "versions": "true"}
        answer = await stage.http.request("GET", "/v1/cluster/partitions", query=query, only=stage.url(name))
        replicas = answer.json()["replicas"]
        versions |= {replica["version"] for replica in replicas}
        if len(replicas) != len(stage.names):
            versions.add(None)
    return versions


async def _refusal(stage: Stage, story: Story, alone: str) -> tuple[QuorumUnavailable, str]:
    """The first refusal, and what it refused.

    Until the node has noticed that it is alone, a write may begin, and end unknown; such a one has another text.
    """
    from kvstore.errors import OutcomeUnknown, QuorumUnavailable  # noqa: PLC0415

    attempts = 0

    async def attempt() -> tuple[QuorumUnavailable, str] | None:
        nonlocal attempts
        attempts += 1
        text = f"attempt {attempts} without a majority"
        try:
            await stage.clients[alone].put("motto", text, consistency="strong", timeout=WITHOUT_MAJORITY_TIMEOUT_S)
        except QuorumUnavailable as refused:
            return refused, text
        except OutcomeUnknown:
            return None
        return None

    return await story.until(attempt, f"{alone} to refuse a strong write")
