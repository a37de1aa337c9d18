"""One call over nodes that misbehave: what is tried again and where, what never is, and what the caller is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import kvstore
from kvstore import http_client
from kvstore.client.asynchronous import AsyncClient
from kvstore.client.over_http import calls
from kvstore.client.over_http.answers import seconds_of
from kvstore.errors import KvstoreError
from tests.kvstore.client.misbehaving import (
    GRANTED,
    UNAVAILABLE,
    UNKNOWN,
    VALUE,
    WRITTEN,
    Deed,
    HangsUp,
    HangsUpUnread,
    Heard,
    KeepsSilent,
    Node,
    Says,
    name_of,
    nodes,
    problem,
)

NOBODY = "http://127.0.0.1:1"
SHORT_S = 0.6
WRITES: dict[str, Callable[[AsyncClient], Awaitable[Any]]] = {
    "put": lambda client: client.put("k", "v"),
    "delete": lambda client: client.delete("k"),
    "compare_and_set": lambda client: client.compare_and_set("k", None, "v"),
    "batch": lambda client: client.batch([kvstore.Put("k", "v")]),
    "lock": lambda client: client.lock("l", wait=0).acquire(),
}
DEEDS_AFTER_SENDING: list[Deed] = [HangsUp(), HangsUpUnread(), UNKNOWN, Says(500), Says(502), KeepsSilent()]
PASSING = [UNAVAILABLE, problem(429, "overloaded"), problem(507, "disk-full"), Says(503), Says(429)]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("deed", DEEDS_AFTER_SENDING, ids=name_of)
async def test_a_write_that_may_be_applied_is_never_sent_again(write: str, deed: Deed) -> None:
    first, second = Node(deed), Node(WRITTEN)
    async with nodes(first, second) as urls, kvstore.connect(urls, timeout=SHORT_S) as client:
        with pytest.raises(kvstore.OutcomeUnknown) as caught:
            await WRITES[write](client)
        assert (len(first.heard), len(second.heard)) == (1, 0)
    assert caught.value.outcome == "unknown"


NOT_THE_API: list[Deed] = [
    Says(200, b"<html>It works!</html>", {"Content-Type": "text/html"}),
    Says(200, b""),
    Says(200, {}),
    Says(200, b"[1, 2]"),
    Says(200, {"key": 1, "version": None, "results": 5, "keys": 7, "locks": [3], "token": 1, "winner": None}),
]
READS: dict[str, Callable[[AsyncClient], Awaitable[Any]]] = {
    "get": lambda client: client.get("k"),
    "list": lambda client: anext(client.list("k")),
    "batch": lambda client: client.batch([kvstore.Get("k")]),
    "lock_info": lambda client: client.lock_info("l"),
    "locks": lambda client: client.locks(),
    "vote_result": lambda client: client.vote_result("v"),
}


@pytest.mark.parametrize("write", [*WRITES, "vote"])
@pytest.mark.parametrize("number", range(len(NOT_THE_API)))
async def test_nobody_knows_what_became_of_a_write_that_was_answered_by_no_node(write: str, number: int) -> None:
    node = Node(NOT_THE_API[number])
    async with nodes(node) as urls, kvstore.connect(urls, timeout=SHORT_S) as client:
        send = WRITES.get(write, lambda client: client.vote("v", "me"))
        with pytest.raises(kvstore.OutcomeUnknown, match="no answer of this API") as caught:
            await send(client)
        assert len(node.heard) == 1
    assert caught.value.status == 200
    assert node.url in caught.value.detail
    assert "read before you repeat it" in caught.value.detail


@pytest.mark.parametrize("asked", READS)
@pytest.mark.parametrize("number", range(len(NOT_THE_API)))
async def test_a_read_that_was_answered_by_no_node_failed(asked: str, number: int) -> None:
    node = Node(NOT_THE_API[number])
    async with nodes(node) as urls, kvstore.connect(urls, timeout=SHORT_S) as client:
        with pytest.raises(kvstore.ReadFailed, match="no answer of this API") as caught:
            await READS[asked](client)
    assert node.url in caught.value.detail


async def test_a_lease_is_not_renewed_by_what_is_no_node() -> None:
    node = Node(GRANTED, NOT_THE_API[0])
    async with nodes(node) as urls, kvstore.connect(urls, timeout=SHORT_S) as client:
        store = await client._opened()
        lease = await store.acquire("l", owner="me", ttl_s=10, wait_s=0, permits=1, timeout_s=None)
        with pytest.raises(kvstore.OutcomeUnknown):
            await store.renew("l", lease.token, timeout_s=None)


async def test_an_unknown_outcome_tells_the_version_that_the_write_has_if_it_is() -> None:
    async with nodes(Node(UNKNOWN)) as urls, kvstore.connect(urls) as client:
        with pytest.raises(kvstore.OutcomeUnknown) as caught:
            await client.put("k", "v")
    assert (caught.value.version, caught.value.status, caught.value.fields["got"]) == ("9", 504, 1)


@pytest.mark.parametrize("deed", PASSING, ids=name_of)
@pytest.mark.parametrize("write", ["put", "delete"])
async def test_a_write_that_a_node_refused_for_now_goes_to_the_next(write: str, deed: Deed) -> None:
    first, second = Node(deed), Node(WRITTEN)
    async with nodes(first, second) as urls, kvstore.connect(urls) as client:
        began = time.monotonic()
        await WRITES[write](client)
        assert time.monotonic() - began < 1
        assert (len(first.heard), len(second.heard)) == (1, 1)


async def test_a_node_that_can_not_be_reached_is_passed_over() -> None:
    node = Node(WRITTEN)
    async with nodes(node) as urls, kvstore.connect([NOBODY, *urls]) as client:
        assert (await client.put("k", "v")).acks == 2


async def test_what_no_node_could_be_asked_was_surely_not_applied() -> None:
    async with kvstore.connect([NOBODY, NOBODY + "0"], timeout=0.3) as client:
        for ask in (WRITES["put"], lambda client: client.get("k")):
            with pytest.raises(kvstore.NoNodeReachable, match=r"(?s):10?: .*:10?: ") as caught:
                await ask(client)
            assert caught.value.outcome == "not-applied"


async def test_refusals_are_tried_again_until_the_deadline_and_then_told() -> None:
    node = Node(UNAVAILABLE)
    async with nodes(node) as urls, kvstore.connect(urls, timeout=SHORT_S) as client:
        began = time.monotonic()
        with pytest.raises(kvstore.QuorumUnavailable) as caught:
            await client.put("k", "v")
        assert time.monotonic() - began < SHORT_S + 0.5
    assert (caught.value.fields["needed"], caught.value.outcome, caught.value.status) == (2, "not-applied", 503)
    assert 2 <= len(node.heard) <= 10, "pauses grow"


async def test_a_refusal_that_was_told_counts_for_more_than_a_node_that_could_not_be_asked() -> None:
    async with nodes(Node(UNAVAILABLE)) as urls, kvstore.connect([*urls, NOBODY], timeout=0.3) as client:
        with pytest.raises(kvstore.QuorumUnavailable):
            await client.put("k", "v")


async def test_retry_after_is_honoured_by_node() -> None:
    node = Node(problem(503, "overloaded", headers={"Retry-After": "1"}), WRITTEN)
    async with nodes(node) as urls, kvstore.connect(urls) as client:
        await client.put("k", "v")
        assert node.heard[1].at - node.heard[0].at >= 1


async def test_who_is_told_to_come_back_too_late_is_told_so_at_once() -> None:
    node = Node(problem(503, "overloaded", headers={"Retry-After": "30"}))
    async with nodes(node) as urls, kvstore.connect(urls) as client:
        began = time.monotonic()
        with pytest.raises(kvstore.Overloaded) as caught:
            await client.put("k", "v")
        assert time.monotonic() - began < 1
    assert caught.value.fields["retry_after"] == 30


@pytest.mark.parametrize(
    "deed", [*PASSING, HangsUp(), Says(500), Says(502), problem(504, "timeout", "none")], ids=name_of
)
async def test_a_read_is_asked_anywhere(deed: Deed) -> None:
    first, second = Node(deed), Node(VALUE)
    async with nodes(first, second) as urls, kvstore.connect(urls) as client:
        value = await client.get("k")
        assert value is not None
        assert (value.text, value.version, value.content_type) == ("v", "1", "text/plain")


async def test_a_read_does_not_wait_for_who_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "SILENCE_S", 0.3)
    silent, other = Node(KeepsSilent()), Node(VALUE)
    async with nodes(silent, other) as urls, kvstore.connect(urls) as client:
        assert await client.get("k") is not None
        told = [seconds_of(node.heard[0].query["timeout"]) for node in (silent, other)]
        assert (told[0], told[1] < told[0]) == (4.4, True), "who is asked later has less time"


@pytest.mark.parametrize(
    ("deed", "error"),
    [
        (KeepsSilent(), kvstore.ReadTimedOut),
        (problem(504, "timeout", "none"), kvstore.ReadTimedOut),
        (HangsUp(), kvstore.ReadFailed),
        (Says(502), kvstore.ReadFailed),
        (UNAVAILABLE, kvstore.QuorumUnavailable),
    ],
    ids=name_of,
)
async def test_a_read_without_an_answer_says_so(deed: Deed, error: type[KvstoreError]) -> None:
    async with nodes(Node(deed)) as urls, kvstore.connect(urls, timeout=SHORT_S) as client:
        with pytest.raises(error):
            await client.get("k")


@pytest.mark.parametrize(
    ("told", "error"),
    [
        (problem(400, "bad-parameter"), kvstore.BadRequest),
        (problem(400, "bad-key"), kvstore.BadRequest),
        (problem(400, "needs-strong"), kvstore.NeedsStrong),
        (problem(400, "bad-fence"), kvstore.BadFence),
        (problem(403, "forbidden"), kvstore.NotAllowed),
        (problem(401, "unauthenticated"), kvstore.NotAllowed),
        (problem(413, "too-large", limit=3), kvstore.TooLarge),
        (problem(412, "version-mismatch", version="8"), kvstore.VersionMismatch),
        (problem(412, "exists", version="8"), kvstore.Exists),
        (problem(412, "fenced", version=None, fence=9), kvstore.Fenced),
        (Says(404), kvstore.BadRequest),
        (problem(503, "overloaded", "unknown"), kvstore.OutcomeUnknown),
    ],
    ids=name_of,
)
async def test_other_refusals_are_the_answer(told: Says, error: type[KvstoreError]) -> None:
    first, second = Node(told), Node(WRITTEN)
    async with nodes(first, second) as urls, kvstore.connect(urls) as client:
        with pytest.raises(KvstoreError) as caught:
            await client.put("k", "v")
        assert (len(first.heard), len(second.heard)) == (1, 0)
    assert type(caught.value) is error
    if isinstance(caught.value, kvstore.Fenced):
        assert (caught.value.version, caught.value.fence) == (None, 9)
    elif isinstance(caught.value, kvstore.ConditionFailed):
        assert caught.value.version == "8"
    elif isinstance(caught.value, kvstore.TooLarge):
        assert caught.value.limit == 3


async def test_one_deadline_holds_for_all_tries_and_the_nodes_are_told_of_it() -> None:
    node = Node(UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, WRITTEN)
    async with nodes(node) as urls, kvstore.connect(urls) as client:
        await client.put("k", "v", timeout=2)
        await client.put("k", "v", timeout=300)
        told = [seconds_of(heard.query["timeout"]) for heard in node.heard[:4]]
        assert told[0] == 1.7
        assert told == sorted(told, reverse=True)
        assert told[-1] < told[0]
        assert node.heard[4].query["timeout"] == "60s", "no node takes more"


async def test_a_vote_is_proposed_again_after_a_lost_answer() -> None:
    decided = Says(200, {"name": "v", "winner": "me", "candidate": "me", "value": [1], "decided_at": "now"})
    for deed in (HangsUp(), UNKNOWN, Says(500)):
        first, second = Node(deed), Node(decided)
        async with nodes(first, second) as urls, kvstore.connect(urls) as client:
            decision = await client.vote("v", "me", [1])
            assert (decision.winner, decision.value, decision.is_new) == ("me", [1], False)
            assert first.heard[0].json() == second.heard[0].json() == {"candidate": "me", "value": [1]}


async def test_a_vote_that_nobody_answers_for_good_is_unknown() -> None:
    async with nodes(Node(HangsUp(), UNAVAILABLE)) as urls, kvstore.connect(urls, timeout=SHORT_S) as client:
        with pytest.raises(kvstore.OutcomeUnknown):
            await client.vote("v", "me")


async def test_who_keeps_silent_does_not_use_up_the_time_of_what_may_be_repeated() -> None:
    decided = Says(201, {"name": "v", "winner": "me", "candidate": "me", "value": None})
    async with nodes(Node(KeepsSilent()), Node(decided)) as urls, kvstore.connect(urls, timeout=1) as client:
        assert (await client.vote("v", "me")).is_new


async def test_a_batch_of_reads_may_be_repeated() -> None:
    answer = Says(200, {"results": [{"status": 404, "key": "k", "code": "not-found"}]})
    async with nodes(Node(HangsUp()), Node(answer)) as urls, kvstore.connect(urls) as client:
        assert await client.batch([kvstore.Get("k")]) == [None]


async def test_a_batch_has_its_errors_as_values() -> None:
    results = [
        {"status": 200, "key": "a", "version": "5", "acks": 2},
        {"status": 412, "code": "exists", "detail": "it is there", "outcome": "not-applied", "version": "3"},
        {"status": 200, "key": "c", "version": "4", "acks": 1, "content_type": "x/y", "value_base64": "AP8="},
        {"status": 504, "code": "outcome-unknown", "detail": "who knows", "outcome": "unknown"},
        {"status": 504, "code": "timeout", "detail": "too slow", "outcome": "none"},
    ]
    node = Node(Says(200, {"results": results}, {"KV-Receipt": 'consistency=strong, n=3, coordinator="n1"'}))
    async with nodes(node) as urls, kvstore.connect(urls) as client:
        put, exists, got, unknown, failed = await client.batch(
            [
                kvstore.Put("a", "text", ttl=1.5, content_type="t/t", fence=kvstore.Fence("a=b", 4)),
                kvstore.Put("b", b"\x00\xff", create=True),
                kvstore.Get("c"),
                kvstore.Delete("d", if_match="7"),
                kvstore.Get("e"),
            ],
            w="all",
        )
        told = node.heard[0].json()["operations"]
    assert isinstance(put, kvstore.Written)
    assert (put.version, put.level, put.acks, put.replicas) == ("5", "strong", 2, 3)
    assert isinstance(exists, kvstore.Exists)
    assert isinstance(got, kvstore.Value)
    assert (got.value, got.content_type) == (b"\x00\xff", "x/y")
    assert isinstance(unknown, kvstore.OutcomeUnknown)
    assert isinstance(failed, kvstore.ReadTimedOut)
    assert told == [
        {"op": "put", "key": "a", "value": "text", "ttl": "1500ms", "content_type": "t/t", "fence": "a%3Db=4"},
        {"op": "put", "key": "b", "value_base64": "AP8=", "create": True},
        {"op": "get", "key": "c"},
        {"op": "delete", "key": "d", "if_match": "7"},
        {"op": "get", "key": "e"},
    ]


async def test_choices_and_conditions_travel_as_the_api_has_them() -> None:
    node = Node(WRITTEN)
    async with nodes(node) as urls, kvstore.connect(urls, consistency="weak") as client:
        await client.put("a/é", "v", if_match="12", fence=kvstore.Fence("lo/ck", 3), ttl=30, w=2, content_type="a/b")
        await client.put("k", b"", create=True, consistency="strong")
        await client.delete("k", if_match="*")
        await client.compare_and_set("k", kvstore.Value("k", b"x", "33", ""), None)
    put, create, delete, swap = node.heard
    assert (put.path, put.headers["If-Match"], put.headers["KV-Fence"]) == ("/v1/kv/a/%C3%A9", '"12"', "lo%2Fck=3")
    assert (put.query["w"], put.query["ttl"], put.query["consistency"]) == ("2", "30s", "weak")
    assert put.headers["Content-Type"] == "a/b"
    assert (create.headers["If-None-Match"], create.query["consistency"]) == ("*", "strong")
    assert (delete.method, delete.headers["If-Match"]) == ("DELETE", "*")
    assert (swap.method, swap.headers["If-Match"], swap.query["consistency"]) == ("DELETE", '"33"', "strong")


async def test_compare_and_set_by_value_goes_on_while_only_the_version_moved() -> None:
    def read(version: str, value: bytes = b"old") -> Says:
        return Says(200, value, {"ETag": f'"{version}"'})

    moved = problem(412, "version-mismatch", version="2")
    node = Node(read("1"), moved, read("2"), moved, read("3"), WRITTEN)
    async with nodes(node) as urls, kvstore.connect(urls) as client:
        await client.compare_and_set("k", "old", "new")
    assert [heard.headers.get("If-Match") for heard in node.heard if heard.method == "PUT"] == ['"1"', '"2"', '"3"']
    other = Node(read("1"), moved, read("2", b"other"))
    async with nodes(other) as urls, kvstore.connect(urls) as client:
        with pytest.raises(kvstore.VersionMismatch) as caught:
            await client.compare_and_set("k", "old", "new")
        assert caught.value.version == "2"
    absent = Node(problem(404, "not-found", "none"))
    async with nodes(absent) as urls, kvstore.connect(urls) as client:
        with pytest.raises(kvstore.VersionMismatch) as caught:
            await client.compare_and_set("k", "old", "new")
        assert caught.value.version is None


async def test_a_listing_walks_page_after_page() -> None:
    def page(keys: str, following: str | None) -> Says:
        items = [{"key": key, "version": "1", "size": 1, "content_type": "t", "value": "v"} for key in keys]
        return Says(200, {"keys": items} | ({"next": following} if following else {}))

    node = Node(page("ab", "b"), page("cd", "d"), page("e", None))
    async with nodes(node) as urls, kvstore.connect(urls) as client:
        assert [(entry.key, entry.text) async for entry in client.list("x", values=True)] == [(k, "v") for k in "abcde"]
        assert [heard.query.get("after") for heard in node.heard] == [None, "b", "d"]
        assert node.heard[0].query["prefix"] == "x"
    node = Node(page("ab", "b"), page("c", "c"))
    async with nodes(node) as urls, kvstore.connect(urls) as client:
        assert [entry.key async for entry in client.list(limit=3)] == ["a", "b", "c"]
        assert [heard.query["limit"] for heard in node.heard] == ["3", "1"]


# -- locks ---------------------------------------------------------------------------------------------------------


async def test_a_lock_travels_as_the_api_has_it() -> None:
    renewed = Says(200, {"name": "l", "owner": "me", "fence": 7, "ttl": "10s"})
    node = Node(GRANTED, renewed, WRITTEN, Says(200, {"name": "l", "fence": 7}))
    async with nodes(node) as urls, kvstore.connect(urls) as client:
        lock = client.lock("a/l", ttl=10, wait=30, owner="me", permits=2)
        await lock.acquire()
        assert (lock.fence, lock.token, lock.fenced) == (7, "secret", kvstore.Fence("a/l", 7))
        await lock.renew()
        await client.put("k", "v", fence=lock)
        await lock.release()
    acquire, renew, put, release = node.heard
    assert acquire.json() | {"wait": ""} == {"owner": "me", "ttl": "10s", "wait": "", "permits": 2}
    assert 29 < seconds_of(acquire.json()["wait"]) <= 30
    assert (acquire.path, acquire.query["timeout"]) == ("/v1/locks/a/l", "4500ms")
    assert (renew.method, renew.json()) == ("PUT", {"token": "secret"})
    assert put.headers["KV-Fence"] == "a%2Fl=7"
    assert (release.method, release.headers["KV-Lock-Token"]) == ("DELETE", "secret")


async def test_a_lock_that_others_hold_is_told_with_its_holder() -> None:
    held = problem(409, "lock-held", headers={"Retry-After": "4"}, holder="other")
    async with nodes(Node(held)) as urls, kvstore.connect(urls) as client:
        with pytest.raises(kvstore.LockHeld) as caught:
            await client.lock("l", wait=0).acquire()
    assert (caught.value.holder, caught.value.retry_after) == ("other", 4)


async def test_a_wait_goes_on_elsewhere_with_what_is_left_of_it_when_a_node_drains() -> None:
    draining = Node(UNAVAILABLE)
    other = Node(GRANTED, Says(200, {"name": "l", "fence": 7}))
    async with nodes(draining, other) as urls, kvstore.connect(urls, timeout=0.5) as client:
        await client.lock("l", wait=30).acquire()
    assert seconds_of(other.heard[0].json()["wait"]) > 29


async def test_who_would_wait_long_is_told_soon_that_nobody_can_be_asked() -> None:
    async with kvstore.connect([NOBODY], timeout=0.3) as client:
        began = time.monotonic()
        with pytest.raises(kvstore.NoNodeReachable):
            await client.lock("l", wait=60).acquire()
        assert time.monotonic() - began < 5


async def test_a_release_that_is_refused_after_a_lost_answer_was_done_by_the_lost_one() -> None:
    lost = problem(410, "lock-lost")
    async with nodes(Node(GRANTED, HangsUp(), lost)) as urls, kvstore.connect(urls) as client:
        lock = client.lock("l")
        await lock.acquire()
        await lock.release()
    async with nodes(Node(GRANTED, lost)) as urls, kvstore.connect(urls) as client:
        lock = client.lock("l")
        await lock.acquire()
        with pytest.raises(kvstore.LockLost):
            await lock.release()


async def test_many_who_wait_for_locks_starve_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CALLS_MAX", 2)

    all_wait = asyncio.Event()

    def by_path(heard: Heard) -> Deed:
        if len(node.heard) == 100:
            all_wait.set()
        return KeepsSilent() if heard.path.startswith("/v1/locks") else VALUE

    node = Node(by_path)
    async with nodes(node) as urls, kvstore.connect(urls) as client:
        waiting = [asyncio.ensure_future(client.lock(f"l{number}", wait=60).acquire()) for number in range(100)]
        try:
            async with asyncio.timeout(10):
                await all_wait.wait()
            assert await client.get("k") is not None
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)


async def test_too_many_calls_at_once_wait_for_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "CALLS_MAX", 1)
    node = Node(KeepsSilent())
    async with nodes(node) as urls, kvstore.connect(urls, timeout=SHORT_S) as client:
        first = asyncio.ensure_future(client.put("k", "v"))
        await asyncio.sleep(0)
        with pytest.raises(kvstore.Overloaded, match="nothing was sent"):
            await client.put("k", "v", timeout=0.2)
        with pytest.raises(kvstore.OutcomeUnknown):
            await first
        assert len(node.heard) == 1
