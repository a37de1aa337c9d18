"""/v1/votes and /v1/elections."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cluster.requests import Unknown
from kvstore.http.routes.locking.votes import rfc3339
from tests.kvstore.http.conftest import Node, Reply
from tests.kvstore.http.honest_backend import NOW_MS

JSON = {"Content-Type": "application/json"}


async def propose(node: Node, candidate: str, name: str = "v", **body: Any) -> Reply:
    return await node.ask("POST", f"/v1/votes/{name}", json={"candidate": candidate} | body)


async def test_the_first_proposal_wins_for_ever(node: Node) -> None:
    undecided = await node.ask("GET", "/v1/votes/v")
    assert (undecided.status, undecided.json["code"], undecided.json["outcome"]) == (404, "not-found", "none")
    first = await propose(node, "a", value={"port": 7001, "hosts": ["x", None]})
    assert first.status == 201
    assert first.json == {
        "name": "v", "winner": "a", "candidate": "a", "value": {"port": 7001, "hosts": ["x", None]},
        "decided_at": rfc3339(NOW_MS),
    }  # fmt: skip
    second = await propose(node, "b", value=2)
    shown = await node.ask("GET", "/v1/votes/v")
    assert [(answer.status, answer.json) for answer in (second, shown)] == [(200, first.json)] * 2
    assert shown.headers["Cache-Control"] == "no-store"
    assert (await node.ask("HEAD", "/v1/votes/v")).status == 200
    assert (await propose(node, "b", name="another")).json["value"] is None


async def test_of_many_proposals_at_once_one_wins(node: Node) -> None:
    answers = await asyncio.gather(*(propose(node, f"c{i}", value=i) for i in range(20)))
    assert sorted(answer.status for answer in answers) == [200] * 19 + [201]
    assert len({json.dumps(answer.json) for answer in answers}) == 1


@pytest.mark.parametrize("text", ["12345678901234567890123", "0.1000", '[1, {"a":  "\\u00e9"}]', '""', "false", "null"])
async def test_a_value_stays_as_it_was_written(node: Node, text: str) -> None:
    body = b'{"candidate": "a", "value": ' + text.encode() + b"}"
    answer = await node.ask("POST", "/v1/votes/v", data=body, headers=JSON)
    assert answer.status == 201
    assert b'"value":' + text.encode() + b"," in answer.body


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{}", 400, "bad-json"),
        (b'{"candidate": 1}', 400, "bad-json"),
        (b'{"candidate": "a", "valeu": 1}', 400, "bad-json"),
        (b'{"candidate": "a", "candidate": "b"}', 400, "bad-json"),
        (b'{"candidate": "a", "value": {"x": 1, "x": 2}}', 400, "bad-json"),
        (b'{"candidate": "a", "value": NaN}', 400, "bad-json"),
        (b'{"candidate": "a", "value": -Infinity}', 400, "bad-json"),
        (b'{"candidate": "a", "value": 1e999}', 400, "bad-json"),
        (b'{"candidate": "a", "value": 01}', 400, "bad-json"),
        (b'{"candidate": "a", "value": "\\ud800"}', 400, "bad-json"),
        (b'{"candidate": "a", "value": "\xff"}', 400, "bad-json"),
        (b'{"candidate": "a", "value": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", 400, "bad-json"),
        (b'{"candidate": "a", "value": }', 400, "bad-json"),
        (b'{"candidate": ""}', 400, "bad-parameter"),
        (b'{"candidate": "' + b"x" * 257 + b'"}', 400, "bad-parameter"),
        (b'{"candidate": "a\\u0000b"}', 400, "bad-parameter"),
        (b'{"candidate": "a", "value": "' + b"x" * 65_535 + b'"}', 413, "too-large"),
        (b'{"candidate": "a", "value": "' + b"x" * 70_000 + b'"}', 413, "too-large"),
    ],
)
async def test_bad_proposals(node: Node, body: bytes, status: int, code: str) -> None:
    answer = await node.ask("POST", "/v1/votes/v", data=body, headers=JSON)
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (status, code, "not-applied")
    assert node.locks.seen == []


async def test_a_value_may_be_64_kib(node: Node) -> None:
    assert (await propose(node, "a", value="x" * 65_534)).status == 201


async def test_an_unknown_proposal_may_be_repeated(node: Node) -> None:
    node.locks.next_outcome = Unknown(2, 1, ("n1",), None)
    answer = await propose(node, "a")
    assert (answer.status, answer.json["code"], answer.json["outcome"]) == (504, "outcome-unknown", "unknown")
    assert "Proposing again is safe" in answer.json["detail"]
    assert (await propose(node, "a")).status == 201


def test_moments() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_760_000_012_345) == "2025-10-09T08:53:32.345Z"
    assert rfc3339(1_760_000_012_007) == "2025-10-09T08:53:32.007Z"


async def campaign(node: Node, candidate: str, **body: Any) -> Reply:
    return await node.ask("POST", "/v1/elections/e", json={"candidate": candidate} | body)


async def test_one_leads_until_it_resigns(node: Node) -> None:
    assert (await node.ask("GET", "/v1/elections/e")).json["code"] == "not-held"
    elected = await campaign(node, "a", ttl="30s")
    token, term = elected.json["token"], elected.json["term"]
    assert elected.status == 201
    assert elected.json == {"name": "e", "leader": "a", "term": term, "token": token, "ttl": "30s"}
    refused = await campaign(node, "b")
    assert (refused.status, refused.json["code"], refused.json["holder"]) == (409, "lock-held", "a")
    following = asyncio.create_task(campaign(node, "b", wait="10s"))
    await node.locks.waited_for("e", 1)
    shown = (await node.ask("GET", "/v1/elections/e")).json
    assert 29 < shown.pop("expires_in") < 31
    assert shown == {"name": "e", "leader": "a", "term": term, "lease": "30s", "candidates": 1}
    renewed = await node.ask("PUT", "/v1/elections/e", json={"token": token})
    assert (renewed.status, renewed.json) == (200, {"name": "e", "leader": "a", "term": term, "ttl": "30s"})
    resigned = await node.ask("DELETE", "/v1/elections/e", headers={"KV-Lock-Token": token})
    assert (resigned.status, resigned.json) == (200, {"name": "e", "term": term})
    assert (await following).json["term"] > term
    for gone in (await node.ask("PUT", "/v1/elections/e", json={"token": token}),
                 await node.ask("DELETE", "/v1/elections/e", headers={"KV-Lock-Token": token})):  # fmt: skip
        assert (gone.status, gone.json["code"]) == (410, "lock-lost")


async def test_an_election_is_the_lock_of_its_name(node: Node) -> None:
    elected = (await campaign(node, "a")).json
    shown = (await node.ask("GET", "/v1/locks/e")).json
    assert (shown["holder"], shown["fence"]) == ("a", elected["term"])
    released = await node.ask("DELETE", "/v1/locks/e", headers={"KV-Lock-Token": elected["token"]})
    assert released.json == {"name": "e", "fence": elected["term"]}


async def test_nobody_leads_by_a_semaphore(node: Node) -> None:
    await node.ask("POST", "/v1/locks/e", json={"owner": "a", "permits": 3})
    shown = await node.ask("GET", "/v1/elections/e")
    assert (shown.status, shown.json["code"], shown.json["permits"]) == (404, "not-held", 3)
    assert (await campaign(node, "b")).json["code"] == "lock-held"


@pytest.mark.parametrize("body", [{"owner": "a"}, {"candidate": "a", "permits": 1}, {"candidate": "a", "ttl": "2h"},
                                  {"candidate": "a", "wait": "11m"}, {"candidate": "x" * 257}])  # fmt: skip
async def test_bad_campaigns(node: Node, body: Any) -> None:
    assert (await node.ask("POST", "/v1/elections/e", json=body)).status == 400
    assert node.locks.seen == []
