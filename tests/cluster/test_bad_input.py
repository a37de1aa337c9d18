"""Bad input against real nodes: every row of the error table, from a real HTTP client, and noise at the peers' port.

After each the nodes are still the same processes, ready, and their logs hold no stack trace.
"""

from __future__ import annotations

import http.client
import json
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from cluster.link.handshake import PROTOCOL_VERSION, Hello, Identity, Proof, Rejected, decode_greeting
from tests.cluster.harness import ClusterHarness, wait_until

MIB = 1 << 20


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(cluster: ClusterHarness, method: str, path: str, body: Any = None, node: str = "n1", **headers: str) -> Reply:
    """One request; the path goes out as it is written, header names with '_' for '-'."""
    connection = http.client.HTTPConnection(cluster.http_address(node), timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=named)
        answer = connection.getresponse()
        return Reply(answer.status, dict(answer.headers), answer.read())
    finally:
        connection.close()


@pytest.fixture(autouse=True)
def healthy_afterwards(cluster3: ClusterHarness) -> Iterator[None]:
    pids = [cluster3.pid(name) for name in cluster3.names]
    yield
    cluster3.wait_ready()
    assert [cluster3.pid(name) for name in cluster3.names] == pids
    assert "Traceback" not in cluster3.logs()


VERSION = '"0000000000000001"'


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "/v1/kv/k?consistency=linearizable", {}, 400, "bad-parameter"),
        ("GET", "/v1/kv/k?unknown=1", {}, 400, "bad-parameter"),
        ("GET", "/v1/kv/k?w=1", {}, 400, "bad-parameter"),
        ("PUT", "/v1/kv/k?r=1", {}, 400, "bad-parameter"),
        ("PUT", "/v1/kv/k?ttl=30", {}, 400, "bad-parameter"),
        ("DELETE", "/v1/kv/k?ttl=30s", {}, 400, "bad-parameter"),
        ("PUT", "/v1/kv/k?timeout=0s", {}, 400, "bad-parameter"),
        ("PUT", "/v1/kv/k?timeout=61s", {}, 400, "bad-parameter"),
        ("GET", "/v1/kv?limit=1001", {}, 400, "bad-parameter"),
        ("GET", "/v1/kv/k?r=1", {}, 400, "quorum-too-small"),
        ("PUT", "/v1/kv/k?w=one", {}, 400, "quorum-too-small"),
        ("PUT", "/v1/kv/k?w=0&consistency=weak", {}, 400, "quorum-too-small"),
        ("GET", "/v1/kv/k?r=4&consistency=weak", {}, 400, "quorum-too-large"),
        ("PUT", "/v1/kv/k?w=4", {}, 400, "quorum-too-large"),
        ("PUT", "/v1/kv/k?consistency=weak", {"If_Match": VERSION}, 400, "needs-strong"),
        ("DELETE", "/v1/kv/k?consistency=eventual", {"If_Match": "*"}, 400, "needs-strong"),
        ("PUT", "/v1/kv/k", {"If_Match": f"{VERSION}, {VERSION}"}, 400, "bad-parameter"),
        ("PUT", "/v1/kv/k", {"KV_Fence": "lock=7"}, 400, "bad-fence"),
        ("GET", "/v1/kv/", {}, 400, "bad-key"),
        ("PUT", "/v1/kv/" + "x" * 1025, {}, 400, "bad-key"),
        ("PUT", "/v1/kv/%ff", {}, 400, "bad-key"),
        ("PUT", "/v1/kv/a%00b", {}, 400, "bad-key"),
        ("PUT", "/v1/kv/%zz", {}, 400, "bad-key"),
        ("DELETE", "/v1/kv/100%", {}, 400, "bad-key"),
        ("GET", "/v1/kv/k", {"Host": "evil.example"}, 403, "forbidden"),
        ("PUT", "/v1/kv/k", {"Origin": "http://evil.example"}, 403, "forbidden"),
        ("GET", "/v1/kv/absent", {}, 404, "not-found"),
        ("GET", "/v2/kv/k", {}, 404, "not-found"),
        ("POST", "/v1/kv/k", {}, 405, "method-not-allowed"),
        ("PATCH", "/v1/kv/k", {}, 405, "method-not-allowed"),
        ("FOO", "/v1/kv/k", {}, 405, "method-not-allowed"),
        ("DELETE", "/v1/batch", {}, 405, "method-not-allowed"),
        ("PUT", "/v1/kv/k", {"Accept": "image/png"}, 406, "not-acceptable"),
        ("PUT", "/v1/kv/absent", {"If_Match": VERSION}, 412, "version-mismatch"),
        ("DELETE", "/v1/kv/absent", {"If_Match": "*"}, 412, "version-mismatch"),
        ("GET", "/v1/kv/" + "x" * 9_000, {}, 414, "too-large"),
        ("PUT", "/v1/kv/k", {"Content_Encoding": "gzip"}, 415, "unsupported-media-type"),
        ("GET", "/v1/kv/k", {"X_Long": "x" * 9_000}, 431, "too-large"),
    ],
)
def test_the_error_table(
    cluster3: ClusterHarness, method: str, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    body = b"value" if method in ("PUT", "POST", "PATCH") else None
    answer = ask(cluster3, method, path, body, **headers)
    document = answer.json
    assert (answer.status, document["status"], document["code"]) == (status, status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert document["type"] == f"urn:kvstore:{code}"
    assert document["detail"]
    assert document["request_id"] == answer.headers["X-Request-Id"]
    reads = method == "GET"
    assert document["outcome"] == ("none" if reads else "not-applied")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    if path.startswith("/v1/kv"):
        assert "n=3, " in answer.headers["KV-Receipt"]
        assert 'coordinator="n1"' in answer.headers["KV-Receipt"]
    if code == "too-large":
        assert document["limit"] == 8_190
    if status == 405:
        assert method not in answer.headers["Allow"]
    if status == 412:
        assert document["version"] is None


@pytest.mark.parametrize(
    "key", ["a/../b", "../../etc/passwd", "a//b", "/", "a+b", "100%", "%2F", "\U0001f600", "a b", "?x=1", "#", "a\nb"]
)
@pytest.mark.parametrize("slash_escaped", [True, False])
def test_keys_round_trip_through_every_node(cluster3: ClusterHarness, key: str, slash_escaped: bool) -> None:
    spelling = quote(key, safe="" if slash_escaped else "/+")
    value = secrets.token_bytes(20)
    assert ask(cluster3, "PUT", f"/v1/kv/{spelling}", value).json["key"] == key
    for node in cluster3.names:
        assert ask(cluster3, "GET", f"/v1/kv/{quote(key, safe='')}", node=node).body == value
    listed = ask(cluster3, "GET", f"/v1/kv?prefix={quote(key, safe='')}").json["keys"]
    assert key in [item["key"] for item in listed]


def test_a_value_of_the_limit_and_one_byte_more(cluster3: ClusterHarness) -> None:
    fits = secrets.token_bytes(MIB)
    assert ask(cluster3, "PUT", "/v1/kv/large", fits).status == 200
    for body in (fits + b"x", iter([fits, b"x"])):  # the second goes out in chunks
        refused = ask(cluster3, "PUT", "/v1/kv/large", body)
        assert (refused.status, refused.json["code"], refused.json["limit"]) == (413, "too-large", MIB)
        assert refused.json["outcome"] == "not-applied"
    assert ask(cluster3, "GET", "/v1/kv/large", node="n2").body == fits


@pytest.mark.parametrize("answer_of", ["create", "stale"])
def test_a_condition_that_fails_tells_the_version(cluster3: ClusterHarness, answer_of: str) -> None:
    key = f"/v1/kv/condition-{answer_of}"
    version = ask(cluster3, "PUT", key, b"1").json["version"]
    header = {"If_None_Match": "*"} if answer_of == "create" else {"If_Match": VERSION}
    refused = ask(cluster3, "PUT", key, b"2", node="n3", **header)
    code = "exists" if answer_of == "create" else "version-mismatch"
    assert (refused.status, refused.json["code"], refused.json["version"]) == (412, code, version)
    assert ask(cluster3, "GET", key, node="n2").body == b"1"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "bad-json"),
        (b"", "application/json", 400, "bad-json"),
        (b'{"operations": [], "more": 1}', "application/json", 400, "bad-json"),
        (b'{"operations": ["\xff"]}', "application/json", 400, "bad-json"),
        (b"[" * 100_000, "application/json", 400, "bad-json"),
        (b'{"operations": [NaN]}', "application/json", 400, "bad-json"),
        (b'{"operations": []}', "text/plain", 415, "unsupported-media-type"),
        (b'{"operations": [' + b"1," * 1_000 + b"1]}", "application/json", 413, "too-large"),
        (b" " * (16 * MIB + 1), "application/json", 413, "too-large"),
    ],
)
def test_bad_batches(cluster3: ClusterHarness, body: bytes, content_type: str, status: int, code: str) -> None:
    refused = ask(cluster3, "POST", "/v1/batch", body, Content_Type=content_type)
    assert (refused.status, refused.json["code"]) == (status, code)
    assert refused.json["outcome"] == "not-applied"


