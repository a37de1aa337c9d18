"""Canvasses: plain puts without a prepared ballot ask for promises together, and then go in a volley."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from cluster.coordination.writing import canvass
from cluster.coordination.writing.primary import _Proposal
from cluster.levels import Level
from cluster.membership.fitness import Bar
from cluster.protocol.changes import Put
from cluster.protocol.messages import Accept, Prepare, PrepareMany, PromisedMany, Read, Volley
from cluster.protocol.prepared import PREPARED_MS_MAX
from cluster.requests import Condition, ConditionKind, Fence, Found, Unavailable, Unknown, WriteOutcome, Written
from storage.ballot import NONE
from tests.coordination.overheard import Said, accepts, watch
from tests.coordination.test_fences import grant
from tests.coordination.three_nodes import MANY_KEYS, TURN_S, Cluster, Fate, form_cluster


def keys_of(cluster: Cluster, count: int, slot: int = 0) -> list[bytes]:
    """Keys that this node leads, all with the same replicas."""
    slots = cluster.topology.replicas_of(cluster.key_led_by(slot))
    return [key for key in MANY_KEYS if cluster.topology.replicas_of(key) == slots][:count]


async def put_all(
    cluster: Cluster, keys: Iterable[bytes], value: bytes, at: int = 0, **choices: object
) -> list[WriteOutcome]:
    """Puts to all of them in one turn of the loop."""
    return await asyncio.gather(*(cluster.put(at, key, value, **choices) for key in keys))  # type: ignore[arg-type]


def kinds(said: Said) -> list[tuple[int, str]]:
    return sorted((target, type(request).__name__) for target, request in said)


def higher(cluster: Cluster, slot: int) -> int:
    """A ballot of that node above all that were given out."""
    return cluster.nodes[slot].ballots.tick(max(node.ballots.highest for node in cluster.nodes))


ONE_OF_EACH = [(1, "PrepareMany"), (1, "Volley"), (2, "PrepareMany"), (2, "Volley")]


async def test_first_writes_of_one_turn_share_their_messages() -> None:
    cluster = await form_cluster()
    keys = keys_of(cluster, 20)
    said = watch(cluster)
    outcomes = await put_all(cluster, keys, b"first")
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    assert kinds(said) == ONE_OF_EACH
    prepares = next(asked.prepares for _, asked in said if isinstance(asked, PrepareMany))
    assert [prepare.key for prepare in prepares] == keys
    assert len({prepare.ballot for prepare in prepares}) == len(keys), "each has a ballot of its own"
    assert {accept.key: accept.record.ballot for accept in accepts(said)} == {
        prepare.key: prepare.ballot for prepare in prepares
    }
    await asyncio.sleep(TURN_S)
    assert all(cluster.values_on_disk(key) == [b"first"] * 3 for key in keys)
    said.clear()
    await put_all(cluster, keys, b"second")
    assert kinds(said) == [(1, "Volley"), (2, "Volley")], "the next ballot was promised with them"


async def test_what_is_there_already_is_written_over() -> None:
    """A strong value, a weak one, a deleted one: whose prepared ballot is gone, and who are not in memory."""
    cluster = await form_cluster()
    strong, weak, deleted = keys = keys_of(cluster, 3)
    await put_all(cluster, [strong, deleted], b"before")
    await cluster.put(1, weak, b"before", level=Level.WEAK)
    await cluster.put(0, deleted, None)
    await asyncio.sleep(TURN_S)
    cluster.nodes[0].prepared.clear()
    for node in cluster.nodes:
        for key in keys:
            node.replica._cache.remove(key)
    said = watch(cluster)
    outcomes = await put_all(cluster, keys, b"after")
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    assert kinds(said) == ONE_OF_EACH
    for key in keys:
        found = await cluster.get(2, key)
        assert isinstance(found, Found)
        assert found.record is not None
        assert found.record.value == b"after"


async def test_fences_that_are_there_stay() -> None:
    """A plain put does not lift them: what it would not know of is settled by a conversation of its own."""
    cluster = await form_cluster()
    fenced, plain = keys_of(cluster, 2)
    await grant(cluster, "lock", 5)
    assert isinstance(await cluster.put(0, fenced, b"before", fence=Fence("lock", 5)), Written)
    await cluster.put(0, plain, b"before")
    cluster.nodes[0].prepared.clear()
    said = watch(cluster)
    outcomes = await put_all(cluster, [fenced, plain], b"after")
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    assert {asked.key for _, asked in said if isinstance(asked, Prepare)} == {fenced}
    found = await cluster.get(1, fenced)
    assert isinstance(found, Found)
    assert found.record is not None
    assert (found.record.value, found.record.fences) == (b"after", {"lock": 5})


async def test_a_condition_asks_alone() -> None:
    """It depends on what is there."""
    cluster = await form_cluster()
    key, *_ = keys_of(cluster, 1)
    said = watch(cluster)
    outcome = await cluster.put(0, key, b"first", condition=Condition(ConditionKind.IF_ABSENT))
    assert isinstance(outcome, Written)
    assert not [asked for _, asked in said if isinstance(asked, PrepareMany)]


async def test_one_replica_that_has_promised_to_another_is_not_needed() -> None:
    cluster = await form_cluster()
    keys = keys_of(cluster, 3)
    await cluster.ask(1, Prepare(keys[0], higher(cluster, 1)))
    said = watch(cluster)
    outcomes = await put_all(cluster, keys, b"first")
    assert kinds(said) == ONE_OF_EACH
    first, *others = outcomes
    assert isinstance(first, Written)
    assert first.replicas == ("n0", "n2")
    assert all(isinstance(outcome, Written) for outcome in others)


async def test_two_that_have_are_asked_again_above_that() -> None:
    cluster = await form_cluster()
    keys = keys_of(cluster, 3)
    for slot in (1, 2):
        await cluster.ask(slot, Prepare(keys[0], higher(cluster, 1)))
    said = watch(cluster)
    outcomes = await put_all(cluster, keys, b"first")
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    assert {asked.key for _, asked in said if isinstance(asked, Prepare)} == {keys[0]}
    assert {accept.key for accept in accepts(said)} == set(keys[1:])


async def test_where_the_third_is_silent_what_one_leaves_out_waits_a_moment_only() -> None:
    cluster = await form_cluster()
    keys = keys_of(cluster, 3)
    await cluster.ask(1, Prepare(keys[0], higher(cluster, 1)))
    cluster.network.treat(Fate.SILENT, target=2)
    began_s = asyncio.get_running_loop().time()
    outcomes = await put_all(cluster, keys, b"first")
    assert all(isinstance(outcome, Written) for outcome in outcomes)
    assert asyncio.get_running_loop().time() - began_s < 0.5


async def test_without_a_majority_of_promises_it_is_surely_not_applied() -> None:
    cluster = await form_cluster()
    keys = keys_of(cluster, 3)
    cluster.network.treat(Fate.SILENT, source=0)
    outcomes = await put_all(cluster, keys, b"never", timeout_s=0.5)
    assert outcomes == [Unavailable(2, 1, ())] * 3
    cluster.network.heal()
    await asyncio.sleep(2)
    assert all(cluster.values_on_disk(key) == [None] * 3 for key in keys)


async def test_promised_and_then_silent_is_unknown() -> None:
    cluster = await form_cluster()
    keys = keys_of(cluster, 3)
    cluster.network.treat(Fate.SILENT, Volley, Accept)
    outcomes = await put_all(cluster, keys, b"maybe", timeout_s=0.5)
    assert all(isinstance(outcome, Unknown) for outcome in outcomes)


@pytest.mark.parametrize("fate", [Fate.UNSENT, Fate.LOST])
async def test_what_is_lost_is_asked_again(fate: Fate) -> None:
    cluster = await form_cluster()
    keys = keys_of(cluster, 3)
    cluster.network.treat(fate, PrepareMany)
    outcomes = await put_all(cluster, keys, b"first")
    assert all(isinstance(outcome, Written) for outcome in outcomes)


async def test_an_unfit_replica_promises_nothing_and_two_are_a_majority() -> None:
    cluster = await form_cluster()
    cluster.nodes[1].fitness.bar(Bar.READ_ONLY, "its disk is full")  # nobody has heard of it yet
    keys = keys_of(cluster, 3)
    outcomes = await put_all(cluster, keys, b"first")
    assert {outcome.replicas for outcome in outcomes if isinstance(outcome, Written)} == {("n0", "n2")}
    assert len(outcomes) == 3


async def test_no_replica_promises_before_it_is_on_its_disk() -> None:
    cluster = await form_cluster()
    key, *_ = keys_of(cluster, 1)
    cluster.nodes[1].disk.clear()
    replies: list[object] = []
    ballot = higher(cluster, 0)
    cluster.nodes[1].on_request(PrepareMany([Prepare(key, ballot)]), 0, lambda _, reply: replies.append(reply), 0)
    await asyncio.sleep(0.5)
    assert not replies
    cluster.nodes[1].disk.set()
    await asyncio.sleep(0.5)
    assert replies == [PromisedMany([])]
    state = cluster.nodes[1].engine.folder.states.get(key)
    assert state is not None
    assert state.promised == ballot


async def test_what_a_replica_says() -> None:
    """Promised is what nobody else was promised and what bears no fences; once for each, in whatever order."""
    cluster = await form_cluster()
    node = cluster.nodes[1]
    new, known, promised, fenced = b"new", b"known", b"promised", b"fenced"
    await grant(cluster, "lock", 5)
    await cluster.put(1, fenced, b"x", fence=Fence("lock", 5))
    await cluster.ask(1, Read(known, value=True))
    prepares = [Prepare(key, higher(cluster, 0)) for key in (new, known, promised, fenced)]
    await cluster.ask(1, Prepare(promised, higher(cluster, 2)))
    replies: list[object] = []
    node.on_request(PrepareMany(prepares), 0, lambda _, reply: replies.append(reply), 0)
    await asyncio.sleep(TURN_S)
    assert [sorted(reply.left) for reply in replies if isinstance(reply, PromisedMany)] == [[2, 3]]
    node.on_request(PrepareMany([]), 0, lambda _, reply: replies.append(reply), 0)
    assert replies[-1] == PromisedMany([])


async def test_many_are_asked_for_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvass, "TOGETHER_MAX", 4)
    cluster = await form_cluster()
    keys = keys_of(cluster, 10)
    said = watch(cluster)
    assert all(isinstance(outcome, Written) for outcome in await put_all(cluster, keys, b"first"))
    assert [len(asked.prepares) for target, asked in said if isinstance(asked, PrepareMany) and target == 1] == [
        4,
        4,
        2,
    ]


async def test_two_nodes_that_both_believe_to_be_primary_lose_nothing() -> None:
    cluster = await form_cluster()
    keys = keys_of(cluster, 6)
    works = []
    for number in range(5):
        for slot in (0, 1):
            for key in keys:
                value = b"%d of %d" % (number, slot)
                told: asyncio.Future[object] = asyncio.get_running_loop().create_future()
                deadline_s = asyncio.get_running_loop().time() + 5
                cluster.nodes[slot].primary.submit(key, Put(value, ""), 2, deadline_s, told.set_result)
                works.append(told)
    outcomes = await asyncio.gather(*works)
    assert all(isinstance(outcome, Written | Unknown) for outcome in outcomes), "one that meets the other's can't know"
    for key in keys:
        found = await cluster.get(2, key)
        assert isinstance(found, Found)
        assert cluster.values_on_disk(key).count(found.record and found.record.value) >= 2


async def test_those_that_wait_behind_a_first_write_take_their_turns() -> None:
    cluster = await form_cluster()
    key, *_ = keys_of(cluster, 1)
    outcomes = await asyncio.gather(*(cluster.put(0, key, b"%d" % number) for number in range(100)))
    versions = [outcome.version for outcome in outcomes if isinstance(outcome, Written)]
    assert len(set(versions)) == 100
    assert versions == sorted(versions)
    assert NONE not in versions
    assert b"99" in cluster.values_on_disk(key)


async def test_ballots_that_are_too_old_are_asked_for_anew_together() -> None:
    cluster = await form_cluster()
    keys = keys_of(cluster, 10)
    await put_all(cluster, keys, b"before")
    await asyncio.sleep(PREPARED_MS_MAX / 1000 + 1)
    said = watch(cluster)
    assert all(isinstance(outcome, Written) for outcome in await put_all(cluster, keys, b"after"))
    assert kinds(said) == ONE_OF_EACH


async def test_so_are_those_that_a_weak_write_went_over() -> None:
    cluster = await form_cluster()
    keys = keys_of(cluster, 10)
    await put_all(cluster, keys, b"strong")
    await put_all(cluster, keys, b"weak", at=1, level=Level.WEAK)
    await asyncio.sleep(TURN_S)
    said = watch(cluster)
    assert all(isinstance(outcome, Written) for outcome in await put_all(cluster, keys, b"after"))
    assert kinds(said) == ONE_OF_EACH


async def test_one_that_fails_at_the_beginning_keeps_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = await form_cluster()
    first, *others = keys_of(cluster, 5)
    too_few = _Proposal.too_few

    def fail(self: _Proposal, alive: list[int]) -> bool:
        if self.key == first:
            raise RuntimeError("this one fails")
        return too_few(self, alive)

    monkeypatch.setattr(_Proposal, "too_few", fail)
    loop = asyncio.get_running_loop()
    cluster.nodes[0].primary.submit(first, Put(b"first", ""), 2, loop.time() + 1, lambda outcome: None)
    assert all(isinstance(outcome, Written) for outcome in await put_all(cluster, others, b"first"))
