"""Votes and locks while links are cut and nodes are killed: never two winners, never two holders."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.cluster.links import Links

VOTES = 2_000
CANDIDATES = 4
AT_ONCE = 24


@pytest.fixture
def links(tmp_path: Path) -> Iterator[Links]:
    with Links(tmp_path) as links:
        yield links


async def propose(session: aiohttp.ClientSession, links: Links, node: str, vote: str, candidate: str) -> Any:
    """The answer's status and winner; None where none came."""
    proposal = {"candidate": candidate, "value": {"of": candidate}}
    try:
        async with session.post(links.url(node, f"/v1/votes/{vote}?timeout=2s"), json=proposal) as answer:
            told = await answer.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError):
        return None
    if answer.status in (200, 201):
        assert told["value"] == {"of": told["winner"]}
        return answer.status, told["winner"]
    assert answer.status in (503, 504), told
    return None


async def faults(links: Links, is_over: asyncio.Event) -> int:
    """Cuts a node off, heals, kills a node, starts it again, and so on; how many faults there were."""
    chance = random.Random(7)
    count = 0
    while not is_over.is_set():
        victim = chance.choice(links.names)
        if count % 2:
            await asyncio.to_thread(links.kill, victim)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(links.restart, victim)
        else:
            await asyncio.to_thread(links.cut, [victim], links.others(victim))
            await asyncio.sleep(1.0)
            await asyncio.to_thread(links.heal)
        count += 1
        await asyncio.sleep(0.5)
    return count


async def test_two_thousand_votes_have_one_winner_each(links: Links) -> None:
    winners: defaultdict[str, Counter[str]] = defaultdict(Counter)
    decided_here: Counter[str] = Counter()
    is_over = asyncio.Event()
    numbers = itertools.count()
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=10)
    ) as session:

        async def races() -> None:
            while (number := next(numbers)) < VOTES:
                vote = f"v{number}"
                nodes = [links.names[(number + turn) % 3] for turn in range(CANDIDATES)]
                told = await asyncio.gather(
                    *(propose(session, links, node, vote, f"c{turn}") for turn, node in enumerate(nodes))
                )
                for status, winner in filter(None, told):
                    winners[vote][winner] += 1
                    decided_here[vote] += status == 201

        troubles = asyncio.get_running_loop().create_task(faults(links, is_over))
        await asyncio.gather(*(races() for _ in range(AT_ONCE)))
        is_over.set()
        assert await troubles >= 2
        assert not [vote for vote, told in winners.items() if len(told) > 1], "two winners"
        assert max(decided_here.values()) == 1, "two were told that it was their proposal that decided"

        # Once all is well, every vote can be decided, and everybody is told what was told before.
        for number in range(VOTES):
            vote = f"v{number}"
            told = await propose(session, links, links.names[number % 3], vote, "late")
            assert told is not None, vote
            winners[vote][told[1]] += 1
        assert not [vote for vote, told in winners.items() if len(told) > 1], "a decision changed"
        assert len(winners) == VOTES


async def test_never_two_holders_while_links_are_cut_and_nodes_die(links: Links) -> None:
    """What is held is held until it is released or its lease is over by the holder's own, stricter count."""
    held: dict[str, tuple[str, float]] = {}
    sections: Counter[str] = Counter()
    last_fence: defaultdict[str, int] = defaultdict(int)
    ttl_s = 3.0
    locks = [f"l{number}" for number in range(4)]
    chance = random.Random(11)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=30)
    ) as session:

        async def work(name: str, ends_s: float) -> None:
            while time.monotonic() < ends_s:
                lock, node = chance.choice(locks), chance.choice(links.names)
                url = links.url(node, f"/v1/locks/{lock}?timeout=2s")
                wish = {"owner": name, "ttl": f"{ttl_s:g}s", "wait": "2s"}
                sent_s = time.monotonic()
                try:
                    async with session.post(url, json=wish) as answer:
                        grant = await answer.json(content_type=None)
                except (aiohttp.ClientError, TimeoutError):
                    continue
                if answer.status != 201:
                    assert answer.status in (409, 503, 504), grant
                    continue
                now_s = time.monotonic()
                other = held.get(lock)
                assert other is None or other[1] < now_s, f"{name} and {other} hold {lock} at once"
                assert grant["fence"] > last_fence[lock], "fences don't follow one another"
                last_fence[lock] = grant["fence"]
                # The grant may be as old as the request; whoever waited has a lease that begins later, and longer.
                held[lock] = name, sent_s + ttl_s
                sections[lock] += 1
                await asyncio.sleep(chance.random() / 10)
                if held.get(lock, ("", 0.0))[0] == name:
                    del held[lock]
                token = {"KV-Lock-Token": grant["token"]}
                try:
                    async with session.delete(
                        links.url(chance.choice(links.names), f"/v1/locks/{lock}"), headers=token
                    ):
                        pass
                except (aiohttp.ClientError, TimeoutError):
                    continue

        is_over = asyncio.Event()
        troubles = asyncio.get_running_loop().create_task(faults(links, is_over))
        ends_s = time.monotonic() + 15
        await asyncio.gather(*(work(f"w{number}", ends_s) for number in range(10)))
        is_over.set()
        assert await troubles >= 2
        assert all(sections[lock] >= 5 for lock in locks), sections
