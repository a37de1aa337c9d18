"""Random schedules of locks: clients with leases, some of which die or sleep; nodes that are cut off; late messages.

Each client knows until when its lease lasts by the strictest count: from when it asked, or from when it sent the
renewal with which it began. Nobody else may be granted the lock before that, unless it was released.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from random import Random

from cluster.locks.outcomes import LockGranted, LockLost
from cluster.protocol.lock_messages import LockAcquire, LockConfirm, LockMuster, LockOffer, LockStep, LockWaiting
from cluster.protocol.messages import Accept, Prepare
from tests.coordination.lockers import Locker
from tests.coordination.three_nodes import Fate, form_cluster, until


class Violation(Exception):
    """Something was seen that must not be."""


async def run_schedule(seed: int) -> None:
    """Raises Violation."""
    chance = Random(seed)
    cluster = await form_cluster()
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + 120
    holds: dict[str, tuple[str, float]] = {}
    fences: defaultdict[str, int] = defaultdict(int)
    sections = 0
    locks = ["a", "b"]

    async def client(name: str) -> None:
        nonlocal sections
        while loop.time() < ends_s:
            lock, at = chance.choice(locks), chance.randrange(3)
            locker = Locker(cluster, name, ttl_s=chance.choice((1.0, 3.0, 8.0)))
            began_s, wait_s = loop.time(), chance.choice((0.0, 2.0, 20.0))
            outcome = await locker.acquire(at, lock, wait_s=wait_s, timeout_s=2.0)
            if not isinstance(outcome, LockGranted):
                await asyncio.sleep(chance.random())
                continue
            # One that did not wait counts from when it asked, one that did from a renewal of its own.
            if wait_s:
                began_s = loop.time()
                if not isinstance(await cluster.nodes[at].locks.renew(lock, locker.token, 2.0), LockGranted):
                    continue
            until_s = began_s + locker.ttl_s
            if loop.time() >= until_s:
                continue
            other = holds.get(lock)
            if other is not None and other[1] > loop.time():
                raise Violation(f"{name} and {other[0]} hold {lock} at once (seed {seed})")
            if outcome.fence <= fences[lock]:
                raise Violation(f"the fences of {lock} don't grow (seed {seed})")
            holds[lock], fences[lock] = (name, until_s), outcome.fence
            sections += 1
            if chance.random() < 0.2:
                continue  # it dies, or sleeps for ever
            ends_work_s = loop.time() + chance.random() * chance.choice((0.5, 2 * locker.ttl_s))
            while loop.time() < min(ends_work_s, until_s):
                await asyncio.sleep(min(locker.ttl_s / 3, ends_work_s - loop.time(), until_s - loop.time()))
                if loop.time() >= min(ends_work_s, until_s):
                    break
                sent_s = loop.time()
                renewed = await cluster.nodes[chance.randrange(3)].locks.renew(lock, locker.token, 1.0)
                if isinstance(renewed, LockGranted) and loop.time() < sent_s + locker.ttl_s:
                    if holds.get(lock) != (name, until_s):
                        raise Violation(f"{name} could renew what {holds.get(lock)} has by now (seed {seed})")
                    until_s = sent_s + locker.ttl_s
                    holds[lock] = name, until_s
                elif isinstance(renewed, LockLost) and loop.time() < until_s:
                    raise Violation(f"{name} lost {lock} before its lease was over (seed {seed})")
            if holds.get(lock) == (name, until_s):
                del holds[lock]
                await cluster.nodes[chance.randrange(3)].locks.release(lock, locker.token, 2.0)

    async def trouble() -> None:
        kinds = (LockAcquire, LockStep, LockWaiting, LockConfirm, LockOffer, LockMuster, Prepare, Accept)
        while loop.time() < ends_s:
            await asyncio.sleep(chance.random() * 4)
            slot = chance.randrange(3)
            what = chance.randrange(4)
            if what == 0:
                cluster.network.cut_off(slot)
                await asyncio.sleep(chance.random() * 5)
                cluster.network.rejoin(slot)
            else:
                fate = chance.choice((Fate.LOST, Fate.ANSWER_LOST, Fate.SILENT, Fate.DELIVERED))
                late_s = chance.random() * 3
                cluster.network.treat(fate, *chance.sample(kinds, 3), target=slot, answer_after_s=late_s)
                await asyncio.sleep(chance.random() * 2)
                cluster.network.heal()

    try:
        async with asyncio.TaskGroup() as group:
            for work in (trouble(), *(client(f"c{number}") for number in range(6))):
                group.create_task(work)
    except ExceptionGroup as failed:  # not except*: until Python 3.11.4 what that raises is a group, too
        found = [error for error in failed.exceptions if isinstance(error, Violation)]
        if not found:
            raise
        raise found[0] from None
    cluster.network.heal()
    if sections <= 20:
        raise Violation(f"only {sections} critical sections came about (seed {seed})")
    last = Locker(cluster, "last")
    for lock in locks:
        if not isinstance(await last.acquire(0, lock, wait_s=60), LockGranted):
            raise Violation(f"{lock} can't be had though all is well (seed {seed})")
    await until(lambda: not any(len(node.locks.desk) for node in cluster.nodes))
