"""Puts of a batch: those of one primary are handed to it together, and each is a write for itself all the same."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import cast

import pytest

from cluster.coordination.writing import handover
from cluster.levels import Level
from cluster.membership.fitness import Bar
from cluster.pressure.admission import FEW, WINDOW_S
from cluster.protocol.changes import Put
from cluster.protocol.messages import Accept, Forward, Forwarded, ForwardMany, Prepare, Reply, Unfit
from cluster.requests import (
    ALWAYS,
    Condition,
    ConditionKind,
    Conflict,
    Found,
    Overloaded,
    Unavailable,
    Unknown,
    WriteOutcome,
    WriteRequest,
    Written,
)
from kvstore.http.incoming.parameters import BatchChoice
from kvstore.http.routes.batch_run import BatchRun
from kvstore.http.routes.operations import parse_batch
from kvstore.http.routes.service import Service
from tests.coordination.overheard import Said, watch
from tests.coordination.three_nodes import MANY_KEYS, TURN_S, Cluster, Fate, form_cluster
from tests.kvstore.http.honest_backend import ThreeNodes

KEYS = MANY_KEYS[:30]


class Told(dict[int, WriteOutcome]):
    """Place -> outcome; each is told once."""

    def __call__(self, place: int, outcome: WriteOutcome) -> None:
        assert place not in self, "told twice"
        self[place] = outcome


def begin(
    cluster: Cluster,
    at: int,
    keys: list[bytes],
    value: bytes = b"new",
    *,
    needed: int = 2,
    timeout_s: float = 5.0,
    conditions: dict[bytes, Condition] | None = None,
) -> Told:
    told = Told()
    requests = [
        WriteRequest(key, value, "", Level.STRONG, needed, 99.0, (conditions or {}).get(key, ALWAYS)) for key in keys
    ]
    cluster.nodes[at].begin_writes(requests, timeout_s, told)
    return told


async def put(
    cluster: Cluster,
    at: int,
    keys: list[bytes],
    value: bytes = b"new",
    *,
    needed: int = 2,
    timeout_s: float = 5.0,
    conditions: dict[bytes, Condition] | None = None,
) -> list[WriteOutcome]:
    """What became of each, all by the deadline."""
    told = begin(cluster, at, keys, value, needed=needed, timeout_s=timeout_s, conditions=conditions)
    latest_s = asyncio.get_running_loop().time() + timeout_s + 0.1
    while len(told) < len(keys):
        assert asyncio.get_running_loop().time() < latest_s, f"{len(told)} of {len(keys)} were told in time"
        await asyncio.sleep(TURN_S)
    return [told[place] for place in range(len(keys))]


def handed_over(said: Said) -> list[tuple[int, list[bytes]]]:
    return [(target, [key for key, _ in asked.puts]) for target, asked in said if isinstance(asked, ForwardMany)]


def led_by(cluster: Cluster, slot: int, keys: list[bytes] = KEYS) -> list[bytes]:
    return [key for key in keys if cluster.topology.replicas_of(key)[0] == slot]


async def test_what_has_one_primary_goes_to_it_together() -> None:
    cluster = await form_cluster()
    said = watch(cluster)
    outcomes = await put(cluster, 0, KEYS)
    assert sorted(handed_over(said)) == [(slot, led_by(cluster, slot)) for slot in (1, 2)]
    assert not [asked for _, asked in said if isinstance(asked, Forward)]
    assert cluster.nodes[0].handover.handed_over == len(led_by(cluster, 1)) + len(led_by(cluster, 2))
    versions = [outcome.version for outcome in outcomes if isinstance(outcome, Written)]
    assert len(set(versions)) == len(KEYS), "each has a version of its own"
    for key, outcome in zip(KEYS, outcomes, strict=True):
        found = await cluster.get(1, key)
        assert isinstance(found, Found)
        assert found.record is not None
        assert isinstance(outcome, Written)
        assert (found.record.value, found.record.origin) == (b"new", outcome.version)


async def test_each_has_its_own_outcome() -> None:
    """A condition that does not hold is that key's matter alone."""
    cluster = await form_cluster()
    there = KEYS[::3]
    await put(cluster, 1, there, b"old")
    absent = dict.fromkeys(KEYS, Condition(ConditionKind.IF_ABSENT))
    outcomes = await put(cluster, 0, KEYS, conditions=absent)
    for key, outcome in zip(KEYS, outcomes, strict=True):
        assert isinstance(outcome, Conflict if key in there else Written), key
        assert cluster.values_on_disk(key).count(b"old" if key in there else b"new") >= 2


async def test_a_large_value_is_handed_over_by_itself() -> None:
    cluster = await form_cluster()
    said = watch(cluster)
    value = bytes(handover.TOGETHER_BYTES_MAX + 1)
    assert all(isinstance(outcome, Written) for outcome in await put(cluster, 0, KEYS, value))
    assert not handed_over(said)
    assert len([asked for _, asked in said if isinstance(asked, Forward)]) == cluster.nodes[0].handover.handed_over


