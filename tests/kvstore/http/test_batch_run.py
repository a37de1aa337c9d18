"""A batch on its way: what begins when, how many at a time, and what becomes of the others when one fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from cluster.levels import Level
from cluster.requests import WriteOutcome, WriteRequest
from kvstore.http.incoming.parameters import BatchChoice
from kvstore.http.routes import batch_run
from kvstore.http.routes.batch_run import BatchRun
from kvstore.http.routes.operations import parse_batch
from tests.kvstore.http.conftest import Node
from tests.kvstore.http.test_batch_and_listing import post
from tests.kvstore.http.test_straight import body_bytes, connect, go_on, healthy, in_flight, tasks_made, until

BOTH_LOOPS = True
OnOutcome = Callable[[WriteOutcome], None]


def put(key: str, value: str = "v", **more: Any) -> dict[str, Any]:
    return {"op": "put", "key": key, "value": value, **more}


def codes(results: list[dict[str, Any]]) -> list[Any]:
    return [result.get("code", result["status"]) for result in results]


def run_of(node: Node, *operations: Any, timeout_s: float = 5.0) -> asyncio.Task[list[dict[str, Any]]]:
    """The batch without HTTP around it."""
    run = BatchRun(node.server._service, BatchChoice(Level.STRONG, 2, 2, timeout_s), "id")
    raw = parse_batch(json.dumps({"operations": operations}).encode())
    return asyncio.get_running_loop().create_task(run.results(raw))


async def turns(count: int) -> None:
    """So many turns of the loop go by, in which something more could have begun."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- how many at a time ----------------------------------------------------------------------------------------------


async def test_no_more_are_under_way_than_fit_side_by_side(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "SIDE_BY_SIDE", 3)
    gates = [asyncio.Event() for _ in range(8)]
    write, highest, under_way = node.backend.write, 0, 0

    async def count(request: WriteRequest) -> WriteOutcome:
        nonlocal highest, under_way
        under_way += 1
        highest = max(highest, under_way)
        await gates[int(request.key)].wait()
        under_way -= 1
        return await write(request)

    def begin(request: WriteRequest, on_outcome: OnOutcome) -> None:
        task = asyncio.get_running_loop().create_task(count(request))
        task.add_done_callback(lambda task: on_outcome(task.result()))

    monkeypatch.setattr(node.backend, "begin_write", begin)
    running = run_of(node, *(put(str(number), f"value {number}") for number in range(8)))
    for number, left in (
        (2, 3),
        (0, 2),
        (1, 3),
        (3, 2),
        (4, 3),
        (7, 2),
        (6, 2),
        (5, 1),
    ):  # with one left, two more begin
        await turns(10)
        assert under_way == left
        gates[number].set()
    results = await running
    assert [result["key"] for result in results] == [str(number) for number in range(8)]
    assert (codes(results), highest) == ([200] * 8, 3)


