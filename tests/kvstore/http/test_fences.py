"""KV-Fence: how it must be written, where it is taken, and what is said of one that does not hold."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.requests import FENCES_MAX, Conflict, TimedOut, Unavailable
from tests.kvstore.http.conftest import Node, Reply

MAX = (1 << 63) - 1


async def put(node: Node, fence: str | None = None, query: str = "", **headers: str) -> Reply:
    fenced = {} if fence is None else {"KV-Fence": fence}
    return await node.ask("PUT", f"/v1/kv/k{query}", data=b"v", headers=fenced | headers)


async def get(node: Node, fence: str | None, query: str = "", method: str = "GET", **headers: str) -> Reply:
    fenced = {} if fence is None else {"KV-Fence": fence}
    return await node.ask(method, f"/v1/kv/k{query}", headers=fenced | headers)


async def delete(node: Node, fence: str, query: str = "") -> Reply:
    return await node.ask("DELETE", f"/v1/kv/k{query}", headers={"KV-Fence": fence})


async def test_a_lower_fence_is_refused_and_told_what_the_key_has_seen(node: Node) -> None:
    node.backend.granted["lock"] = 9
    written = await put(node, "lock=7")
    assert written.status == 200
    for refused in (await put(node, "lock=6"), await delete(node, "lock=6")):
        assert (refused.status, refused.json["code"], refused.json["outcome"]) == (412, "fenced", "not-applied")
        assert refused.json["version"] == written.json["version"]
        assert refused.json["fence"] == 7
        assert refused.json["type"] == "urn:kvstore:fenced"
        assert "acks=2" in refused.headers["KV-Receipt"]
    assert (await node.ask("GET", "/v1/kv/k")).body == b"v"
    assert (await delete(node, "lock=8")).status == 200
    gone = await put(node, "lock=7")
    assert (gone.status, gone.json["code"], gone.json["version"], gone.json["fence"]) == (412, "fenced", None, 8)
    assert (await put(node, "lock=8")).status == 200


async def test_the_fence_is_told_before_the_condition(node: Node) -> None:
    node.backend.granted["lock"] = 9
    await put(node, "lock=7")
    assert (await put(node, "lock=6", **{"If-None-Match": "*"})).json["code"] == "fenced"
    assert (await put(node, "lock=7", **{"If-None-Match": "*"})).json["code"] == "exists"
    assert (await put(node, "lock=7", **{"If-Match": '"0000000000000001"'})).json["code"] == "version-mismatch"


async def test_a_fence_that_was_never_granted_is_a_mistake(node: Node) -> None:
    node.backend.granted["lock"] = 9
    unknown = await put(node, "lock=10")
    assert (unknown.status, unknown.json["code"], unknown.json["outcome"]) == (400, "bad-fence", "not-applied")
    assert unknown.json["fence"] == 9
    never = await put(node, "other=1")
    assert (never.status, never.json["code"], never.json["fence"]) == (400, "bad-fence", 0)
    assert node.backend.records == {}


NAMES = {
    "lock": "lock",
    "a%2Fb/c": "a/b/c",
    "%3D%3d": "==",
    "a%20b%2Cc": "a b,c",
    "a+b": "a+b",
    "%C3%A9": "\u00e9",
    "x" * 256: "x" * 256,
    "%F0%9F%94%92" * 64: "\U0001f512" * 64,
}


@pytest.mark.parametrize("encoded", NAMES)
@pytest.mark.parametrize("number", [1, MAX])
async def test_a_lock_has_any_name_that_a_lock_can_have(node: Node, encoded: str, number: int) -> None:
    node.backend.granted[NAMES[encoded]] = number
    assert (await put(node, f"{encoded}={number}")).status == 200
    assert node.backend.records[b"k"].fences == {NAMES[encoded]: number}


MALFORMED = [
    "",
    "lock",
    "lock=",
    "=7",
    "7",
    "lock=0",
    "lock=07",
    "lock=+7",
    "lock=-7",
    "lock=7.0",
    "lock=7e2",
    "lock=0x7",
    "lock=7 7",
    "lock =7",
    "lock= 7",
    "lock=\u0667",
    f"lock={MAX + 1}",
    "lock=99999999999999999999",
    "lock=7, other=8",
    "lock=7,other=8",
    "lock=7;other=8",
    "a=b=7",
    '"lock"=7',
    "lock=seven",
    "%zz=7",
    "%=7",
    "a%00b=7",
    "%FF=7",
    "\u00e9=7",
    "x" * 257 + "=7",
    "%C3%A9" * 129 + "=7",
]


@pytest.mark.parametrize("fence", MALFORMED)
@pytest.mark.parametrize("where", ["header", "batch", "header of a read", "batch that reads"])
async def test_what_is_no_fence_is_refused(node: Node, fence: str, where: str) -> None:
    node.backend.granted |= {"lock": MAX, "a=b": MAX, "lock=7, other": MAX}
    if where == "header":
        answer = await put(node, fence)
        assert answer.status == 400
        problem = answer.json
    elif where == "header of a read":
        problem = (await get(node, fence)).json
    elif where == "batch":
        problem = await in_batch(node, {"op": "put", "key": "k", "value": "v", "fence": fence})
    else:
        problem = await in_batch(node, {"op": "get", "key": "k", "fence": fence})
    outcome = "none" if "read" in where else "not-applied"
    assert (problem["status"], problem["code"], problem["outcome"]) == (400, "bad-fence", outcome)
    assert problem["detail"].endswith("Nothing was read." if "read" in where else "Nothing was written.")
    assert node.backend.seen == []


async def test_a_request_bears_one_fence(node: Node) -> None:
    node.backend.granted["lock"] = 9
    headers = [("KV-Fence", "lock=7"), ("KV-Fence", "lock=7")]
    for method in ("GET", "PUT", "DELETE"):
        answer = await node.ask(method, "/v1/kv/k", headers=headers)
        assert (answer.status, answer.json["code"]) == (400, "bad-fence")
        assert "several" in answer.json["detail"]
    assert node.backend.seen == []


@pytest.mark.parametrize("level", ["weak", "eventual"])
async def test_a_fence_needs_the_strong_level(node: Node, level: str) -> None:
    node.backend.granted["lock"] = 9
    query = f"?consistency={level}"
    for answer in (await put(node, "lock=7", query), await delete(node, "lock=7", query)):
        assert (answer.status, answer.json["code"], answer.json["outcome"]) == (400, "needs-strong", "not-applied")
    operation = {"op": "delete", "key": "k", "fence": "lock=7"}
    assert (await in_batch(node, operation, query))["code"] == "needs-strong"
    read = await get(node, "lock=7", query)
    assert (read.status, read.json["code"], read.json["outcome"]) == (400, "needs-strong", "none")
    assert (await in_batch(node, operation | {"op": "get"}, query))["code"] == "needs-strong"
    assert node.backend.seen == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/kv?prefix=k"), ("POST", "/v1/batch"), ("GET", "/v1/locks/lock"), ("GET", "/v1/locks")],
)
async def test_what_bears_no_fence_refuses_one(node: Node, method: str, path: str) -> None:
    data = b'{"operations": []}' if method == "POST" else None
    headers = {"KV-Fence": "lock=7", "Content-Type": "application/json"}
    answer = await node.ask(method, path, data=data, headers=headers)
    assert answer.status == 400
    assert answer.json["code"] == "bad-fence"
    assert node.backend.seen == []


async def in_batch(node: Node, operation: dict[str, Any], query: str = "") -> dict[str, Any]:
    answer = await node.ask("POST", f"/v1/batch{query}", json={"operations": [operation]})
    assert answer.status == 200
    (result,) = answer.json["results"]
    return result  # type: ignore[no-any-return]


async def test_the_operations_of_a_batch_bear_their_own_fences(node: Node) -> None:
    node.backend.granted |= {"lock": 9, "a b": 3}
    operations = [
        {"op": "put", "key": "k", "value": "1", "fence": "lock=8"},
        {"op": "put", "key": "k", "value": "2", "fence": "lock=7"},
        {"op": "put", "key": "k", "value": "3", "fence": "a%20b=3"},
        {"op": "delete", "key": "k", "fence": "a%20b=2"},
        {"op": "put", "key": "k", "value": "4", "fence": "lock=10"},
        {"op": "put", "key": "other", "value": "5", "fence": "lock=1"},
    ]
    answer = await node.ask("POST", "/v1/batch", json={"operations": operations})
    results = answer.json["results"]
    assert [one["status"] for one in results] == [200, 412, 200, 412, 400, 200]
    assert (results[1]["code"], results[1]["fence"], results[1]["key"]) == ("fenced", 8, "k")
    assert results[1]["version"] == results[0]["version"]
    assert (results[3]["code"], results[3]["fence"], results[3]["version"]) == ("fenced", 3, results[2]["version"])
    assert (results[4]["code"], results[4]["fence"]) == ("bad-fence", 9)
    assert node.backend.records[b"k"].value == b"3"


@pytest.mark.parametrize("fence", [7, None, ["lock=7"], {"lock": 7}])
async def test_a_fence_in_a_batch_is_a_text(node: Node, fence: Any) -> None:
    result = await in_batch(node, {"op": "put", "key": "k", "value": "v", "fence": fence})
    assert (result["status"], result["code"]) == (400, "bad-json")


async def test_a_get_in_a_batch_bears_one_too(node: Node) -> None:
    node.backend.granted["lock"] = 9
    written = (await put(node)).json["version"]
    result = await in_batch(node, {"op": "get", "key": "k", "fence": "lock=7"})
    assert (result["status"], result["value"], result["version"]) == (200, "v", written)
    late = await in_batch(node, {"op": "put", "key": "k", "value": "late", "fence": "lock=6"})
    assert (late["status"], late["code"], late["fence"]) == (412, "fenced", 7)
    late = await in_batch(node, {"op": "get", "key": "k", "fence": "lock=6"})
    assert (late["status"], late["code"], late["fence"], late["outcome"]) == (412, "fenced", 7, "none")
    assert (await in_batch(node, {"op": "get", "key": "k", "fence": "lock=10"}))["code"] == "bad-fence"


# -- reads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_from_a_read_under_a_fence_on_no_lower_one_writes_or_reads(node: Node, method: str) -> None:
    node.backend.granted["lock"] = 9
    written = await put(node, **{"Content-Type": "text/plain"})
    plain = await node.ask(method, "/v1/kv/k")
    read = await get(node, "lock=7", method=method)
    assert read.status == 200
    assert read.body == plain.body
    told = ("ETag", "Content-Type", "Content-Length", "Last-Modified", "KV-Receipt")
    assert [read.headers[name] for name in told] == [plain.headers[name] for name in told]
    late = await put(node, "lock=6")
    assert (late.status, late.json["code"], late.json["fence"], late.json["outcome"]) == (
        412,
        "fenced",
        7,
        "not-applied",
    )
    refused = await get(node, "lock=6")
    assert (refused.status, refused.json["code"], refused.json["outcome"]) == (412, "fenced", "none")
    assert (refused.json["version"], refused.json["fence"]) == (written.json["version"], 7)
    assert "nothing was read" in refused.json["detail"]
    assert "acks=2" in refused.headers["KV-Receipt"]
    assert (await get(node, "lock=6", method="HEAD")).status == 412
    assert (await get(node, "lock=8")).body == b"v"
    assert (await put(node, "lock=8")).status == 200


async def test_a_key_without_a_value_remembers_it_all_the_same(node: Node) -> None:
    node.backend.granted["lock"] = 9
    absent = await get(node, "lock=7")
    assert (absent.status, absent.json["code"]) == (404, "not-found")
    assert "ETag" not in absent.headers
    refused = await get(node, "lock=6")
    assert (refused.status, refused.json["version"], refused.json["fence"]) == (412, None, 7)
    assert (await put(node, "lock=6")).json["code"] == "fenced"
    assert (await put(node, "lock=7", **{"If-None-Match": "*"})).status == 200
    assert [entry["key"] for entry in (await node.ask("GET", "/v1/kv")).json["keys"]] == ["k"]


async def test_a_conditional_read_may_bear_a_fence(node: Node) -> None:
    node.backend.granted["lock"] = 9
    etag = (await put(node)).headers["ETag"]
    assert (await get(node, "lock=7", **{"If-None-Match": etag})).status == 304
    assert (await get(node, "lock=7", **{"If-Match": etag})).status == 200
    other = await get(node, "lock=7", **{"If-Match": '"0000000000000001"'})
    assert (other.status, other.json["code"]) == (412, "version-mismatch")
    assert (await put(node, "lock=6")).json["code"] == "fenced"


async def test_a_read_under_a_fence_that_was_never_granted_is_a_mistake(node: Node) -> None:
    node.backend.granted["lock"] = 9
    unknown = await get(node, "lock=10")
    assert (unknown.status, unknown.json["code"], unknown.json["outcome"]) == (400, "bad-fence", "none")
    assert unknown.json["fence"] == 9
    assert "nothing was read" in unknown.json["detail"]


async def test_as_many_replicas_as_were_asked_for_are_told_in_the_receipt(node: Node) -> None:
    node.backend.granted["lock"] = 9
    await put(node)
    answer = await get(node, "lock=7", "?r=all")
    assert "needed=3, acks=3" in answer.headers["KV-Receipt"]


@pytest.mark.parametrize(
    ("outcome", "status", "code", "words"),
    [
        (Conflict(None, 2, ("n1", "n3"), is_full=True), 400, "bad-fence", "100 locks"),
        (Unavailable(2, 1, ("n1",), "the lock's register can't be read"), 503, "quorum-unavailable", "register"),
        (Unavailable(2, 1, ("n1",)), 503, "quorum-unavailable", "Try another node, or wait"),
        (TimedOut(2, 1, ("n1",)), 504, "timeout", "Reading again is safe"),
    ],
)
async def test_a_read_under_a_fence_that_has_no_answer(
    node: Node, outcome: Any, status: int, code: str, words: str
) -> None:
    node.backend.next_outcome = outcome
    answer = await get(node, "lock=7")
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (status, code, "none")
    assert words in answer.json["detail"]


async def test_a_key_with_too_many_locks_takes_no_other(node: Node) -> None:
    node.backend.granted["lock"] = 9
    node.backend.next_outcome = Conflict(None, 2, ("n1", "n3"), is_full=True)
    answer = await put(node, "lock=7")
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (400, "bad-fence", "not-applied")
    assert answer.json["limit"] == FENCES_MAX
    assert "100 locks" in answer.json["detail"]


async def test_a_fence_that_can_not_be_checked_leaves_the_write_not_applied(node: Node) -> None:
    node.backend.next_outcome = Unavailable(2, 1, ("n1",), "the lock's register can't be read")
    answer = await put(node, "lock=7")
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (503, "quorum-unavailable", "not-applied")
    assert "register" in answer.json["detail"]


async def test_the_description_has_fences(node: Node) -> None:
    document = (await node.ask("GET", "/openapi.json")).json
    path = document["paths"]["/v1/kv/{key}"]
    for method in ("put", "delete", "get", "head"):
        assert "KV-Fence" in {parameter["name"] for parameter in path[method]["parameters"]}
    listing = document["paths"]["/v1/kv"]["get"]
    assert "KV-Fence" not in {parameter["name"] for parameter in listing["parameters"]}
    operation = document["components"]["schemas"]["Batch"]["properties"]["operations"]["items"]
    assert operation["properties"]["fence"]["type"] == "string"
    assert "fenced" in str(document)
