"""ttl on writes, and what reads say of it. That values go is the cluster's to do: tests/coordination/test_expiry.py."""

from __future__ import annotations

import pytest

from cluster.requests import WriteRequest
from storage.ballot import ballot_of
from storage.record import Record
from tests.kvstore.http.conftest import Node
from tests.kvstore.http.honest_backend import NOW_MS, WRITTEN_MS


def stored(node: Node, left_ms: int) -> None:
    """A value with so many milliseconds left."""
    ballot = ballot_of(WRITTEN_MS, 0, 0)
    node.backend.records[b"k"] = Record(ballot, ballot, False, b"v", "text/plain", NOW_MS + left_ms)


@pytest.mark.parametrize(("query", "ttl_ms"), [("", 0), ("?ttl=30s", 30_000), ("?consistency=weak&ttl=1d", 86_400_000)])
async def test_a_put_hands_its_ttl_on(node: Node, query: str, ttl_ms: int) -> None:
    assert (await node.ask("PUT", f"/v1/kv/k{query}", data=b"v")).status == 200
    (request,) = node.backend.seen
    assert isinstance(request, WriteRequest)
    assert request.ttl_ms == ttl_ms


@pytest.mark.parametrize(
    ("left_ms", "told"),
    [(29_400, "29.4"), (29_499, "29.4"), (99, "0.0"), (0, "0.0"), (-3_000, "0.0"), (86_400_000, "86400.0")],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_reads_say_how_long_it_lasts(node: Node, method: str, left_ms: int, told: str) -> None:
    stored(node, left_ms)
    answer = await node.ask(method, "/v1/kv/k")
    assert (answer.status, answer.headers["KV-Expires-In"]) == (200, told)


async def test_so_does_an_unchanged_one(node: Node) -> None:
    stored(node, 29_400)
    answer = await node.ask("GET", "/v1/kv/k", headers={"If-None-Match": "*"})
    assert (answer.status, answer.headers["KV-Expires-In"]) == (304, "29.4")


async def test_nothing_is_said_of_a_value_that_stays(node: Node) -> None:
    await node.ask("PUT", "/v1/kv/k", data=b"v")
    answer = await node.ask("GET", "/v1/kv/k")
    page = await node.ask("GET", "/v1/kv")
    batch = await node.ask("POST", "/v1/batch", json={"operations": [{"op": "get", "key": "k"}]})
    assert "KV-Expires-In" not in answer.headers
    assert "expires_in" not in page.json["keys"][0]
    assert "expires_in" not in batch.json["results"][0]


async def test_a_write_without_ttl_removes_it(node: Node) -> None:
    await node.ask("PUT", "/v1/kv/k?ttl=30s", data=b"v")
    assert (await node.ask("GET", "/v1/kv/k")).headers["KV-Expires-In"] == "30.0"
    await node.ask("PUT", "/v1/kv/k", data=b"v")
    assert "KV-Expires-In" not in (await node.ask("GET", "/v1/kv/k")).headers


async def test_listings_say_it_too(node: Node) -> None:
    stored(node, 29_400)
    page = await node.ask("GET", "/v1/kv")
    assert page.json["keys"][0]["expires_in"] == 29.4


async def test_batches_take_it_and_say_it(node: Node) -> None:
    operations = [
        {"op": "put", "key": "a", "value": "v", "ttl": "90s"},
        {"op": "put", "key": "b", "value": "v"},
        {"op": "get", "key": "a"},
        {"op": "get", "key": "b"},
    ]
    answer = await node.ask("POST", "/v1/batch", json={"operations": operations})
    assert [result["status"] for result in answer.json["results"]] == [200] * 4
    assert [result.get("expires_in") for result in answer.json["results"]] == [None, None, 90.0, None]
    writes = {request.key: request.ttl_ms for request in node.backend.seen if isinstance(request, WriteRequest)}
    assert writes == {b"a": 90_000, b"b": 0}
