"""Many keys at once: POST /v1/batch and GET /v1/kv."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from cluster.requests import Listed, TimedOut, Unknown, Written
from kvstore.http.routes import batch_run
from tests.kvstore.http.conftest import Node, Reply

JSON = {"Content-Type": "application/json"}


async def post(node: Node, *operations: Any, query: str = "") -> Reply:
    return await node.ask("POST", f"/v1/batch{query}", json={"operations": operations})


async def test_results_stand_in_the_order_of_operations(node: Node) -> None:
    answer = await post(
        node,
        {"op": "put", "key": "a", "value": "text"},
        {"op": "put", "key": "b", "value_base64": "AP8=", "content_type": "image/png"},
        {"op": "get", "key": "a"},
        {"op": "get", "key": "b"},
        {"op": "delete", "key": "a"},
        {"op": "get", "key": "a"},
    )
    put_a, put_b, get_a, get_b, delete_a, gone = answer.json["results"]
    assert answer.status == 200
    assert answer.headers["KV-Receipt"] == 'consistency=strong, n=3, coordinator="n1", epoch=4'
    assert put_a == {"status": 200, "key": "a", "version": put_a["version"], "acks": 2}
    assert (get_a["value"], get_a["version"]) == ("text", put_a["version"])
    assert (get_b["value_base64"], get_b["content_type"], get_b["version"]) == ("AP8=", "image/png", put_b["version"])
    assert "value" not in get_b
    assert delete_a["status"] == 200
    assert (gone["status"], gone["code"], gone["outcome"], gone["key"]) == (404, "not-found", "none", "a")


async def test_the_receipt_tells_of_a_hint_and_the_results_of_which(node: Node) -> None:
    node.backend.next_outcome = Written(7 << 22, 1, ("n1",), hinted=True)
    answer = await post(
        node,
        {"op": "put", "key": "a", "value": "kept for others"},
        {"op": "get", "key": "a"},
        query="?consistency=eventual",
    )
    assert answer.headers["KV-Receipt"] == 'consistency=eventual, n=3, coordinator="n1", epoch=4, hinted=1'
    assert [result.get("hinted") for result in answer.json["results"]] == [1, None]


async def test_a_bad_operation_leaves_the_others_alone(node: Node) -> None:
    bad: list[tuple[Any, str]] = [
        ({"op": "zap", "key": "a"}, "bad-json"),
        ({"op": "put", "key": "a", "value": "v", "colour": 1}, "bad-json"),
        ({"op": "put", "key": 1, "value": "v"}, "bad-json"),
        ("put", "bad-json"),
        ({"op": "put", "key": ""}, "bad-key"),
        ({"op": "put", "key": "a\0b", "value": "v"}, "bad-key"),
        ({"op": "put", "key": "x" * 1025, "value": "v"}, "bad-key"),
        ({"op": "put", "key": "a"}, "bad-parameter"),
        ({"op": "put", "key": "a", "value": "v", "value_base64": "AA=="}, "bad-parameter"),
        ({"op": "put", "key": "a", "value_base64": "A"}, "bad-parameter"),
        ({"op": "put", "key": "a", "value_base64": "\u00e9"}, "bad-parameter"),
        ({"op": "put", "key": "a", "value": "v", "ttl": "30"}, "bad-parameter"),
        ({"op": "put", "key": "a", "value": "v", "ttl": "99ms"}, "bad-parameter"),
        ({"op": "put", "key": "a", "value": "v", "ttl": 30}, "bad-json"),
        ({"op": "get", "key": "a", "ttl": "30s"}, "bad-parameter"),
        ({"op": "delete", "key": "a", "ttl": "30s"}, "bad-parameter"),
        ({"op": "put", "key": "a", "value": "v", "fence": "l=1"}, "bad-fence"),
        ({"op": "put", "key": "a", "value": "v", "if_match": "zz"}, "bad-parameter"),
        ({"op": "put", "key": "a", "value": "v", "if_match": "*", "create": True}, "bad-parameter"),
        ({"op": "put", "key": "a", "value": "v", "create": 1}, "bad-json"),
        ({"op": "put", "key": "a", "value": "v", "content_type": "a\r\nb"}, "bad-parameter"),
        ({"op": "put", "key": "a", "value": "v" * ((1 << 20) + 1)}, "too-large"),
        ({"op": "get", "key": "a", "if_match": "*"}, "bad-parameter"),
        ({"op": "get", "key": "a", "value": "v"}, "bad-parameter"),
        ({"op": "delete", "key": "a", "create": True}, "bad-parameter"),
    ]
    answer = await post(node, *(operation for operation, _ in bad), {"op": "put", "key": "good", "value": "v"})
    *refused, good = answer.json["results"]
    assert [result["code"] for result in refused] == [code for _, code in bad]
    reads = [isinstance(operation, dict) and operation["op"] == "get" for operation, _ in bad]
    assert [result["outcome"] for result in refused] == ["none" if read else "not-applied" for read in reads]
    keys = [operation.get("key") if isinstance(operation, dict) else None for operation, _ in bad]
    assert [result.get("key") for result in refused] == [key if isinstance(key, str) else None for key in keys]
    assert all(result["request_id"] == answer.headers["X-Request-Id"] for result in refused)
    assert good["status"] == 200
    assert set(node.backend.records) == {b"good"}


async def test_half_a_surrogate_pair_is_refused(node: Node) -> None:
    key, value = rb'{"op": "put", "key": "\ud800", "value": "v"}', rb'{"op": "put", "key": "a", "value": "\ud800"}'
    answer = await node.ask("POST", "/v1/batch", data=b'{"operations": [%s, %s]}' % (key, value), headers=JSON)
    assert (answer.status, answer.json["code"]) == (400, "bad-json")
    assert "half of a surrogate pair" in answer.json["detail"]
    assert node.backend.records == {}


@pytest.mark.parametrize("body", [b'{"op": "put", "key": "\xff"}', b'{"op": "put", "key": ' + b"1" * 5_000 + b"}"])
async def test_what_python_would_say_is_not_what_a_client_reads(node: Node, body: bytes) -> None:
    answer = await node.ask("POST", "/v1/batch", data=b'{"operations": [%s]}' % body, headers=JSON)
    assert b"codec" not in answer.body
    assert b"sys." not in answer.body
    assert answer.json.get("code", answer.json.get("results", [{}])[0].get("code")) == "bad-json"


@pytest.mark.parametrize("version", ["zz", '"zz"', "", '"', 'W/"0000000000000001"', "a, b", "\ud7ff"])
async def test_a_bad_if_match_is_called_by_its_fields_name(node: Node, version: str) -> None:
    answer = await post(node, {"op": "put", "key": "a", "value": "v", "if_match": version})
    result = answer.json["results"][0]
    assert (result["code"], result["parameter"], result["key"]) == ("bad-parameter", "if_match", "a")
    assert result["detail"].startswith("Field if_match: ")


async def test_conditions_hold_one_by_one(node: Node) -> None:
    create = {"op": "put", "key": "a", "value": "1", "create": True}
    first = await post(node, create, create)
    made, exists = first.json["results"]
    assert (exists["status"], exists["code"], exists["version"]) == (412, "exists", made["version"])
    for shape in ("{}", '"{}"'):
        guard = {"if_match": shape.format(made["version"])}
        second = await post(node, {"op": "put", "key": "a", "value": "3", **guard})
        made = second.json["results"][0]
        assert made["status"] == 200
    weak = await post(node, {"op": "delete", "key": "a", "if_match": "*"}, query="?consistency=weak")
    assert weak.json["results"][0]["code"] == "needs-strong"


async def test_one_key_in_order_different_keys_side_by_side(node: Node) -> None:
    node.backend.gate = asyncio.Event()
    operations = [{"op": "put", "key": key, "value": str(i)} for i, key in enumerate(["a", "b", "a", "c", "a"])]
    answer = asyncio.create_task(post(node, *operations))
    await node.backend.arrived(3)
    for _ in range(20):  # turns of the loop in which another could have begun
        await asyncio.sleep(0)
    assert sorted(request.key for request in node.backend.seen) == [b"a", b"b", b"c"]
    node.backend.gate.set()
    assert [result["status"] for result in (await answer).json["results"]] == [200] * 5
    assert [request.value for request in node.backend.seen if request.key == b"a"] == [b"0", b"2", b"4"]


async def test_the_querys_choices_hold_for_all(node: Node) -> None:
    operations = [{"op": "put", "key": "a", "value": "1"}, {"op": "get", "key": "a"}]
    await post(node, *operations, query="?consistency=weak&w=2&r=3&timeout=1s")
    write, read = node.backend.seen
    assert (write.needed, read.needed, write.level) == (2, 3, "weak")
    assert 0 < write.timeout_s <= 1


async def test_an_operation_whose_time_is_up_is_not_begun(node: Node) -> None:
    node.backend.gate = asyncio.Event()
    operations = [{"op": "put", "key": "a", "value": "1"}, {"op": "put", "key": "a", "value": "2"}]
    answer = asyncio.create_task(post(node, *operations, query="?timeout=20ms"))
    await node.backend.arrived(1)
    await asyncio.sleep(0.05)  # the batch's time goes by
    node.backend.gate.set()
    done, late = (await answer).json["results"]
    assert (done["status"], late["code"], late["outcome"]) == (200, "overloaded", "not-applied")


async def test_outcomes_stand_in_their_own_results(node: Node) -> None:
    node.backend.next_outcome = Unknown(2, 1, ("n1",), None)
    answer = await post(node, {"op": "put", "key": "a", "value": "1"}, {"op": "put", "key": "b", "value": "1"})
    first, second = answer.json["results"]
    assert (answer.status, first["code"], first["outcome"], first["key"]) == (200, "outcome-unknown", "unknown", "a")
    assert second["status"] == 200
    node.backend.next_outcome = RuntimeError("boom")
    failed = (await post(node, {"op": "put", "key": "a", "value": "1"})).json["results"][0]
    assert (failed["code"], failed["outcome"]) == ("internal", "unknown")
    assert "boom" not in json.dumps(failed)


async def test_what_a_batch_reads_is_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_run, "ANSWER_BYTES_MAX", 10)
    await node.ask("PUT", "/v1/kv/k", data=b"123456")
    results = (await post(node, *[{"op": "get", "key": "k"}] * 2)).json["results"]
    assert [result["status"] for result in results] == [200, 413]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad-json"),
        (b"{", 400, "bad-json"),
        (b"[]", 400, "bad-json"),
        (b"{}", 400, "bad-json"),
        (b'{"operations": {}}', 400, "bad-json"),
        (b'{"operations": [], "extra": 1}', 400, "bad-json"),
        (b'{"operations": [], "operations": []}', 400, "bad-json"),
        (b'{"operations": [{"op": "get", "key": "a", "key": "b"}]}', 400, "bad-json"),
        (b'{"operations": [NaN]}', 400, "bad-json"),
        (b'{"operations": [' + b"9" * 5_000 + b"]}", None, None),
        (b'{"operations": ["\xff"]}', 400, "bad-json"),
        (b'\xef\xbb\xbf{"operations": []}', 400, "bad-json"),
        (b'{"operations": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", 400, "bad-json"),
        (b"[" * 200_000, 400, "bad-json"),
        (json.dumps({"operations": [{"op": "get", "key": "a"}] * 1_001}).encode(), 413, "too-large"),
        (b'{"operations": []}' + b" " * (16 << 20), 413, "too-large"),
    ],
)
async def test_bad_bodies(node: Node, body: bytes, status: int | None, code: str | None) -> None:
    answer = await node.ask("POST", "/v1/batch", data=body, headers=JSON)
    if status is None:  # a bad operation, or a bad body: never a fault of ours
        assert answer.status in (200, 400)
    else:
        assert (answer.status, answer.json["code"]) == (status, code)
        assert answer.json["outcome"] == "not-applied"
    assert b"Traceback" not in answer.body
    assert node.backend.seen == []


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "", "json"]
)
async def test_only_json_is_taken(node: Node, content_type: str) -> None:
    answer = await node.ask("POST", "/v1/batch", data=b'{"operations": []}', headers={"Content-Type": content_type})
    assert (answer.status, answer.json["code"]) == (415, "unsupported-media-type")


async def test_json_with_its_charset_and_a_thousand_operations_are_taken(node: Node) -> None:
    body = json.dumps({"operations": [{"op": "put", "key": f"k{i}", "value": "v"} for i in range(1_000)]})
    headers = {"Content-Type": 'Application/JSON; charset="UTF-8"'}
    answer = await node.ask("POST", "/v1/batch", data=body, headers=headers)
    assert [result["status"] for result in answer.json["results"]] == [200] * 1_000


async def fill(node: Node, *keys: str) -> None:
    for key in keys:
        await node.ask("PUT", f"/v1/kv/{key}", data=key.encode())


async def test_pages_are_in_byte_order_and_follow_each_other(node: Node) -> None:
    keys = ["a", "a%2Fb", "a%2Fb%2Fc", "b", "%C3%A9", "z"]
    await fill(node, *keys)
    found: list[str] = []
    after = ""
    while True:
        page = (await node.ask("GET", f"/v1/kv?limit=2{after}")).json
        found += [item["key"] for item in page["keys"]]
        if "next" not in page:
            break
        after = "&after=" + page["next"].replace("/", "%2F")
    assert found == ["a", "a/b", "a/b/c", "b", "z", "\u00e9"]


async def test_a_page_tells_version_size_and_type(node: Node) -> None:
    written = await node.ask("PUT", "/v1/kv/a+b", data=b"\x00\xff", headers={"Content-Type": "image/png"})
    version = written.json["version"]
    item = {"key": "a+b", "version": version, "size": 2, "content_type": "image/png"}
    answer = await node.ask("GET", "/v1/kv?prefix=a%2B")
    assert answer.json == {"keys": [item]}
    assert answer.headers["KV-Receipt"].startswith("consistency=strong, n=3, needed=2, acks=2")
    valued = (await node.ask("GET", "/v1/kv?values=true")).json["keys"][0]
    assert valued == item | {"value_base64": base64.b64encode(b"\x00\xff").decode()}


async def test_the_querys_choices_reach_the_backend(node: Node) -> None:
    await node.ask("GET", "/v1/kv?prefix=%25_%C3%A9&after=x%20y&limit=7&values=true&consistency=weak&r=2&timeout=1s")
    (request,) = node.backend.seen
    assert (request.prefix, request.after, request.limit, request.values) == ("%_\u00e9".encode(), b"x y", 7, True)
    assert (request.level, request.needed, request.timeout_s) == ("weak", 2, 1.0)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=1_0", "values=1", "prefix=%ff", "prefix=%zz", "prefix=%00", "w=1",
     "after=" + "x" * 1025, "prefix", "limit=1&limit=2", "ttl=1s", "%6cimit=1"],
)  # fmt: skip
async def test_listings_refuse_what_they_do_not_know(node: Node, query: str) -> None:
    answer = await node.ask("GET", f"/v1/kv?{query}")
    assert (answer.status, answer.json["code"]) == (400, "bad-parameter")
    assert answer.json["parameter"]
    assert node.backend.seen == []


async def test_a_listing_that_got_no_answer(node: Node) -> None:
    node.backend.next_outcome = TimedOut(2, 1, ("n1",))
    answer = await node.ask("GET", "/v1/kv")
    assert (answer.status, answer.json["code"], answer.json["got"]) == (504, "timeout", 1)
    node.backend.next_outcome = Listed([], None, 2, ("n1", "n2"))
    assert (await node.ask("GET", "/v1/kv")).json == {"keys": []}