async def test_what_was_not_sent_goes_on_to_others() -> None:
    """The connection to a primary is down and nobody has noticed: its keys are written all the same."""
    cluster = await form_cluster()
    cluster.network.treat(Fate.UNSENT, ForwardMany, source=0, target=1)
    cluster.network.treat(Fate.UNSENT, Forward, source=0, target=1)
    said = watch(cluster)
    outcomes = await put(cluster, 0, KEYS)
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    assert not [target for target, asked in said if isinstance(asked, Forward) and target == 1], "not asked again"


@pytest.mark.parametrize("bar", [Bar.READ_ONLY, Bar.RECOVERING])
async def test_what_the_primary_refuses_goes_on_to_others(bar: Bar) -> None:
    cluster = await form_cluster()
    cluster.nodes[1].fitness.bar(bar, "for the test")  # nobody has heard of it yet
    outcomes = await put(cluster, 0, KEYS)
    assert all(isinstance(outcome, Written) for outcome in outcomes)


async def test_nobody_is_left_to_take_it() -> None:
    cluster = await form_cluster()
    cluster.network.treat(Fate.UNSENT, ForwardMany, Forward, Prepare, Accept, source=0)
    keys = led_by(cluster, 1)
    outcomes = await put(cluster, 0, keys, timeout_s=1.0)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    cluster.network.heal()
    await asyncio.sleep(2.0)
    assert all(cluster.values_on_disk(key) == [None, None, None] for key in keys)


@pytest.mark.parametrize(("fate", "is_there"), [(Fate.LOST, False), (Fate.ANSWER_LOST, True), (Fate.SILENT, False)])
async def test_what_may_have_arrived_is_unknown_and_handed_to_nobody_else(fate: Fate, is_there: bool) -> None:
    cluster = await form_cluster()
    cluster.network.treat(fate, ForwardMany, source=0, target=1)
    said = watch(cluster)
    outcomes = await put(cluster, 0, KEYS, timeout_s=1.0)
    for key, outcome in zip(KEYS, outcomes, strict=True):
        is_lost = cluster.topology.replicas_of(key)[0] == 1
        assert isinstance(outcome, Unknown if is_lost else Written)
        assert (b"new" in cluster.values_on_disk(key)) == (is_there or not is_lost)
    assert not [asked for _, asked in said if isinstance(asked, Forward)]
    assert len(handed_over(said)) == 2


async def test_a_lost_majority_is_told_for_each_before_anything_is_sent() -> None:
    cluster = await form_cluster()
    cluster.network.cut_off(1)
    cluster.network.cut_off(2)
    said = watch(cluster)
    outcomes = await put(cluster, 0, KEYS)
    assert [outcome for outcome in outcomes if not isinstance(outcome, Unavailable)] == []
    assert not [asked for _, asked in said if isinstance(asked, Forward | ForwardMany | Prepare)]


async def test_more_replicas_than_a_majority_may_be_asked_for() -> None:
    cluster = await form_cluster()
    outcomes = await put(cluster, 0, KEYS, needed=3)
    assert {outcome.acks for outcome in outcomes if isinstance(outcome, Written)} == {3}
    assert all(cluster.values_on_disk(key) == [b"new"] * 3 for key in KEYS)


async def test_they_have_the_time_that_is_left_to_the_batch() -> None:
    """Not what each request says of itself, which is 99 seconds here."""
    cluster = await form_cluster()
    cluster.network.treat(Fate.SILENT)
    outcomes = await put(cluster, 0, KEYS, timeout_s=0.5)
    assert all(isinstance(outcome, Unknown | Unavailable) for outcome in outcomes)


async def test_a_callback_that_fails_keeps_nobody_from_hearing() -> None:
    cluster = await form_cluster()
    told: dict[int, WriteOutcome] = {}

    def tell(place: int, outcome: WriteOutcome) -> None:
        told[place] = outcome
        if place % 2:
            raise RuntimeError("this callback fails")

    requests = [WriteRequest(key, b"new", "", Level.STRONG, 2, 5.0) for key in KEYS]
    cluster.nodes[0].begin_writes(requests, 5.0, tell)
    await asyncio.sleep(1.0)
    assert len(told) == len(KEYS)
    assert all(isinstance(outcome, Written) for outcome in told.values())


# -- at the primary ----------------------------------------------------------------------------------------------


async def ask(
    cluster: Cluster, slot: int, puts: list[tuple[bytes, Put]], budget_ms: int, age_ms: int = 0
) -> list[Reply]:
    """What that node replies to each of them, when it has replied to all."""
    replies: dict[int, Reply] = {}
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def respond(token: int, reply: Reply) -> None:
        assert token not in replies, "answered twice"
        replies[token] = reply
        if len(replies) == len(puts):
            answered.set_result(None)

    cluster.nodes[slot].on_request(ForwardMany(puts, 2, budget_ms), age_ms, respond, 10)
    await answered
    return [replies[10 + place] for place in range(len(puts))]