def test_one_bad_operation_leaves_the_others_alone(cluster3: ClusterHarness) -> None:
    operations = [
        {"op": "put", "key": "batch/a", "value": "1"},
        {"op": "put", "key": "", "value": "1"},
        {"op": "put", "key": "batch/b", "value": "1", "ttl": "1ms"},
        {"op": "get", "key": "batch/a"},
    ]
    answer = ask(cluster3, "POST", "/v1/batch", json.dumps({"operations": operations}), Content_Type="application/json")
    assert [result.get("code", result["status"]) for result in answer.json["results"]] == [
        200, "bad-key", "bad-parameter", 200,
    ]  # fmt: skip


def peer_socket(cluster: ClusterHarness, node: str = "n2") -> socket.socket:
    host, _, port = cluster.peer_address(node).rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def read_all(peer: socket.socket) -> bytes:
    received = b""
    try:
        while piece := peer.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        ((4 * 2**30 - 1).to_bytes(4, "big") + b"x" * 1000, "frame of 4294967295 bytes"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "frame of"),
        (b"\x00\x00\x00\x04\xff\xff\xff\xff", "closed a peer connection"),
        (b"\x00\x00\x00\x00", "closed a peer connection"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "frame of"),
    ],
)
def test_noise_at_the_peers_port_is_hung_up_on(cluster3: ClusterHarness, noise: bytes, reason: str) -> None:
    with peer_socket(cluster3) as peer:
        peer.sendall(noise)
        read_all(peer)
    wait_until(lambda: reason in cluster3.log("n2"), f"the log of n2 to say {reason!r}")
    assert ask(cluster3, "PUT", "/v1/kv/after-noise?w=all", b"v").status == 200


def test_a_wrong_secret_opens_nothing(cluster3: ClusterHarness) -> None:
    overview = ask(cluster3, "GET", "/v1/cluster").json
    identity = Identity(PROTOCOL_VERSION, overview["cluster_id"], "n1", "00" * 16, "", "127.0.0.1:1")
    with peer_socket(cluster3) as peer:
        for greeting in (Hello(identity, "n2", b"n" * 16), Proof(b"p" * 32)):
            encoded = msgspec.msgpack.encode(greeting)
            peer.sendall(len(encoded).to_bytes(4, "big") + encoded)
        received = read_all(peer)
    first = int.from_bytes(received[:4], "big")
    last = decode_greeting(received[4 + first + 4 :])
    assert isinstance(last, Rejected)
    assert "wrong cluster secret" in last.reason
    wait_until(lambda: "wrong cluster secret" in cluster3.log("n2"), "the log of n2 to say why")


def test_a_silent_half_request_does_not_hold_up_others(cluster3: ClusterHarness) -> None:
    host, _, port = cluster3.http_address("n1").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as slow:
        slow.sendall(b"PUT /v1/kv/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nab")
        assert ask(cluster3, "PUT", "/v1/kv/quick", b"v").status == 200
