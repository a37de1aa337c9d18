"""Volleys: what goes straight goes together, and whatever does not is settled by a conversation of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import pytest

from cluster.coordination.writing import volley
from cluster.coordination.writing.primary import Computed
from cluster.link.frames import Requests, decode_requests, encode
from cluster.membership.fitness import Bar
from cluster.protocol.changes import Compute, Put
from cluster.protocol.messages import Accept, Outcome, Prepare, PrepareMany, Read, Taken, Volley
from cluster.requests import (
    Condition,
    ConditionKind,
    Conflict,
    Found,
    Overloaded,
    Unavailable,
    Unknown,
    WriteOutcome,
    Written,
)
from storage.ballot import NONE
from storage.record import Record
from tests.coordination.overheard import Said, accepts, watch
from tests.coordination.three_nodes import MANY_KEYS, TURN_S, Cluster, Fate, form_cluster, until

Answer = TypeVar("Answer")


def keys_of(cluster: Cluster, count: int) -> list[bytes]:
    """Keys that node 0 leads, all with the same replicas: their writes can go together."""
    slots = cluster.topology.replicas_of(cluster.key_led_by(0))
    return [key for key in MANY_KEYS if cluster.topology.replicas_of(key) == slots][:count]


async def prepared(count: int) -> tuple[Cluster, list[bytes]]:
    """Three nodes, and so many keys for each of which node 0 has a prepared ballot."""
    cluster = await form_cluster()
    keys = keys_of(cluster, count)
    assert len(keys) == count
    await put_all(cluster, keys, b"before", needed=3)
    return cluster, keys


async def put_all(cluster: Cluster, keys: Iterable[bytes], value: bytes, **choices: object) -> list[WriteOutcome]:
    """Puts to all of them in one turn of the loop."""
    return await asyncio.gather(*(cluster.put(0, key, value, **choices) for key in keys))  # type: ignore[arg-type]


def kinds(said: Said) -> list[tuple[int, type]]:
    return sorted(((target, type(request)) for target, request in said), key=str)


def versions(outcomes: Iterable[WriteOutcome]) -> list[int]:
    """All of them are written; under which origins."""
    found = list(outcomes)
    assert all(isinstance(outcome, Written) for outcome in found), found
    return [outcome.version for outcome in found if isinstance(outcome, Written)]


async def values(cluster: Cluster, at: int, keys: Iterable[bytes]) -> list[bytes | None]:
    outcomes = await asyncio.gather(*(cluster.get(at, key) for key in keys))
    return [outcome.record.value for outcome in outcomes if isinstance(outcome, Found) and outcome.record is not None]


async def timed(work: Awaitable[Answer]) -> tuple[float, Answer]:
    """How long it took, and what came of it."""
    began_s = asyncio.get_running_loop().time()
    outcome = await work
    return asyncio.get_running_loop().time() - began_s, outcome


# -- where nothing stands in the way -----------------------------------------------------------------------------


async def test_writes_of_one_turn_are_one_message_to_each_replica() -> None:
    """And each has its own receipt: its own version, on a majority of disks."""
    cluster, keys = await prepared(20)
    said = watch(cluster)
    outcomes = await put_all(cluster, keys, b"after")
    assert kinds(said) == [(1, Volley), (2, Volley)]
    sent = {accept.key: accept.record.origin for accept in accepts(said)}
    assert versions(outcomes) == [sent[key] for key in keys]
    assert len(set(sent.values())) == 20
    assert all(isinstance(outcome, Written) and outcome.acks == 2 for outcome in outcomes)
    assert all(sum(value == b"after" for value in cluster.values_on_disk(key)) >= 2 for key in keys)
    assert await values(cluster, 1, keys) == [b"after"] * 20


async def test_replicas_share_a_volley_in_whatever_order_they_are_preferred() -> None:
    cluster = await form_cluster(partitions=64)
    by_order = {cluster.topology.replicas_of(key): key for key in MANY_KEYS}
    keys = [key for slots, key in by_order.items() if slots[0] == 0]
    assert len(keys) == 2
    await put_all(cluster, keys, b"before", needed=3)
    said = watch(cluster)
    versions(await put_all(cluster, keys, b"after"))
    assert kinds(said) == [(1, Volley), (2, Volley)]
    assert {accept.key for accept in accepts(said)} == set(keys)


async def test_the_ballot_that_was_promised_with_a_volley_serves_the_next() -> None:
    cluster, keys = await prepared(5)
    said = watch(cluster)
    await put_all(cluster, keys, b"second")
    first = {accept.key: accept.next_ballot for accept in accepts(said)}
    await asyncio.sleep(TURN_S)
    said.clear()
    await put_all(cluster, keys, b"third")
    assert kinds(said) == [(1, Volley), (2, Volley)]
    assert {accept.key: accept.record.ballot for accept in accepts(said)} == first


async def test_a_conditional_write_without_a_prepared_ballot_goes_its_own_way() -> None:
    cluster, keys = await prepared(3)
    new = next(key for key in keys_of(cluster, 10) if key not in keys)
    said = watch(cluster)
    absent = cluster.put(0, new, b"after", condition=Condition(ConditionKind.IF_ABSENT))
    *others, outcome = await asyncio.gather(*(cluster.put(0, key, b"after") for key in keys), absent)
    versions([*others, outcome])
    assert {accept.key for accept in accepts(said)} == set(keys)
    assert {request.key for _, request in said if isinstance(request, Prepare | Accept)} == {new}


async def test_a_write_to_all_replicas_spreads_after_the_volley() -> None:
    cluster, keys = await prepared(3)
    said = watch(cluster)
    outcomes = await put_all(cluster, keys, b"after", needed=3)
    assert {accept.key for accept in accepts(said)} == set(keys)
    versions(outcomes)
    assert [outcome.replicas for outcome in outcomes if isinstance(outcome, Written)] == [("n0", "n1", "n2")] * 3
    assert all(cluster.values_on_disk(key) == [b"after"] * 3 for key in keys)


async def test_a_write_to_all_replicas_says_how_many_have_it_when_one_is_silent() -> None:
    cluster, keys = await prepared(2)
    cluster.network.treat(Fate.SILENT, target=2)
    said = watch(cluster)
    all_of_them, two_of_them = await asyncio.gather(
        cluster.put(0, keys[0], b"after", needed=3, timeout_s=1), cluster.put(0, keys[1], b"after", timeout_s=1)
    )
    assert isinstance(two_of_them, Written)
    origin = next(accept.record.origin for accept in accepts(said) if accept.key == keys[0])
    assert all_of_them == Unknown(3, 2, ("n0", "n1"), origin)


# -- what replicas leave out -------------------------------------------------------------------------------------


async def test_what_a_replica_says_of_a_volley() -> None:
    """It grants what it can grant at once, and is truthful about the rest and about the next ballot."""
    cluster = await form_cluster()
    node, other = cluster.nodes[1], cluster.nodes[2]
    plain, cold, promised, again = b"plain", b"cold", b"promised", b"again"
    for key in (plain, promised, again):
        await cluster.ask(1, Read(key, value=True))  # which brings it into memory
    volleyed = []
    for key in (plain, cold, promised, again):
        ballot = node.ballots.tick()
        volleyed.append(Accept(key, Record(ballot, ballot, False, b"value"), node.ballots.tick()))
    higher = other.ballots.tick(volleyed[-1].next_ballot)
    await cluster.ask(1, Prepare(promised, higher))
    await cluster.ask(1, Accept(again, volleyed[3].record, NONE))
    await cluster.ask(1, Prepare(again, higher))
    assert await cluster.ask(1, Volley(volleyed)) == Taken([1, 2], [3])  # type: ignore[arg-type]
    held = {key: cluster.values_on_disk(key)[1] for key in (plain, promised, again)}
    assert held == {plain: b"value", promised: None, again: b"value"}
    await asyncio.sleep(TURN_S)
    assert cluster.values_on_disk(cold)[1] == b"value", "decided as soon as it was loaded, though nobody is told"


async def test_no_replica_says_taken_before_it_is_on_its_disk() -> None:
    cluster, keys = await prepared(4)
    for slot in (1, 2):
        cluster.nodes[slot].disk.clear()
    writes = [asyncio.create_task(cluster.put(0, key, b"after")) for key in keys]
    await asyncio.sleep(1)
    assert not any(write.done() for write in writes)
    cluster.nodes[2].disk.set()
    versions(await asyncio.gather(*writes))
    assert all(cluster.values_on_disk(key) == [b"after", b"before", b"after"] for key in keys)
    cluster.nodes[1].disk.set()


async def test_a_majority_without_this_node_is_one() -> None:
    cluster, keys = await prepared(4)
    cluster.nodes[0].disk.clear()
    outcomes = await put_all(cluster, keys, b"after", timeout_s=1)
    versions(outcomes)
    assert {outcome.replicas for outcome in outcomes if isinstance(outcome, Written)} == {("n1", "n2")}
    cluster.nodes[0].disk.set()


async def test_what_one_replica_has_not_in_memory_waits_for_the_others() -> None:
    """They are a majority. And it gets there all the same."""
    cluster, keys = await prepared(5)
    cluster.nodes[1].replica._cache.remove(keys[3])
    said = watch(cluster)
    outcomes = await put_all(cluster, keys, b"after")
    versions(outcomes)
    assert kinds(said) == [(1, Volley), (2, Volley)]
    assert isinstance(outcomes[3], Written)
    assert outcomes[3].replicas == ("n0", "n2")
    await asyncio.sleep(TURN_S)
    assert all(cluster.values_on_disk(key) == [b"after"] * 3 for key in keys)


async def test_what_a_replica_has_not_in_memory_is_asked_for_alone_where_the_third_is_silent() -> None:
    """It is the same accept, under the same ballot; the others are not held up."""
    cluster, keys = await prepared(5)
    cluster.network.treat(Fate.SILENT, target=2)
    cluster.nodes[1].replica._cache.remove(keys[3])
    said = watch(cluster)
    began_s = asyncio.get_running_loop().time()
    versions(await put_all(cluster, keys, b"after"))
    assert asyncio.get_running_loop().time() - began_s < 0.2, "the silent one may be paused"
    alone = [request for target, request in said if isinstance(request, Accept) and target == 1]
    assert alone == [next(accept for accept in accepts(said) if accept.key == keys[3])]
    assert not any(isinstance(request, Prepare) for _, request in said)
    assert all(cluster.values_on_disk(key)[:2] == [b"after"] * 2 for key in keys)


async def test_what_a_replica_has_promised_to_another_is_tried_again_under_its_own_origin() -> None:
    """Its first accept may be chosen yet, so a second one is the same write, above the promise."""
    cluster, keys = await prepared(5)
    cluster.network.treat(Fate.UNSENT, target=2)
    higher = cluster.nodes[1].ballots.tick(cluster.nodes[0].ballots.highest)
    await cluster.ask(1, Prepare(keys[3], higher))
    said = watch(cluster)
    outcomes = await put_all(cluster, keys, b"after")
    sent = {accept.key: accept.record.origin for accept in accepts(said)}
    assert versions(outcomes) == [sent[key] for key in keys]
    state = cluster.nodes[1].replica.peek(keys[3])
    assert state is not None
    assert state.ballot > higher
    assert {request.key for _, request in said if isinstance(request, Prepare)} == {keys[3]}


async def test_a_replica_that_left_a_write_out_is_not_counted() -> None:
    """It is full, and nobody has heard of it yet; with the third silent there is no majority."""
    cluster, keys = await prepared(3)
    cluster.network.treat(Fate.SILENT, target=2)
    cluster.nodes[1].fitness.bar(Bar.READ_ONLY, "its disk is full")
    outcomes = await put_all(cluster, keys, b"after", timeout_s=1)
    assert all(isinstance(outcome, Unknown) and outcome.needed == 2 for outcome in outcomes)
    assert all(cluster.values_on_disk(key) == [b"after", b"before", b"before"] for key in keys)


async def test_an_unfit_replica_holds_up_nobody() -> None:
    cluster, keys = await prepared(3)
    cluster.nodes[1].fitness.bar(Bar.READ_ONLY, "its disk is full")
    elapsed_s, outcomes = await timed(put_all(cluster, keys, b"after"))
    versions(outcomes)
    assert elapsed_s < 0.1
    assert all(cluster.values_on_disk(key) == [b"after", b"before", b"after"] for key in keys)


async def test_a_next_ballot_that_no_majority_promised_is_not_used() -> None:
    """The record reached a replica by another way, and that has promised more since: `granted`, and no more."""
    cluster, keys = await prepared(1)
    said = watch(cluster)

    def overtake() -> None:
        accept, node = accepts(said)[0], cluster.nodes[1]
        node.on_request(Accept(accept.key, accept.record, NONE), 0, lambda _, reply: None, 0)
        node.on_request(Prepare(accept.key, node.ballots.tick(accept.next_ballot)), 0, lambda _, reply: None, 0)

    cluster.network.treat(Fate.SILENT, target=2)
    cluster.network.treat(Fate.DELIVERED, Volley, target=1, then=overtake)
    versions(await put_all(cluster, keys, b"second"))
    assert kinds(said) == [(1, Volley), (2, Volley)]
    cluster.network.heal()
    said.clear()
    versions(await put_all(cluster, keys, b"third"))
    assert {kind for _, kind in kinds(said)} == {PrepareMany, Volley}


async def test_a_condition_that_fails_costs_no_ballot() -> None:
    """The ballot was not spent: it serves the next write of the key."""
    cluster, keys = await prepared(3)
    said = watch(cluster)
    await put_all(cluster, keys, b"second")
    next_ballot = next(accept.next_ballot for accept in accepts(said) if accept.key == keys[1])
    await asyncio.sleep(TURN_S)
    said.clear()
    absent = Condition(ConditionKind.IF_ABSENT)
    outcomes = await asyncio.gather(
        cluster.put(0, keys[0], b"third"),
        cluster.put(0, keys[1], b"third", condition=absent),
        cluster.put(0, keys[2], b"third"),
    )
    assert [type(outcome) for outcome in outcomes] == [Written, Conflict, Written]
    assert {accept.key for accept in accepts(said)} == {keys[0], keys[2]}
    assert not any(isinstance(request, Prepare | Accept) for _, request in said), "a read shows what it failed at"
    said.clear()
    versions([await cluster.put(0, keys[1], b"fourth")])
    assert {accept.record.ballot for accept in accepts(said)} == {next_ballot}
    assert await values(cluster, 2, keys) == [b"third", b"fourth", b"third"]


# -- what is lost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", [Fate.UNSENT, Fate.LOST, Fate.SILENT, Fate.ANSWER_LOST])
async def test_one_replica_of_three_is_not_needed(fate: Fate) -> None:
    cluster, keys = await prepared(5)
    cluster.network.treat(fate, target=2)
    said = watch(cluster)
    elapsed_s, outcomes = await timed(put_all(cluster, keys, b"after"))
    versions(outcomes)
    assert elapsed_s < 0.1
    assert kinds(said) == [(1, Volley), (2, Volley)]


@pytest.mark.parametrize("fate", [Fate.UNSENT, Fate.LOST, Fate.ANSWER_LOST])
async def test_two_lost_volleys_are_asked_for_one_by_one(fate: Fate) -> None:
    """Whoever took it says so when it is asked for that very accept again: no write is applied twice."""
    cluster, keys = await prepared(5)
    cluster.network.treat(fate, Volley)
    said = watch(cluster)
    outcomes = await put_all(cluster, keys, b"after")
    sent = {accept.key: accept for accept in accepts(said)}
    assert versions(outcomes) == [sent[key].record.origin for key in keys]
    assert all(request == sent[request.key] for _, request in said if isinstance(request, Accept))
    assert not any(isinstance(request, Prepare) for _, request in said)
    assert await values(cluster, 1, keys) == [b"after"] * 5


async def test_two_silent_replicas_leave_it_unknown_at_the_deadline() -> None:
    """One has it, for this node does; and the key serves the next."""
    cluster, keys = await prepared(3)
    cluster.network.treat(Fate.SILENT)
    said = watch(cluster)
    elapsed_s, outcomes = await timed(put_all(cluster, keys, b"after", timeout_s=1))
    sent = {accept.key: accept.record.origin for accept in accepts(said)}
    assert outcomes == [Unknown(2, 1, (), sent[key]) for key in keys]
    assert elapsed_s >= 1
    cluster.network.heal()
    versions(await put_all(cluster, keys, b"next"))
    assert await values(cluster, 2, keys) == [b"next"] * 3


async def test_each_write_of_a_volley_has_its_own_deadline() -> None:
    """The answers come after that of one and before that of another."""
    cluster, keys = await prepared(2)
    cluster.network.treat(Fate.DELIVERED, Volley, answer_after_s=2)
    hasty, patient = await asyncio.gather(
        timed(cluster.put(0, keys[0], b"hasty", timeout_s=1)), timed(cluster.put(0, keys[1], b"patient", timeout_s=5))
    )
    assert isinstance(hasty[1], Unknown)
    assert (hasty[1].needed, hasty[1].got) == (2, 1)
    assert 1 <= hasty[0] < 1.1
    assert isinstance(patient[1], Written)
    assert 1.9 < patient[0] < 2.1
    cluster.network.heal()
    versions(await put_all(cluster, keys, b"next"))
    assert await values(cluster, 1, keys) == [b"next"] * 2


async def test_silence_is_told_to_each_write_of_a_volley_at_its_own_deadline() -> None:
    cluster, keys = await prepared(3)
    cluster.network.treat(Fate.SILENT)
    told = await asyncio.gather(
        *(timed(cluster.put(0, key, b"after", timeout_s=time_s)) for key, time_s in zip(keys, (3, 1, 2), strict=True))
    )
    assert all(isinstance(outcome, Unknown) for _, outcome in told)
    assert [int(elapsed_s) for elapsed_s, _ in told] == [3, 1, 2]


async def test_no_ballot_leaves_before_a_ceiling_above_it_is_on_disk() -> None:
    """After a power cut this node could give out the same one again."""
    cluster, keys = await prepared(3)
    cluster.nodes[0].disk.clear()
    await asyncio.sleep(5)
    said = watch(cluster)
    writes = [asyncio.create_task(cluster.put(0, key, b"after")) for key in keys]
    await asyncio.sleep(1)
    assert said == []
    cluster.nodes[0].disk.set()
    versions(await asyncio.gather(*writes))
    assert {accept.key for accept in accepts(said)} == set(keys)


async def test_what_its_deadline_has_passed_for_never_leaves() -> None:
    """All of a volley was called unknown while its ballots could not leave: nobody wants it sent any more."""
    cluster, keys = await prepared(3)
    cluster.nodes[0].disk.clear()
    await asyncio.sleep(5)
    said = watch(cluster)
    outcomes = await put_all(cluster, keys, b"after", timeout_s=1)
    assert all(isinstance(outcome, Unknown) and outcome.got == 0 for outcome in outcomes)
    cluster.nodes[0].disk.set()
    await asyncio.sleep(1)
    assert said == []
    versions(await put_all(cluster, keys, b"next"))


async def test_who_waits_for_a_key_begins_when_the_volley_ends() -> None:
    """However it ended: taken, or its time over."""
    cluster, keys = await prepared(2)
    twice = [*keys, *keys]
    versions(await put_all(cluster, twice, b"after"))
    cluster.network.treat(Fate.SILENT)
    first = [asyncio.create_task(cluster.put(0, key, b"first", timeout_s=1)) for key in keys]
    await asyncio.sleep(0)
    second = [asyncio.create_task(cluster.put(0, key, b"second", timeout_s=3)) for key in keys]
    await asyncio.sleep(0.5)
    cluster.network.heal()
    assert [type(outcome) for outcome in await asyncio.gather(*first)] == [Unknown] * 2
    versions(await asyncio.gather(*second))


async def test_too_few_replicas_when_its_turn_comes_is_not_applied() -> None:
    cluster, keys = await prepared(1)
    cluster.network.treat(Fate.SILENT)
    first = asyncio.create_task(cluster.put(0, keys[0], b"first", timeout_s=1))
    await asyncio.sleep(0)
    second = asyncio.create_task(cluster.put(0, keys[0], b"second", timeout_s=3))
    await asyncio.sleep(0.5)
    for slot in (1, 2):
        cluster.network.cut_off(slot)
    assert isinstance(await first, Unknown)
    assert await second == Unavailable(2, 1, ("n0",))
    for slot in (1, 2):
        cluster.network.rejoin(slot)
    cluster.network.heal()
    versions([await cluster.put(0, keys[0], b"third")])


async def test_a_volley_ends_with_its_last_write() -> None:
    """Nothing is watched any longer, and a replica that never answers holds on to no values."""
    cluster, keys = await prepared(5)
    cluster.network.treat(Fate.SILENT, target=2)
    sweeper, under_way = cluster.nodes[0].context.sweeper, []
    add = sweeper.add
    sweeper.add = lambda item: (under_way.append(item), add(item))  # type: ignore[method-assign,assign,func-returns-value]
    versions(await put_all(cluster, keys, b"after"))
    assert len(sweeper) == 0
    assert [item.accepts for item in under_way if hasattr(item, "accepts")] == [[]]  # type: ignore[attr-defined]


# -- what fails --------------------------------------------------------------------------------------------------


async def test_a_function_that_fails_does_not_hold_up_the_others() -> None:
    """They were gathered and never sent, and their keys closed for ever. It alone waits for its deadline."""
    cluster, keys = await prepared(5)
    primary, loop = cluster.nodes[0].primary, asyncio.get_running_loop()
    ended: list[Computed | Unavailable | Overloaded | Unknown] = []

    def fail(value: bytes | None, now_ms: int) -> bytes | None:
        raise RuntimeError("this function fails")

    writes = [asyncio.create_task(cluster.put(0, key, b"after")) for key in keys[:2]]
    await asyncio.sleep(0)
    primary.compute(keys[2], Compute(fail, 0, ""), loop.time() + 1, ended.append)
    writes += [asyncio.create_task(cluster.put(0, key, b"after")) for key in keys[3:]]
    elapsed_s, outcomes = await timed(asyncio.gather(*writes))
    versions(outcomes)
    assert elapsed_s < 0.1
    await until(lambda: ended, 2)
    assert isinstance(ended[0], Unavailable), "nothing was sent"
    versions([await cluster.put(0, keys[2], b"after")])
    assert await values(cluster, 1, keys) == [b"after"] * 5


async def test_a_function_that_does_not_fail_goes_with_the_others() -> None:
    cluster, keys = await prepared(3)
    said = watch(cluster)
    ended: list[Computed | Unavailable | Overloaded | Unknown] = []
    deadline_s = asyncio.get_running_loop().time() + 1
    compute = Compute(lambda value, now_ms: (value or b"") + b"+", 0, "")
    cluster.nodes[0].primary.compute(keys[0], compute, deadline_s, ended.append)
    versions(await put_all(cluster, keys[1:], b"after"))
    await until(lambda: ended, 2)
    assert isinstance(ended[0], Computed)
    assert ended[0].is_new
    assert ended[0].record is not None
    assert ended[0].record.value == b"before+"
    assert {accept.key for accept in accepts(said)} == set(keys)
    assert {kind for _, kind in kinds(said)} == {Volley}


async def test_a_callback_that_fails_does_not_hold_up_the_others() -> None:
    cluster, keys = await prepared(4)
    deadline_s = asyncio.get_running_loop().time() + 5

    def fail(outcome: Outcome) -> None:
        raise RuntimeError("this callback fails")

    cluster.nodes[0].primary.submit(keys[0], Put(b"after", ""), 2, deadline_s, fail)
    elapsed_s, outcomes = await timed(put_all(cluster, keys, b"after"))
    versions(outcomes)
    assert elapsed_s < 0.1


@pytest.mark.parametrize("step", ["chosen", "converse"])
async def test_a_write_whose_next_step_fails_does_not_hold_up_the_others(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are the others counted as taken where a replica left them out, too."""
    cluster, keys = await prepared(3)
    cluster.network.treat(Fate.SILENT, target=2)
    if step == "converse":
        for key in keys:
            cluster.nodes[1].replica._cache.remove(key)
    proposal = type(_proposal(cluster, keys[0]))
    await asyncio.sleep(TURN_S)
    original: Callable[..., None] = getattr(proposal, step)

    def fail(self: volley.Shot, *rest: object) -> None:
        if self.key == keys[0]:
            raise RuntimeError("this one fails")
        original(self, *rest)

    monkeypatch.setattr(proposal, step, fail)
    versions(await put_all(cluster, keys[1:], b"warm"))
    if step == "converse":
        for key in keys:
            cluster.nodes[1].replica._cache.remove(key)
    cluster.nodes[0].primary.submit(keys[0], Put(b"after", ""), 2, asyncio.get_running_loop().time() + 1, _ignore)
    versions(await put_all(cluster, keys[1:], b"after", timeout_s=1))
    assert all(cluster.values_on_disk(key)[:2] == [b"after"] * 2 for key in keys[1:])