async def test_what_comes_too_late_is_not_begun() -> None:
    """Whoever asked has told its client by now that nobody knows."""
    cluster = await form_cluster()
    keys = led_by(cluster, 1)
    replies = await ask(cluster, 1, [(key, Put(b"new", "")) for key in keys], budget_ms=100, age_ms=100)
    assert all(isinstance(reply, Unfit) for reply in replies)
    await asyncio.sleep(1.0)
    assert all(cluster.values_on_disk(key) == [None, None, None] for key in keys)


async def test_what_can_not_make_its_deadline_is_refused_and_counted() -> None:
    cluster = await form_cluster()
    admission = cluster.nodes[1].forwards.admission
    now_s = asyncio.get_running_loop().time()
    admission.look(now_s)
    admission.begin(FEW + 1)
    admission.end(1.0, True)  # the last took a second
    admission.look(now_s + WINDOW_S)
    keys = led_by(cluster, 1)
    outcomes = await put(cluster, 0, keys, timeout_s=0.5)
    assert all(isinstance(outcome, Overloaded) for outcome in outcomes)
    assert all(cluster.values_on_disk(key) == [None, None, None] for key in keys)
    assert admission.refused == len(keys)
    assert admission.in_flight == FEW, "those that were refused are not under way"


async def test_all_of_them_count_as_under_way_until_they_have_ended() -> None:
    cluster = await form_cluster()
    keys, admission = led_by(cluster, 1), cluster.nodes[1].forwards.admission
    cluster.network.treat(Fate.SILENT, source=1)
    told = begin(cluster, 0, keys, timeout_s=1.0)
    await asyncio.sleep(0.1)
    assert admission.in_flight == len(keys)
    await asyncio.sleep(2.0)
    assert admission.in_flight == 0
    assert len(told) == len(keys)


async def test_a_node_without_a_replica_refuses_all_of_it() -> None:
    cluster = await form_cluster(5)
    key = cluster.key_without(1)
    others = led_by(cluster, 1)
    replies = await ask(cluster, 1, [(one, Put(b"new", "")) for one in (*others, key)], budget_ms=1_000)
    assert all(isinstance(reply, Unfit) for reply in replies)
    await asyncio.sleep(1.0)
    assert not any(b"new" in cluster.values_on_disk(one) for one in others)


async def test_two_puts_of_one_key_take_turns() -> None:
    """No batch sends such, but the protocol allows it."""
    cluster = await form_cluster()
    key = cluster.key_led_by(1)
    replies = await ask(cluster, 1, [(key, Put(b"first", "")), (key, Put(b"second", ""))], budget_ms=1_000)
    first, second = [reply.outcome for reply in replies if isinstance(reply, Forwarded)]
    assert isinstance(first, Written)
    assert isinstance(second, Written)
    assert first.version < second.version
    assert cluster.values_on_disk(key).count(b"second") >= 2


def hang(cluster: Cluster, key: bytes) -> None:
    """Two of its replicas take part in nothing for it."""
    for slot in (1, 2):
        cluster.nodes[slot].replica.exclude(key, "damaged")


async def test_one_that_hangs_holds_up_none_of_the_others() -> None:
    """They were told when it had ended, at its deadline or, where that came too late, as unknown."""
    cluster = await form_cluster()
    keys = led_by(cluster, 1)
    hang(cluster, keys[3])
    told = begin(cluster, 0, keys, timeout_s=0.3)
    await asyncio.sleep(5 * TURN_S)
    assert sorted(told) == [place for place in range(len(keys)) if place != 3]
    assert all(isinstance(outcome, Written) for outcome in told.values())
    await asyncio.sleep(0.4)
    assert isinstance(told[3], Unknown | Unavailable)


async def test_nor_does_it_make_the_primary_seem_slow() -> None:
    cluster = await form_cluster()
    keys, admission = led_by(cluster, 1), cluster.nodes[1].forwards.admission
    hang(cluster, keys[3])
    await put(cluster, 0, keys, timeout_s=1.0)
    admission.begin(FEW)
    admission.look(asyncio.get_running_loop().time())
    assert admission.can_make(0.5)


async def test_a_batch_goes_on_while_some_of_it_hang() -> None:
    """So many hung with them that nothing more of the batch was begun."""
    cluster = await form_cluster()
    for slot in (1, 2):
        hang(cluster, led_by(cluster, slot, MANY_KEYS[:100])[0])
    body = {"operations": [{"op": "put", "key": key.decode(), "value": "new"} for key in MANY_KEYS]}
    service = SimpleNamespace(backend=cluster.nodes[0], value_bytes_max=1 << 20, view=ThreeNodes())
    run = BatchRun(cast(Service, service), BatchChoice(Level.STRONG, 2, 2, 0.5), "id")
    results = await run.results(parse_batch(json.dumps(body).encode()))
    assert [result["status"] for result in results].count(200) == len(MANY_KEYS) - 2
