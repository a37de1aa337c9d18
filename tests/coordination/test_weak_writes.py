"""Weak and eventual writes among replicas that are slow, promised to others or gone."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from cluster.ballot_clock import BALLOT_MS_SHIFT
from cluster.coordination.drive import BACKOFF_S_MAX, PATIENCE_S, Context
from cluster.coordination.writing.primary import OnOutcome
from cluster.levels import Level
from cluster.protocol.changes import RENEW, Change
from cluster.protocol.messages import Accept, Forward, Outcome, Prepare
from cluster.requests import Overloaded, Unavailable, Unknown, Written
from tests.coordination.three_nodes import Fate, form_cluster

KEY = b"key"
ONE_HOUR = 3_600_000 << BALLOT_MS_SHIFT


async def test_a_weak_write_told_not_applied_is_never_seen() -> None:
    """The write waited for the clock's ceiling on a stalled disk; its client was told 503 at the deadline.

    When the disk came back the accepts went out after all, and the value appeared.
    """
    cluster = await form_cluster()
    cluster.nodes[0].disk.clear()
    outcome = await cluster.put(0, KEY, b"ghost", level=Level.WEAK, timeout_s=0.2)
    cluster.nodes[0].disk.set()
    await asyncio.sleep(2)
    assert isinstance(outcome, Unavailable | Unknown)
    assert cluster.values_on_disk(KEY) == [None, None, None]


@pytest.mark.parametrize("coordinator", ["a replica of the key", "another node"])
async def test_a_weak_write_whose_merge_may_have_arrived_is_never_told_not_applied(coordinator: str) -> None:
    """Refused by promises, the write was merged by the primary, whose answer was lost; then the other links broke.

    That nobody had taken the second round of accepts was reason enough for a 503: the value was there.
    """
    cluster = await form_cluster(4)
    key = cluster.key_without(3)
    primary, *others = cluster.topology.replicas_of(key)
    at = others[0] if coordinator == "a replica of the key" else 3
    await cluster.put(primary, key, b"strong")
    network = cluster.network
    links_break = partial(network.treat, Fate.UNSENT, Accept, source=at)
    network.treat(Fate.ANSWER_LOST, Forward, source=at, then=links_break)
    outcome = await cluster.put(at, key, b"merged", level=Level.WEAK, timeout_s=1.5)
    network.heal()
    await asyncio.sleep(2)
    assert b"merged" in cluster.values_on_disk(key)
    assert isinstance(outcome, Unknown | Written)


@pytest.mark.parametrize("level", [Level.WEAK, Level.EVENTUAL])
async def test_a_weak_write_goes_on_past_one_paused_replica(level: Level) -> None:
    """Over a key with a strong write, a weak write waited for the paused third replica until its deadline.

    One acknowledgement was asked for, two replicas were well, and the client got a 504.
    """
    cluster = await form_cluster()
    key = cluster.key_led_by(0)
    await cluster.put(0, key, b"strong")
    cluster.network.treat(Fate.SILENT, target=2)
    began_s = asyncio.get_running_loop().time()
    outcome = await cluster.put(0, key, b"weak", level=level)
    assert isinstance(outcome, Written)
    assert asyncio.get_running_loop().time() - began_s < 5 * PATIENCE_S


@pytest.mark.parametrize("answer_after_s", [0.8 * PATIENCE_S, 3 * PATIENCE_S])
async def test_a_weak_write_hears_replicas_that_are_slower_than_its_patience(answer_after_s: float) -> None:
    """Patience left over from one round ended the next, and a round that was given up never heard its answers.

    A network with a round trip above 0.1 s had every write with w=2 told 504, though all replicas had it.
    """
    cluster = await form_cluster()
    cluster.network.treat(Fate.DELIVERED, answer_after_s=answer_after_s)
    outcome = await cluster.put(0, KEY, b"value", level=Level.WEAK, needed=3)
    assert isinstance(outcome, Written)
    assert outcome.acks == 3


async def test_what_was_refused_and_not_merged_is_kept_aside() -> None:
    """The primary had no room for the merge and the second round met patience left over from the first.

    The write was given up after 0.15 s of 5 and kept aside by nobody, so that it could be lost.
    """
    cluster = await form_cluster(4)
    outsider = cluster.nodes[3]
    key = cluster.key_without(3)
    for slot in cluster.topology.replicas_of(key):
        await cluster.ask(slot, Prepare(key, cluster.nodes[slot].ballots.tick() + ONE_HOUR))
    outsider.context.hand_over = _no_room
    outcome = await cluster.put(3, key, b"refused", level=Level.WEAK, timeout_s=1)
    assert isinstance(outcome, Unknown)
    assert [record.value for record in outsider.engine.folder.kept_aside.values()] == [b"refused"]


async def test_a_write_renews_its_key_once_at_a_time() -> None:
    """With w=5 and two replicas that took nothing, each sweep handed over another renewal of the key.

    They multiplied: after a second thousands of rounds queued at the primary for a single write.
    """
    cluster = await form_cluster(5, replicas=5)
    primary, *_, fourth, fifth = cluster.topology.replicas_of(KEY)
    for slot in (fourth, fifth):
        cluster.network.treat(Fate.LOST, Accept, Prepare, target=slot)
    renewals = Renewals(cluster.nodes[primary].context)
    outcome = await cluster.put(primary, KEY, b"value", needed=5, timeout_s=3)
    assert isinstance(outcome, Unknown)
    assert renewals.most_at_once == 1
    assert renewals.begun < 2 * 3 / BACKOFF_S_MAX


class Renewals:
    """Counts the renewals that a node asks for."""

    def __init__(self, context: Context) -> None:
        self.begun = self.under_way = self.most_at_once = 0
        self._hand_over, context.hand_over = context.hand_over, self.hand_over

    def hand_over(self, key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome) -> None:
        if change != RENEW:
            self._hand_over(key, change, needed, deadline_s, on_outcome)
            return
        self.begun += 1
        self.under_way += 1
        self.most_at_once = max(self.most_at_once, self.under_way)

        def ended(outcome: Outcome) -> None:
            self.under_way -= 1
            on_outcome(outcome)

        self._hand_over(key, change, needed, deadline_s, ended)


def _no_room(key: bytes, change: Change, needed: int, deadline_s: float, on_outcome: OnOutcome) -> None:
    on_outcome(Overloaded(1.0))