def _ignore(outcome: Outcome) -> None:
    """Whatever it is."""


def _proposal(cluster: Cluster, key: bytes) -> volley.Shot:
    """What a write of this key is while it is gathered."""
    primary = cluster.nodes[0].primary
    primary.submit(key, Put(b"before", ""), 2, asyncio.get_running_loop().time() + 5, _ignore)
    return primary._volleys.add.__self__._gathered[0]  # type: ignore[attr-defined, no-any-return]


# -- how much goes together --------------------------------------------------------------------------------------


async def test_a_volley_is_cut_where_its_values_are_large() -> None:
    cluster, keys = await prepared(8)
    said = watch(cluster)
    versions(await put_all(cluster, keys, bytes(300_000)))
    sizes = [len(request.accepts) for target, request in said if isinstance(request, Volley) and target == 1]
    assert sizes == [4, 4]
    assert await values(cluster, 1, keys) == [bytes(300_000)] * 8


async def test_what_is_no_value_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Content types and fences may be longer than values: thousands of them would not fit a frame."""
    monkeypatch.setattr(volley, "VOLLEY_BYTES_MAX", 10_000)
    cluster, keys = await prepared(40)
    primary, deadline_s = cluster.nodes[0].primary, asyncio.get_running_loop().time() + 5
    said, ended = watch(cluster), list[Outcome]()
    for key in keys:
        primary.submit(key, Put(b"", "x" * 1_000), 2, deadline_s, ended.append)
    await until(lambda: len(ended) == 40, 2)
    assert all(isinstance(outcome, Written) for outcome in ended)
    volleys = [request for target, request in said if isinstance(request, Volley) and target == 1]
    assert len(volleys) > 3
    for request in volleys:
        frame = encode(Requests(1, 1, 1, [(1, request)]))
        assert len(frame) < 10_000 + 1_200
        assert decode_requests(frame).items == [(1, request)]
