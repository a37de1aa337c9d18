"""/v1/locks: acquire, renew, release, look, over the real steps of locks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from cluster.locks.lock_state import TOKEN_DIGEST_BYTES, token_digest
from cluster.requests import NoRoom, Overloaded, TimedOut, Unavailable, Unknown
from kvstore.http.routes.locking.leases import TOKEN_BYTES
from tests.kvstore.http.conftest import Node, Reply, Start
from tests.kvstore.http.test_wire import sample

JSON = {"Content-Type": "application/json"}


async def acquire(node: Node, name: str = "l", query: str = "", **body: Any) -> Reply:
    return await node.ask("POST", f"/v1/locks/{name}{query}", json={"owner": "w1"} | body)


async def renew(node: Node, token: str, name: str = "l") -> Reply:
    return await node.ask("PUT", f"/v1/locks/{name}", json={"token": token})


async def release(node: Node, token: str, name: str = "l") -> Reply:
    return await node.ask("DELETE", f"/v1/locks/{name}", headers={"KV-Lock-Token": token})


async def test_a_lock_is_taken_renewed_and_released(node: Node) -> None:
    taken = await acquire(node, ttl="5s")
    token = taken.json["token"]
    assert taken.status == 201
    assert taken.json == {"name": "l", "owner": "w1", "token": token, "fence": taken.json["fence"], "ttl": "5s"}
    assert (await renew(node, token)).json == {"name": "l", "owner": "w1", "fence": taken.json["fence"], "ttl": "5s"}
    released = await release(node, token)
    assert (released.status, released.json) == (200, {"name": "l", "fence": taken.json["fence"]})
    assert (await acquire(node)).json["fence"] > taken.json["fence"]


async def test_what_is_held_is_refused_with_its_holder(node: Node) -> None:
    await acquire(node, ttl="30s")
    refused = await acquire(node, owner="w2")
    assert (refused.status, refused.json["code"], refused.json["outcome"]) == (409, "lock-held", "not-applied")
    assert refused.json["holder"] == "w1"
    assert refused.headers["Retry-After"] == "31"  # thirty seconds, and what clocks may differ by
    assert "token" not in refused.json


async def test_a_lease_that_was_not_renewed_is_taken_over(node: Node) -> None:
    first = await acquire(node, ttl="1s")
    assert (await acquire(node, owner="w2")).status == 409
    second = await acquire(node, owner="w2", wait="5s")
    assert second.status == 201
    assert second.json["fence"] > first.json["fence"]
    for answer in (await renew(node, first.json["token"]), await release(node, first.json["token"])):
        assert (answer.status, answer.json["code"], answer.json["outcome"]) == (410, "lock-lost", "not-applied")


async def test_who_waits_gets_it_in_order(node: Node) -> None:
    held = await acquire(node)
    waiting = []
    for place in range(1, 4):
        waiting.append(asyncio.create_task(acquire(node, owner=f"w{place}", wait="10s")))
        await node.locks.waited_for("l", place)
    token = held.json["token"]
    fences = []
    for task in waiting:
        assert (await release(node, token)).status == 200
        granted = (await task).json
        token, fences = granted["token"], [*fences, granted["fence"]]
        assert granted["owner"] == f"w{len(fences)}"
    assert fences == sorted(set(fences))


async def test_a_wait_ends(node: Node) -> None:
    await acquire(node)
    refused = await acquire(node, owner="w2", wait="50ms")
    assert (refused.status, refused.json["code"]) == (409, "lock-held")


async def test_a_lock_is_shown_without_its_token(node: Node) -> None:
    taken = (await acquire(node, ttl="10s")).json
    shown = await node.ask("GET", "/v1/locks/l")
    expires_in = shown.json.pop("expires_in")
    assert 9 < expires_in <= 10.1
    assert shown.json.pop("holders") == [
        {"owner": "w1", "fence": taken["fence"], "lease": "10s", "expires_in": pytest.approx(expires_in, abs=0.2)}
    ]
    assert shown.json == {
        "name": "l", "holder": "w1", "fence": taken["fence"], "lease": "10s", "waiters": 0, "permits": 1,
    }  # fmt: skip
    assert (shown.status, shown.headers["Cache-Control"]) == (200, "no-store")
    head = await node.ask("HEAD", "/v1/locks/l")
    assert (head.status, head.body) == (200, b"")


async def test_a_lock_that_nobody_holds_is_not_shown(node: Node) -> None:
    never = await node.ask("GET", "/v1/locks/l")
    assert (never.status, never.json["code"], never.json["outcome"]) == (404, "not-held", "none")
    taken = (await acquire(node)).json
    await release(node, taken["token"])
    assert (await node.ask("GET", "/v1/locks/l")).json["fence"] == taken["fence"]


async def test_a_semaphore_has_permits(node: Node) -> None:
    first, second = [await acquire(node, owner=owner, permits=2) for owner in ("a", "b")]
    assert (first.json["permits"], second.json["permits"]) == (2, 2)
    assert (await acquire(node, owner="c", permits=2)).status == 409
    shown = (await node.ask("GET", "/v1/locks/l")).json
    assert [holder["owner"] for holder in shown["holders"]] == ["a", "b"]
    assert (shown["fence"], shown["permits"]) == (second.json["fence"], 2)
    other = await acquire(node, owner="d", permits=3)
    assert (other.status, other.json["permits"]) == (409, 2)
    assert "held with 2 permits, and this asks for 3 permits" in other.json["detail"]
    assert "held with 2 permits, and this asks for 1 permit;" in (await acquire(node)).json["detail"]


async def test_locks_are_listed(node: Node) -> None:
    for name in ("b/2", "a", "b/1", "c"):
        await acquire(node, name)
    await release(node, (await acquire(node, "gone")).json["token"], "gone")
    page = (await node.ask("GET", "/v1/locks")).json
    assert [lock["name"] for lock in page["locks"]] == ["a", "b/1", "b/2", "c"]
    assert "next" not in page
    assert page["locks"][0]["holder"] == "w1"
    assert [lock["name"] for lock in (await node.ask("GET", "/v1/locks?prefix=b/")).json["locks"]] == ["b/1", "b/2"]
    first = (await node.ask("GET", "/v1/locks?limit=3")).json
    rest = (await node.ask("GET", f"/v1/locks?after={first['next']}&timeout=2s")).json
    assert [lock["name"] for lock in (*first["locks"], *rest["locks"])] == ["a", "b/1", "b/2", "c"]
    assert node.locks.seen[-1] == ("list", "", "b/2", 1_000, 2.0)


@pytest.mark.parametrize(
    ("raw", "name"),
    [("a/b", "a/b"), ("a%2Fb", "a/b"), ("%C3%A9", "\u00e9"), ("x" * 256, "x" * 256), ("a+b", "a+b"), ("..", "..")],
)
async def test_names(node: Node, raw: str, name: str) -> None:
    assert (await acquire(node, raw)).json["name"] == name


@pytest.mark.parametrize("kind", ["locks", "votes", "elections"])
@pytest.mark.parametrize("raw", ["", "%00", "%ff", "%", "%zz", "x" * 257, "%C3%A9" * 129, "a%23b%", "a\0b"])
async def test_what_is_no_name(node: Node, kind: str, raw: str) -> None:
    answer = await node.ask("GET", f"/v1/{kind}/{raw}".replace("\0", "%00"))
    assert (answer.status, answer.json["code"]) == (400, "bad-key")
    assert node.locks.seen == []


@pytest.mark.parametrize(
    ("body", "code", "parameter"),
    [
        ({}, "bad-json", None),
        ({"owner": 1}, "bad-json", None),
        ({"owner": None}, "bad-json", None),
        ({"owner": "a", "color": 1}, "bad-json", None),
        ({"owner": "a", "token": "t"}, "bad-json", None),
        ({"owner": "a", "permits": "1"}, "bad-json", None),
        ({"owner": "a", "permits": 1.5}, "bad-json", None),
        ({"owner": "a", "permits": True}, "bad-json", None),
        ([], "bad-json", None),
        ({"owner": ""}, "bad-parameter", "owner"),
        ({"owner": "x" * 257}, "bad-parameter", "owner"),
        ({"owner": "\u00e9" * 129}, "bad-parameter", "owner"),
        ({"owner": "a\0b"}, "bad-parameter", "owner"),
        ({"owner": "a", "permits": 0}, "bad-parameter", "permits"),
        ({"owner": "a", "permits": -1}, "bad-parameter", "permits"),
        ({"owner": "a", "permits": 101}, "bad-parameter", "permits"),
        ({"owner": "a", "permits": 10**30}, "bad-parameter", "permits"),
        *(
            ({"owner": "a", "ttl": ttl}, "bad-parameter", "ttl")
            for ttl in (10, 10.0, None, True, [], {}, "", "10", "0", "0s", "999ms", "3601s", "61m", "2h", "365d", "-5s",
                        "+5s", "1.5s", "05s", "10 s", "10S", "NaN", "nans", "infs", "1e3s", "1w", "9999999999s",
                        "\u0661s", "s", "10ss")
        ),
        *(
            ({"owner": "a", "wait": wait}, "bad-parameter", "wait")
            for wait in (0, 30, 1.5, None, False, [], "", "00", "-0", "-1s", "601s", "11m", "1h", "365d", "30", "1.5s",
                         "NaN", "nans", "forever", "0h0")
        ),
    ],
)  # fmt: skip
async def test_bad_bodies(node: Node, body: Any, code: str, parameter: str | None) -> None:
    answer = await node.ask("POST", "/v1/locks/l", json=body)
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (400, code, "not-applied")
    assert answer.json.get("parameter") == parameter
    assert node.locks.seen == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"owner": "a"',
        b'{"owner": "a", "owner": "b"}',
        b'{"owner": "a", "ttl": "1s", "ttl": "2s"}',
        b'{"owner": "\xff"}',
        b'{"owner": "\\ud800"}',
        b'{"owner": "a", "permits": NaN}',
        b'{"owner": "a", "wait": NaN}',
        b'{"owner": "a"} x',
        b'{"owner": "a", "ttl": ' + b"[" * 1_900 + b"]" * 1_900 + b"}",
        b"owner=a",
    ],
)
async def test_malformed_bodies(node: Node, body: bytes) -> None:
    answer = await node.ask("POST", "/v1/locks/l", data=body, headers=JSON)
    assert (answer.status, answer.json["code"]) == (400, "bad-json")
    assert node.locks.seen == []


async def test_a_body_may_be_4096_bytes(node: Node) -> None:
    fits = b'{"owner": "a"}' + b" " * (4_096 - 14)
    assert (await node.ask("POST", "/v1/locks/l", data=fits, headers=JSON)).status == 201
    answer = await node.ask("POST", "/v1/locks/l", data=fits + b" ", headers=JSON)
    assert (answer.status, answer.json["code"], answer.json["limit"]) == (413, "too-large", 4_096)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("0", 0), ("0s", 0), ("0ms", 0), ("0m", 0), ("1ms", 0.001), ("10m", 600), ("600s", 600), ("600000ms", 600)],
)
async def test_waits(node: Node, said: str, seconds: float) -> None:
    assert (await acquire(node, wait=said)).status == 201
    assert node.locks.seen[0][3] == seconds


@pytest.mark.parametrize(
    ("said", "told"),
    [("1s", "1s"), ("1000ms", "1s"), ("1500ms", "1500ms"), ("1m", "60s"), ("1h", "3600s"), ("3600s", "3600s")],
)
async def test_leases(node: Node, said: str, told: str) -> None:
    assert (await acquire(node, ttl=said)).json["ttl"] == told


async def test_without_a_lease_or_a_wait_the_usual_ones(node: Node) -> None:
    assert (await acquire(node)).json["ttl"] == "10s"
    _, _, wish, wait_s, timeout_s = node.locks.seen[0]
    assert (wish.ttl_ms, wish.permits, wait_s, timeout_s) == (10_000, 1, 0.0, 5.0)
    await acquire(node, query="?timeout=60s")
    assert node.locks.seen[-1][4] == 60.0


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("timeout=61s", "timeout"), ("timeout=0s", "timeout"), ("timeout=1s&timeout=1s", "timeout"), ("wait=1s", "wait"),
     ("ttl=1s", "ttl"), ("consistency=strong", "consistency"), ("w=2", "w"), ("token=t", "token")],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_queries_that_mean_nothing(node: Node, method: str, query: str, parameter: str) -> None:
    options: dict[str, Any] = {"json": {}} if method in ("POST", "PUT") else {"headers": {"KV-Lock-Token": "t"}}
    answer = await node.ask(method, f"/v1/locks/l?{query}", **options)
    assert (answer.status, answer.json["code"], answer.json["parameter"]) == (400, "bad-parameter", parameter)
    assert node.locks.seen == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [("limit=0", "limit"), ("limit=1001", "limit"), ("limit=x", "limit"), ("values=true", "values"), ("r=1", "r"),
     ("prefix=%ff", "prefix"), ("after=%00", "after"), ("prefix=" + "x" * 1_025, "prefix")],
)  # fmt: skip
async def test_pages_that_mean_nothing(node: Node, query: str, parameter: str) -> None:
    answer = await node.ask("GET", f"/v1/locks?{query}")
    assert (answer.status, answer.json["code"], answer.json["parameter"]) == (400, "bad-parameter", parameter)


@pytest.mark.parametrize("token", ["", "x" * 257, "\u00e9", "a\tb"])
async def test_what_is_no_token(node: Node, token: str) -> None:
    answer = await node.ask("PUT", "/v1/locks/l", json={"token": token})
    assert (answer.status, answer.json["code"], answer.json["parameter"]) == (400, "bad-parameter", "token")
    header = {"KV-Lock-Token": token.encode("utf-8").decode("latin-1")}
    answer = await node.ask("DELETE", "/v1/locks/l", headers=header)
    assert (answer.status, answer.json["code"], answer.json["parameter"]) == (400, "bad-parameter", "KV-Lock-Token")
    assert node.locks.seen == []


async def test_a_token_stands_there_once(node: Node) -> None:
    missing = await node.ask("DELETE", "/v1/locks/l")
    twice = await node.ask("DELETE", "/v1/locks/l", headers=[("KV-Lock-Token", "t"), ("KV-Lock-Token", "t")])
    for answer, why in ((missing, "it is missing"), (twice, "more than once")):
        assert (answer.status, answer.json["code"], answer.json["outcome"]) == (400, "bad-parameter", "not-applied")
        assert why in answer.json["detail"]
    assert (await node.ask("DELETE", "/v1/locks/l", headers={"kv-lock-token": "t"})).status == 410


@pytest.mark.parametrize("body", [{}, {"token": 1}, {"token": "t", "ttl": "1s"}])
async def test_bad_renewals(node: Node, body: Any) -> None:
    answer = await node.ask("PUT", "/v1/locks/l", json=body)
    assert (answer.status, answer.json["code"]) == (400, "bad-json")


async def test_a_release_has_no_body(node: Node) -> None:
    answer = await node.ask("DELETE", "/v1/locks/l", headers={"KV-Lock-Token": "t"}, data=b"x")
    assert answer.status == 413


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/locks/l"), ("PUT", "/v1/locks/l"), ("POST", "/v1/votes/v"),
                                              ("POST", "/v1/elections/e"), ("PUT", "/v1/elections/e")])  # fmt: skip
async def test_only_json_is_taken(node: Node, method: str, path: str) -> None:
    for content_type in ("text/plain", "application/json; charset=latin-1", "application/x-www-form-urlencoded"):
        answer = await node.ask(method, path, data=b"{}", headers={"Content-Type": content_type})
        assert (answer.status, answer.json["code"]) == (415, "unsupported-media-type")
    assert (await node.ask(method, path, data=b"{}", headers=JSON | {"Content-Encoding": "gzip"})).status == 415
    answer = await node.ask(method, path, data=b"{}", headers=JSON | {"Accept": "text/html"})
    assert answer.status == 406
    answer = await node.ask(method, path, data=b"{}", headers=JSON | {"KV-Fence": "l=1"})
    assert (answer.status, answer.json["code"]) == (400, "bad-fence")
    assert node.locks.seen == []


@pytest.mark.parametrize(
    ("path", "method", "allow"),
    [
        ("/v1/locks/l", "PATCH", "GET, HEAD, POST, PUT, DELETE"),
        ("/v1/locks", "POST", "GET, HEAD"),
        ("/v1/locks", "DELETE", "GET, HEAD"),
        ("/v1/votes/v", "PUT", "GET, HEAD, POST"),
        ("/v1/votes/v", "DELETE", "GET, HEAD, POST"),
        ("/v1/elections/e", "OPTIONS", "GET, HEAD, POST, PUT, DELETE"),
    ],
)
async def test_other_methods(node: Node, path: str, method: str, allow: str) -> None:
    answer = await node.ask(method, path)
    assert (answer.status, answer.headers["Allow"]) == (405, allow)
    assert "KV-Receipt" not in answer.headers


FAILURES = [
    (Unavailable(2, 1, ("n1",)), 503, "quorum-unavailable", "not-applied", "1 of 2 needed replicas could be reached"),
    (Unavailable(2, 0, (), "its clock is off"), 503, "quorum-unavailable", "not-applied", "its clock is off. Ask"),
    (Overloaded(2.5), 503, "overloaded", "not-applied", "nothing was changed"),
    (NoRoom("64 MiB are left"), 507, "disk-full", "not-applied", "64 MiB are left"),
]


@pytest.mark.parametrize(("outcome", "status", "code", "conclusion", "words"), [
    *FAILURES,
    (Unknown(2, 1, ("n1",), 7), 504, "outcome-unknown", "unknown", "frees itself once its lease of 10s"),
])  # fmt: skip
async def test_an_acquisition_that_fails(
    node: Node, outcome: Any, status: int, code: str, conclusion: str, words: str
) -> None:
    node.locks.next_outcome = outcome
    answer = await acquire(node)
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (status, code, conclusion)
    assert words in answer.json["detail"]
    assert "version" not in answer.json
    if code == "overloaded":
        assert answer.headers["Retry-After"] == "3"


@pytest.mark.parametrize(("outcome", "status", "code", "conclusion", "words"), [
    *FAILURES,
    (Unknown(2, 1, ("n1",), 7), 504, "outcome-unknown", "unknown", "again is safe"),
])  # fmt: skip
async def test_a_renewal_or_release_that_fails(
    node: Node, outcome: Any, status: int, code: str, conclusion: str, words: str
) -> None:
    for ask in (renew, release):
        node.locks.next_outcome = outcome
        answer = await ask(node, "t")
        assert (answer.status, answer.json["code"], answer.json["outcome"]) == (status, code, conclusion)
        assert words in answer.json["detail"]


@pytest.mark.parametrize(("outcome", "status", "code"), [
    (Unavailable(2, 1, ("n1",)), 503, "quorum-unavailable"),
    (Overloaded(1.0), 503, "overloaded"),
    (TimedOut(2, 1, ("n1",)), 504, "timeout"),
])  # fmt: skip
async def test_a_look_that_fails(node: Node, outcome: Any, status: int, code: str) -> None:
    for path in ("/v1/locks/l", "/v1/locks", "/v1/votes/v", "/v1/elections/e"):
        node.locks.next_outcome = outcome
        answer = await node.ask("GET", path)
        assert (answer.status, answer.json["code"], answer.json["outcome"]) == (status, code, "none")


@pytest.fixture
def plain_logs() -> Iterator[None]:
    """Tracebacks as a node logs them; structlog's own way of showing them to developers shows all variables, too."""
    structlog.configure([structlog.processors.format_exc_info, structlog.processors.JSONRenderer()])
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("plain_logs")
async def test_tokens_are_secrets(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    node = await start(log_level="debug")
    token = (await acquire(node)).json["token"]
    other = (await acquire(node, "other")).json["token"]
    assert len(token) == len(other) == 2 * TOKEN_BYTES
    assert token != other
    digest = node.locks.seen[0][2].token
    assert (digest, len(digest)) == (token_digest(token), TOKEN_DIGEST_BYTES)
    answers = [await node.ask("GET", "/v1/locks/l"), await node.ask("GET", "/v1/locks"), await renew(node, token),
               await node.ask("PUT", "/v1/locks/l", json={"token": token, "x": 1}),
               await node.ask("PUT", "/v1/locks/l", json={"token": token}, headers={"Accept": "text/html"}),
               await node.ask("DELETE", f"/v1/locks/l?token={token}", headers={"KV-Lock-Token": token}),
               await node.ask("DELETE", "/v1/locks/l", headers=[("KV-Lock-Token", token)] * 2)]  # fmt: skip
    node.locks.next_outcome = RuntimeError("a fault of ours")
    answers.append(await release(node, token))
    assert answers[-1].status == 500
    assert all(token.encode() not in answer.body for answer in answers)
    logged = capsys.readouterr()
    assert "a fault of ours" in logged.out
    assert token not in logged.out + logged.err
    assert not any(token in str(seen) for seen in node.locks.seen)


async def test_metrics_count_what_became_of_requests(node: Node) -> None:
    token = (await acquire(node)).json["token"]
    await acquire(node)
    await renew(node, token)
    await release(node, token)
    await release(node, token)
    await acquire(node, ttl="never")
    await acquire(node, owner="w2", wait="1s")
    for operation, outcome, count in (("acquire", "ok", 2), ("acquire", "lock-held", 1), ("renew", "ok", 1),
                                      ("acquire", "bad-parameter", 1), ("release", "lock-lost", 1)):  # fmt: skip
        name = f'kvstore_lock_requests_total{{operation="{operation}",outcome="{outcome}"}}'
        assert sample(node, name) == count, name
    assert sample(node, "kvstore_lock_wait_seconds_count") == 1
