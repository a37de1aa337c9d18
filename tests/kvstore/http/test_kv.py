"""GET, HEAD, PUT and DELETE of one key, over a real socket."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from cluster.levels import Level
from cluster.requests import (
    Conflict,
    Found,
    NoRoom,
    Overloaded,
    TimedOut,
    Unavailable,
    Unknown,
    Written,
)
from storage.record import Record
from tests.kvstore.http.conftest import Node, Start
from tests.kvstore.http.honest_backend import WRITTEN_MS

RECEIPT = 'consistency=strong, n=3, needed=2, acks=2, replicas="n1 n3", coordinator="n1", epoch=4'


async def test_a_value_is_read_back_as_it_was_written(node: Node) -> None:
    body = bytes(range(256))
    written = await node.ask("PUT", "/v1/kv/a/b", data=body, headers={"Content-Type": "image/png"})
    read = await node.ask("GET", "/v1/kv/a/b")
    version = written.json["version"]
    assert written.status == 200
    assert written.json == {"key": "a/b", "version": version, "consistency": "strong", "acks": 2, "replicas": 3}
    assert written.headers["ETag"] == read.headers["ETag"] == f'"{version}"'
    assert written.headers["KV-Receipt"] == read.headers["KV-Receipt"] == RECEIPT
    assert (read.status, read.body, read.headers["Content-Type"]) == (200, body, "image/png")
    assert read.headers["X-Content-Type-Options"] == "nosniff"
    assert read.headers["Last-Modified"] == "Thu, 09 Oct 2025 08:53:20 GMT"


async def test_head_is_get_without_the_body(node: Node) -> None:
    await node.ask("PUT", "/v1/kv/k", data=b"12345")
    read, head = await node.ask("GET", "/v1/kv/k"), await node.ask("HEAD", "/v1/kv/k")
    varying = {"x-request-id", "date"}
    assert head.body == b""
    assert {k: v for k, v in head.headers.items() if k.lower() not in varying} == {
        k: v for k, v in read.headers.items() if k.lower() not in varying
    }
    assert (await node.ask("HEAD", "/v1/kv/absent")).status == 404


async def test_what_is_not_there_is_404_and_deleting_it_succeeds(node: Node) -> None:
    missing = await node.ask("GET", "/v1/kv/k")
    assert (missing.status, missing.json["code"], missing.json["outcome"]) == (404, "not-found", "none")
    assert missing.headers["KV-Receipt"] == RECEIPT
    await node.ask("PUT", "/v1/kv/k", data=b"1")
    for _ in range(2):
        deleted = await node.ask("DELETE", "/v1/kv/k")
        assert (deleted.status, deleted.json["key"]) == (200, "k")
        assert deleted.headers["KV-Receipt"] == RECEIPT
    assert (await node.ask("GET", "/v1/kv/k")).status == 404


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/../b", "a/../b"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("a//b/", "a//b/"),
        ("a%2Fb", "a/b"),
        ("a+b", "a+b"),
        ("a%2Bb", "a+b"),
        ("%F0%9F%98%80", "\N{GRINNING FACE}"),
        ("%25ff", "%ff"),
        ("%2E%2E%2Fadmin", "../admin"),
        ("/", "/"),
        ("a%0A%0Db", "a\n\rb"),
        ("%3Fnot=query", "?not=query"),
        ("a%23b", "a#b"),
        (quote("e\u0301"), "e\u0301"),
        ("a;b=c&d", "a;b=c&d"),
        ("x" * 1024, "x" * 1024),
        (quote("\u20ac" * 341), "\u20ac" * 341),
    ],
)
async def test_keys_round_trip_unchanged(node: Node, path: str, key: str) -> None:
    written = await node.ask("PUT", f"/v1/kv/{path}", data=b"v")
    assert (written.status, written.json["key"]) == (200, key)
    assert set(node.backend.records) == {key.encode()}
    assert (await node.ask("GET", f"/v1/kv/{quote(key, safe='')}")).body == b"v"


@pytest.mark.parametrize(
    "path", ["", "%ff", "%zz", "%", "%4", "%00", "a%00b", "%ED%A0%80", "%C3", "x" * 1025, "%25" * 1025, "%+1", "%%41"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_what_is_no_key_is_refused(node: Node, path: str, method: str) -> None:
    answer = await node.ask(method, f"/v1/kv/{path}")
    assert (answer.status, answer.json["code"]) == (400, "bad-key")
    assert answer.json["outcome"] == ("none" if method == "GET" else "not-applied")
    assert node.backend.seen == []


@pytest.mark.parametrize("level", list(Level))
async def test_choices_reach_the_backend(node: Node, level: Level) -> None:
    await node.ask("PUT", f"/v1/kv/k?consistency={level}&w=all&timeout=250ms", data=b"v")
    await node.ask("GET", f"/v1/kv/k?r=2&timeout=1m&consistency={level}")
    write, read = node.backend.seen
    assert (write.level, write.needed, write.timeout_s) == (level, 3, 0.25)
    assert (read.level, read.needed, read.timeout_s) == (level, 2, 60.0)


async def test_the_default_level_is_the_nodes(start: Start) -> None:
    weak = await start(consistency=Level.WEAK)
    answer = await weak.ask("PUT", "/v1/kv/k", data=b"v")
    assert answer.json["consistency"] == "weak"


async def test_weak_reads_tell_their_age(node: Node) -> None:
    await node.ask("PUT", "/v1/kv/k", data=b"v")
    weak = await node.ask("GET", "/v1/kv/k?consistency=weak")
    strong = await node.ask("GET", "/v1/kv/k")
    missing = await node.ask("GET", "/v1/kv/absent?consistency=eventual")
    assert weak.headers["KV-Receipt"].endswith("epoch=4, age=12.345")
    assert "age=" not in strong.headers["KV-Receipt"]
    assert "age=" not in missing.headers["KV-Receipt"]


async def test_conditional_reads(node: Node) -> None:
    etag = (await node.ask("PUT", "/v1/kv/k", data=b"v")).headers["ETag"]
    for header in (etag, f'"other", W/{etag}', f'"a, b" ,{etag}', f'"{etag[1:5]},",{etag},"c"', "*"):
        answer = await node.ask("GET", "/v1/kv/k", headers={"If-None-Match": header})
        assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", etag)
        assert answer.headers["KV-Receipt"] == RECEIPT
        assert "Content-Length" not in answer.headers
    assert (await node.ask("GET", "/v1/kv/k", headers={"If-None-Match": '"0000000000000001"'})).status == 200
    inside = f'"a,0, {etag[1:-1]}, b"'
    assert (await node.ask("GET", "/v1/kv/k", headers={"If-None-Match": inside})).status == 200
    for header in (f"{etag}{etag}", f"{etag} x", f'{etag}, "', "x", f"{etag},, "):
        assert (await node.ask("GET", "/v1/kv/k", headers={"If-None-Match": header})).status == 400, header
    assert (await node.ask("GET", "/v1/kv/absent", headers={"If-None-Match": "*"})).status == 404
    assert (await node.ask("GET", "/v1/kv/k", headers={"If-Match": etag})).status == 200
    mismatch = await node.ask("GET", "/v1/kv/k", headers={"If-Match": '"0000000000000001"'})
    assert (mismatch.status, mismatch.json["version"], mismatch.json["outcome"]) == (412, etag.strip('"'), "none")


async def test_conditional_writes(node: Node) -> None:
    create = {"If-None-Match": "*"}
    etag = (await node.ask("PUT", "/v1/kv/k", data=b"1", headers=create)).headers["ETag"]
    version = etag.strip('"')
    twice = await node.ask("PUT", "/v1/kv/k", data=b"2", headers=create)
    assert (twice.status, twice.json["code"], twice.json["version"]) == (412, "exists", version)
    assert twice.json["outcome"] == "not-applied"
    changed = await node.ask("PUT", "/v1/kv/k", data=b"3", headers={"If-Match": etag})
    assert changed.status == 200
    stale = await node.ask("DELETE", "/v1/kv/k", headers={"If-Match": etag})
    assert (stale.status, stale.json["code"], stale.json["version"]) == (
        412, "version-mismatch", changed.json["version"],
    )  # fmt: skip
    absent = await node.ask("PUT", "/v1/kv/absent", data=b"1", headers={"If-Match": "*"})
    assert (absent.status, absent.json["code"], absent.json["version"]) == (412, "version-mismatch", None)
    assert (await node.ask("DELETE", "/v1/kv/k", headers={"If-Match": "*"})).status == 200


@pytest.mark.parametrize(
    ("method", "query", "headers", "code"),
    [
        ("PUT", "", {"If-Match": '"0000000000000001"', "If-None-Match": "*"}, "bad-parameter"),
        ("PUT", "", {"If-Match": '"0000000000000001", "0000000000000002"'}, "bad-parameter"),
        ("PUT", "", {"If-Match": 'W/"0000000000000001"'}, "bad-parameter"),
        ("PUT", "", {"If-Match": "0000000000000001"}, "bad-parameter"),
        ("PUT", "", {"If-Match": '"zzz"'}, "bad-parameter"),
        ("PUT", "", {"If-Match": '""'}, "bad-parameter"),
        ("PUT", "", {"If-None-Match": '"0000000000000001"'}, "bad-parameter"),
        ("PUT", "", {"If-Unmodified-Since": "Thu, 09 Oct 2025 08:53:20 GMT"}, "bad-parameter"),
        ("PUT", "", {"Content-Range": "bytes 0-1/2"}, "bad-parameter"),
        ("DELETE", "", {"If-None-Match": "*"}, "bad-parameter"),
        ("PUT", "?consistency=weak", {"If-Match": "*"}, "needs-strong"),
        ("PUT", "?consistency=eventual", {"If-None-Match": "*"}, "needs-strong"),
        ("DELETE", "?consistency=weak", {"If-Match": '"0000000000000001"'}, "needs-strong"),
        ("PUT", "", {"KV-Fence": "lock=0"}, "bad-fence"),
        ("GET", "", {"KV-Fence": "lock=0"}, "bad-fence"),
        ("GET", "?consistency=weak", {"KV-Fence": "lock=1"}, "needs-strong"),
        ("GET", "", {"If-None-Match": "0000000000000001"}, "bad-parameter"),
        ("PUT", "", {"Content-Type": "t" * 257}, "bad-parameter"),
        ("PUT", "", {"Content-Type": "text/\u00e9"}, "bad-parameter"),
        ("PUT", "", {"Expect": "the-impossible"}, "expectation-failed"),
        ("PUT", "", {"Content-Encoding": "gzip"}, "unsupported-media-type"),
        ("PUT", "", {"Accept": "text/plain"}, "not-acceptable"),
        ("PUT", "?ttl=30", {}, "bad-parameter"),
        ("PUT", "?ttl=99ms", {}, "bad-parameter"),
        ("GET", "?ttl=30s", {}, "bad-parameter"),
        ("DELETE", "?ttl=30s", {}, "bad-parameter"),
        ("PUT", "?w=1", {}, "quorum-too-small"),
        ("PUT", "?w=4", {}, "quorum-too-large"),
        ("GET", "?r=one", {}, "quorum-too-small"),
        ("GET", "?r=4&consistency=weak", {}, "quorum-too-large"),
        ("GET", "?r=0&consistency=weak", {}, "quorum-too-small"),
        ("GET", "?w=2", {}, "bad-parameter"),
        ("PUT", "?r=2", {}, "bad-parameter"),
        ("GET", "?consistency=linear", {}, "bad-parameter"),
        ("GET", "?consistancy=weak", {}, "bad-parameter"),
    ],
)
async def test_what_can_not_be_honoured_is_refused(
    node: Node, method: str, query: str, headers: dict[str, str], code: str
) -> None:
    data = b"v" if method == "PUT" else None
    answer = await node.ask(method, f"/v1/kv/k{query}", data=data, headers=headers)
    assert answer.json["code"] == code
    assert answer.json["status"] == answer.status
    assert answer.json["type"] == f"urn:kvstore:{code}"
    assert answer.json["outcome"] == ("none" if method == "GET" else "not-applied")
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert 'n=3, acks=0, replicas="", coordinator="n1", epoch=4' in answer.headers["KV-Receipt"]
    assert node.backend.seen == []


VERSION = "016a40d100000000"
UNKNOWN_VERSION = 0x016A40D100000000


@pytest.mark.parametrize(
    ("outcome", "status", "expected"),
    [
        (Unavailable(2, 1, ("n1",)), 503,
         {"code": "quorum-unavailable", "outcome": "not-applied", "needed": 2, "got": 1}),
        (Unknown(2, 1, ("n1",), UNKNOWN_VERSION), 504,
         {"code": "outcome-unknown", "outcome": "unknown", "needed": 2, "got": 1, "version": VERSION}),
        (Unknown(2, 0, (), None), 504, {"code": "outcome-unknown", "outcome": "unknown", "version": None}),
        (Overloaded(1.5), 503, {"code": "overloaded", "outcome": "not-applied"}),
        (NoRoom("the disk is full"), 507,
         {"code": "disk-full", "outcome": "not-applied",
          "detail": "Nothing was written: the disk is full. Other nodes may have room."}),
        (Unavailable(2, 0, (), "this node's wall clock is off"), 503,
         {"code": "quorum-unavailable", "outcome": "not-applied", "needed": 2, "got": 0,
          "detail": "This node can't take part now, and nothing was written: this node's wall clock is off. "
          "Ask another node."}),
        (Conflict(None, 2, ("n1", "n3")), 412, {"code": "version-mismatch", "outcome": "not-applied", "version": None}),
        (RuntimeError("boom"), 500, {"code": "internal", "outcome": "unknown"}),
    ],
)  # fmt: skip
async def test_write_outcomes(node: Node, outcome: Any, status: int, expected: dict[str, Any]) -> None:
    node.backend.next_outcome = outcome
    answer = await node.ask("PUT", "/v1/kv/k", data=b"v")
    assert answer.status == status
    assert expected.items() <= answer.json.items()
    assert b"boom" not in answer.body
    assert b"Traceback" not in answer.body
    assert ("Retry-After" in answer.headers) == isinstance(outcome, Overloaded)
    assert 'coordinator="n1", epoch=4' in answer.headers["KV-Receipt"]


@pytest.mark.parametrize(
    ("outcome", "status", "expected"),
    [
        (Unavailable(2, 1, ("n1",)), 503, {"code": "quorum-unavailable", "outcome": "none", "needed": 2, "got": 1}),
        (TimedOut(2, 1, ("n1",)), 504, {"code": "timeout", "outcome": "none", "needed": 2, "got": 1}),
        (Overloaded(0.2), 503, {"code": "overloaded", "outcome": "none"}),
        (RuntimeError("boom"), 500, {"code": "internal", "outcome": "none"}),
    ],
)
async def test_read_outcomes(node: Node, outcome: Any, status: int, expected: dict[str, Any]) -> None:
    node.backend.next_outcome = outcome
    answer = await node.ask("GET", "/v1/kv/k")
    assert answer.status == status
    assert expected.items() <= answer.json.items()
    if not isinstance(outcome, Overloaded | Exception):
        assert 'acks=1, replicas="n1"' in answer.headers["KV-Receipt"]


@pytest.mark.parametrize(
    ("method", "outcome", "words"),
    [
        ("PUT", Unavailable(2, 1, ()), "2 replicas are needed and 1 could be reached in the time there was; nothing"),
        ("PUT", Unavailable(1, 0, ()), "1 replica is needed and 0 could be reached in the time there was; nothing"),
        ("GET", Unavailable(1, 0, ()), "1 replica is needed and 0 could be reached in the time there was. Try"),
        ("GET", TimedOut(1, 0, ()), "0 of 1 needed replica answered in time."),
        ("PUT", Unknown(2, 1, (), None), "1 of 2 needed replicas acknowledged the write. It may be applied, now or "
         "later: read before you repeat it."),
        ("PUT", Unknown(1, 0, (), None), "0 of 1 needed replica acknowledged the write. It may be"),
    ],
)  # fmt: skip
async def test_outcomes_in_words(node: Node, method: str, outcome: Any, words: str) -> None:
    node.backend.next_outcome = outcome
    assert (await node.ask(method, "/v1/kv/k")).json["detail"].startswith(words)


async def test_receipt_counts_who_acknowledged(node: Node) -> None:
    node.backend.next_outcome = Written(UNKNOWN_VERSION, 3, ("n1", "n2", "n3"))
    answer = await node.ask("PUT", "/v1/kv/k?consistency=weak&w=1", data=b"v")
    assert answer.json["acks"] == 3
    assert answer.headers["KV-Receipt"] == (
        'consistency=weak, n=3, needed=1, acks=3, replicas="n1 n2 n3", coordinator="n1", epoch=4'
    )


async def test_a_tombstone_is_absent_and_still_has_an_age(node: Node) -> None:
    ballot = UNKNOWN_VERSION
    node.backend.next_outcome = Found(Record(ballot, ballot, True, None), 1, ("n2",))
    answer = await node.ask("GET", "/v1/kv/k?consistency=weak")
    assert answer.status == 404
    assert answer.headers["KV-Receipt"].endswith("age=12.345")
    assert WRITTEN_MS > 0


async def test_accept_is_compared_with_the_stored_type(node: Node) -> None:
    await node.ask("PUT", "/v1/kv/k", data=b"v", headers={"Content-Type": "text/plain; charset=utf-8"})
    good, bad = ("text/*", "text/html, */*;q=0.1"), ("image/png", "text/plain;q=0, */*")
    for accept, status in [(accept, 200) for accept in good] + [(accept, 406) for accept in bad]:
        answer = await node.ask("GET", "/v1/kv/k", headers={"Accept": accept})
        assert answer.status == status, accept


async def test_an_empty_value_is_a_value(node: Node) -> None:
    await node.ask("PUT", "/v1/kv/k", data=b"")
    answer = await node.ask("GET", "/v1/kv/k")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")


async def test_request_ids_are_kept_when_sane_and_made_when_not(node: Node) -> None:
    kept = await node.ask("GET", "/livez", headers={"X-Request-Id": "trace-1:a/b"})
    assert kept.headers["X-Request-Id"] == "trace-1:a/b"
    made = [(await node.ask("GET", "/livez", headers={"X-Request-Id": bad})).headers["X-Request-Id"]
            for bad in ("a b", "x" * 65, '"quoted"')]  # fmt: skip
    assert len(set(made)) == 3
    assert not {"a b", '"quoted"'} & set(made)


@pytest.mark.parametrize("size", [1 << 10, (1 << 10) + 1])
@pytest.mark.parametrize("chunked", [False, True])
async def test_values_up_to_the_limit_are_taken(start: Start, size: int, chunked: bool) -> None:
    node = await start(value_bytes_max=1 << 10)

    async def pieces() -> Any:
        yield b"x" * (size - 1)
        yield b"x"

    answer = await node.ask("PUT", "/v1/kv/k", data=pieces() if chunked else b"x" * size)
    if size > 1 << 10:
        assert (answer.status, answer.json["code"], answer.json["limit"]) == (413, "too-large", 1 << 10)
        assert answer.json["outcome"] == "not-applied"
        assert node.backend.records == {}
    else:
        assert answer.status == 200
        assert node.backend.records[b"k"].value == b"x" * size


async def test_a_large_value_round_trips(start: Start) -> None:
    node = await start(value_bytes_max=16 << 20)
    value = b"0123456789abcdef" * (1 << 20)
    assert (await node.ask("PUT", "/v1/kv/k", data=value)).status == 200
    assert (await node.ask("GET", "/v1/kv/k")).body == value


async def test_receipt_tells_of_a_hint(node: Node) -> None:
    node.backend.next_outcome = Written(UNKNOWN_VERSION, 1, ("n1",), hinted=True)
    answer = await node.ask("PUT", "/v1/kv/k?consistency=eventual", data=b"v")
    assert answer.headers["KV-Receipt"] == (
        'consistency=eventual, n=3, needed=1, acks=1, replicas="n1", coordinator="n1", epoch=4, hinted=1'
    )