async def test_what_ends_at_once_leaves_others_their_turn(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand reads of what is in memory would else hold up every other request."""
    monkeypatch.setattr(batch_run, "SIDE_BY_SIDE", 5)
    running = run_of(node, *({"op": "get", "key": str(number % 20)} for number in range(50)))
    seen = [0]
    while not running.done():
        await asyncio.sleep(0)
        seen.append(len(node.backend.seen))
    assert max(after - before for before, after in pairwise(seen)) == 5
    assert codes(running.result()) == ["not-found"] * 50


async def test_operations_without_a_fence_make_no_task(node: Node) -> None:
    node.backend.granted["lock"] = 9
    operations = [put("a"), {"op": "get", "key": "a"}, {"op": "delete", "key": "b"}, put("c", fence="lock=8")]
    await post(node, put("z"))  # the client's own tasks
    with tasks_made() as made:
        answer = await post(node, *operations)
    assert codes(answer.json["results"]) == [200] * 4
    assert [name for name in made if "BatchRun" in name] == ["BatchRun._carry_out"]


async def test_what_has_to_wait_for_room_has_less_time_left(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "SIDE_BY_SIDE", 2)
    node.backend.gate = asyncio.Event()
    running = run_of(node, put("a"), put("b"), put("c"), put("d", fence="lock=1"), timeout_s=60.0)
    await node.backend.arrived(2)
    await asyncio.sleep(0.03)
    go_on(node)
    assert codes(await running) == [200, 200, 200, "bad-fence"]
    at_once, later = [request.timeout_s for request in node.backend.seen][:2], node.backend.seen[2:]
    assert all(30.0 < request.timeout_s <= min(at_once) - 0.02 for request in later)


async def test_what_has_found_no_room_by_the_deadline_is_not_begun(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "SIDE_BY_SIDE", 2)
    node.backend.gate = asyncio.Event()
    gets = [{"op": "get", "key": f"k{number}"} for number in range(10)]
    running = run_of(node, put("a"), put("b"), put("c", fence="lock=1"), *gets, put("a"), timeout_s=0.1)
    await node.backend.arrived(2)
    await asyncio.sleep(0.12)
    go_on(node)
    results = await running
    assert codes(results) == [200, 200] + ["overloaded"] * 12
    assert all("time was up before this operation was begun" in result["detail"] for result in results[2:])
    assert [result["outcome"] for result in results[2:]] == ["not-applied", *["none"] * 10, "not-applied"]
    assert len(node.backend.seen) == 2


# -- one after another -----------------------------------------------------------------------------------------------


async def test_whatever_becomes_of_one_the_next_on_its_key_follows_it(
    node: Node, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = node.backend.begin_write

    def begin_or_fail(request: WriteRequest, on_outcome: OnOutcome) -> None:
        if request.value == b"fails":
            raise ValueError("a fault of the backend")
        begin(request, on_outcome)

    monkeypatch.setattr(node.backend, "begin_write", begin_or_fail)
    operations = [put("a", "1"), put("a", "fails"), put("a", "bad", create=True), put("b", "fails"), put("a", "2")]
    answer = await post(node, *operations, {"op": "get", "key": "a"}, put("b", "3"))
    results = answer.json["results"]
    assert codes(results) == [200, "internal", "exists", "internal", 200, 200, 200]
    assert [results[place]["outcome"] for place in (1, 2, 3)] == ["unknown", "not-applied", "unknown"]
    assert {results[place]["request_id"] for place in (1, 3)} == {answer.headers["X-Request-Id"]}
    assert results[5]["value"] == "2"
    assert node.backend.records[b"b"].value == b"3"
    assert capsys.readouterr().out.count("batch operation failed") == 2


async def test_many_on_one_key_are_no_depth_of_the_stack(node: Node) -> None:
    """Each ends before it is begun to the end."""
    answer = await post(node, *(put("a", str(number)) for number in range(1_000)))
    assert codes(answer.json["results"]) == [200] * 1_000
    assert node.backend.records[b"a"].value == b"999"


async def test_a_second_outcome_changes_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = node.backend.begin_write

    def begin_and_fail(request: WriteRequest, on_outcome: OnOutcome) -> None:
        begin(request, on_outcome)
        begin(request, on_outcome)
        raise ValueError("too late")

    monkeypatch.setattr(node.backend, "begin_write", begin_and_fail)
    answer = await post(node, *(put(key, create=True) for key in "abcab"))
    assert codes(answer.json["results"]) == [200, 200, 200, "exists", "exists"]
    assert (body_bytes(node), in_flight(node)) == (0, 0)


async def test_an_outcome_behind_a_fault_changes_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begin = node.backend.begin_write

    def begin_and_fail(request: WriteRequest, on_outcome: OnOutcome) -> None:
        begin(request, on_outcome)
        raise ValueError("too early")

    monkeypatch.setattr(node.backend, "begin_write", begin_and_fail)
    node.backend.gate = asyncio.Event()
    answer = await post(node, put("a"), put("b"))
    assert codes(answer.json["results"]) == ["internal"] * 2
    go_on(node)
    await until(lambda: len(node.backend.records) == 2)
    assert not caplog.records, "nothing else fails for that"


async def test_a_fault_where_the_result_is_made_is_of_that_operation_alone(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(version: int) -> str:
        raise ValueError(version)

    await post(node, put("b"))
    monkeypatch.setattr(batch_run, "version_text", fail)
    answer = await post(node, put("a"), {"op": "get", "key": "b"}, {"op": "get", "key": "absent"}, put("a"))
    assert codes(answer.json["results"]) == ["internal", "internal", "not-found", "internal"]


# -- nobody waits any more -------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_takes_nothing_with_it(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps({"operations": [put("a", "1"), put("a", "2"), put("b", "1")]}).encode()
    head = b"POST /v1/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    stream = await connect(node)
    node.backend.gate = asyncio.Event()
    stream[1].write(head % len(body) + body)
    await node.backend.arrived(2)
    stream[1].transport.abort()
    await turns(20)
    assert (in_flight(node), body_bytes(node)) == (1, len(body))
    go_on(node)
    await until(lambda: in_flight(node) == 0)
    assert body_bytes(node) == 0
    assert {key: record.value for key, record in node.backend.records.items()} == {b"a": b"2", b"b": b"1"}
    assert await healthy(node)
    assert not caplog.records, "nothing fails for that"


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_batch_that_is_cancelled_begins_no_more_of_its_operations(
    node: Node, at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What was begun goes on, and its outcome does no harm: not even in the turn in which the batch is cancelled."""
    node.backend.granted["lock"] = 9
    node.backend.gate = asyncio.Event()
    operations = [put("a", "1"), put("a", "2"), put("b", "1"), put("c", "1", fence="lock=9")]
    running = run_of(node, *operations)
    await node.backend.arrived(3)
    if at_once:
        go_on(node)
        await turns(1)  # they are done, and nobody was told yet
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert running.cancelled()
    if not at_once:
        go_on(node)
    await turns(10)
    assert {key: record.value for key, record in node.backend.records.items() if key != b"c"} == {
        b"a": b"1",
        b"b": b"1",
    }
    assert len(node.backend.seen) == 3
    assert not caplog.records
    assert not [task for task in asyncio.all_tasks() if "BatchRun" in repr(task)]


@pytest.mark.parametrize("at_once", [False, True])
async def test_the_last_outcome_of_a_batch_that_is_cancelled_does_no_harm(
    node: Node, at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    node.backend.gate = asyncio.Event()
    running = run_of(node, put("a"))
    await node.backend.arrived(1)
    if at_once:
        go_on(node)
        await turns(1)
    running.cancel()
    if not at_once:
        await turns(2)
        go_on(node)
    await until(lambda: b"a" in node.backend.records)
    await turns(5)
    assert running.cancelled()
    assert not caplog.records


async def test_a_batch_that_is_cancelled_between_two_turns_begins_no_more(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_run, "SIDE_BY_SIDE", 2)
    running = run_of(node, *({"op": "get", "key": str(number)} for number in range(10)))
    await node.backend.arrived(2)
    so_far = len(node.backend.seen)
    running.cancel()
    await turns(10)
    assert running.cancelled()
    assert len(node.backend.seen) == so_far < 10
