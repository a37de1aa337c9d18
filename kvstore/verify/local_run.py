"""One run against a cluster of our own: start it, load it while faults act, heal it, see that it lives, tidy up.

What it comes to is a history, the faults with what was seen of them, and what the cluster owed when all was healed and
did not do. Judging is somebody else's work.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from kvstore.client.connecting import connect_async
from kvstore.errors import KvstoreError
from kvstore.verify.faults.cluster import ClusterFailed, LocalCluster
from kvstore.verify.faults.disk import DiskFull
from kvstore.verify.faults.schedule import Acting, Schedule
from kvstore.verify.faults.small_disk import NoSmallDisk, SmallDisk
from kvstore.verify.history import History
from kvstore.verify.load import WORKLOADS, Load, LoadPlan

LIVE_WITHIN_S = 5.0
"""Once all nodes are ready a request has so much time, and no second try by hand."""
SHOW_EVERY_S = 0.2
WARM_S = 1.0
"""Of load before the first fault: what is usual has to be known before what is slow."""
WIPED_COPIES = 2
"""A weak write that may lose one disk must be on two."""


class Watcher(Protocol):
    """Who is told how it goes."""

    def say(self, text: str) -> None:
        """Something has happened."""
        ...

    def show(self, load: Load, acting: Sequence[Acting], left_s: float) -> None:
        """Called a few times a second."""
        ...


@dataclass(frozen=True)
class LocalPlan:
    """What to run."""

    folder: Path
    """For the nodes' folders; it must be there."""
    history: Path
    """Where the history is written while it happens."""
    serve: Sequence[str]
    """The command that runs a node, without its options."""
    run_id: str
    nodes: int = 3
    workloads: Sequence[str] = WORKLOADS
    faults: Sequence[str] = ()
    """Kinds, see schedule.KINDS."""
    time_s: float = 60.0
    seed: int = 0
    rate: float = 150.0
    concurrency: int = 3


@dataclass
class LocalResult:
    """What came of it."""

    history: History
    actings: Sequence[Acting]
    unseen: Sequence[str] = ()
    """Kinds of faults that were wished for and not seen to act."""
    owed: list[str] = field(default_factory=list)
    """What the healed cluster did not do."""
    skipped: str = ""
    """Why a kind was left out that can't be tried on this machine."""
    seconds: float = 0.0


async def run_local(plan: LocalPlan, watcher: Watcher) -> LocalResult:
    """The whole run. Raises ClusterFailed when the cluster does not come about."""
    began_s = time.monotonic()
    disk, skipped = await _small_disk(plan)
    faults = [kind for kind in plan.faults if not (skipped and kind == DiskFull.name)]
    if skipped:
        watcher.say(skipped)
    cluster = LocalCluster(
        plan.folder, plan.nodes, plan.serve, dice=random.Random(f"{plan.seed}/links"), small_disk=disk
    )
    async with cluster:
        watcher.say(f"{plan.nodes} nodes are ready after {time.monotonic() - began_s:.1f} s")
        schedule = Schedule(cluster, faults, plan.time_s, plan.seed)
        for acting in schedule.actings:
            watcher.say(f"plan: {acting.for_s:.1f} s of {acting.name}: {acting.fault.says}")
        load_plan = LoadPlan(
            cluster.urls,
            plan.run_id,
            plan.workloads,
            plan.seed,
            plan.rate,
            plan.concurrency,
            weak_copies=WIPED_COPIES if "wipe" in plan.faults else 1,
        )
        with plan.history.open("wb") as file:
            async with Load(load_plan, file) as load:
                owed = await _load_and_hurt(cluster, schedule, load, plan, watcher)
                if not owed:
                    watcher.say("all nodes are ready, and answer; now the final reads")
                    owed = await load.finish()
                schedule.count(load.journal.efforts)
                history = load.history()
    return LocalResult(history, schedule.actings, schedule.missed(), owed, skipped, time.monotonic() - began_s)


async def _small_disk(plan: LocalPlan) -> tuple[SmallDisk | None, str]:
    """A disk for the last node, where its filling is wished for; or why there is none."""
    if DiskFull.name not in plan.faults:
        return None, ""
    disk = SmallDisk(plan.folder / f"n{plan.nodes}" / "data")
    try:
        await disk.mount()
    except NoSmallDisk as reason:
        await disk.close()
        return None, f"{DiskFull.name} is left out: {reason}"
    return disk, ""


async def _load_and_hurt(
    cluster: LocalCluster, schedule: Schedule, load: Load, plan: LocalPlan, watcher: Watcher
) -> list[str]:
    """The load with the faults, and the healing. What the healed cluster does not do, in words."""
    over = asyncio.Event()
    owed: list[str] = []
    end_s = time.monotonic() + WARM_S + plan.time_s

    async def hurt() -> None:
        await asyncio.sleep(WARM_S)
        if schedule.actings:
            await schedule.run(watcher.say)
        await asyncio.sleep(max(0.0, end_s - time.monotonic()))

    async def show() -> None:
        while not over.is_set():
            watcher.show(load, schedule.acting_now, end_s - time.monotonic())
            await asyncio.sleep(SHOW_EVERY_S)

    async with asyncio.TaskGroup() as group:
        group.create_task(load.run(over))
        group.create_task(show())
        try:
            await hurt()
        except* ClusterFailed as failed:
            owed += _in_words(failed)
        finally:
            over.set()
    await cluster.heal()
    try:
        await cluster.wait_ready()
    except ClusterFailed as failed:
        return [*owed, f"after everything was healed: {failed}"]
    return owed + await _live(cluster, plan.run_id)


async def _live(cluster: LocalCluster, run_id: str) -> list[str]:
    """Every new request through every node succeeds; those that do not, in words."""
    owed: list[str] = []
    for name, url in cluster.urls.items():
        key = f"verify/{run_id}/alive-{name}"
        async with connect_async([url], timeout=LIVE_WITHIN_S) as client:
            try:
                await client.put(key, name, consistency="strong")
                found = await client.get(key, consistency="strong")
                if found is None or found.text != name:
                    owed.append(f"{name}, all being healed: what was just written strongly was not read")
                await client.put(key, name, consistency="weak", w="all")
                await client.vote(key, name)
                async with client.lock(key, ttl=5.0, wait=LIVE_WITHIN_S):
                    pass
                await client.delete(key, consistency="strong")
            except KvstoreError as error:
                owed.append(f"{name}, all being healed: {error.code}: {error}")
    return owed


def _in_words(group: BaseExceptionGroup[ClusterFailed]) -> list[str]:
    words: list[str] = []
    for error in group.exceptions:
        words += _in_words(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
    return words
