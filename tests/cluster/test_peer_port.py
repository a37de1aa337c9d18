"""What strangers do to a peer port: the node hangs up, its log says why, and it stays healthy."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cluster.link.frames import FRAME_BYTES_MAX, LENGTH_BYTES
from cluster.link.handshake import (
    HANDSHAKE_S_MAX,
    PROTOCOL_VERSION,
    Greeting,
    Hello,
    Identity,
    Proof,
    Ready,
    Rejected,
    Welcome,
    decode_greeting,
    encode_greeting,
    prove,
)
from tests.cluster.client import Client
from tests.cluster.harness import ClusterHarness, wait_until

SECRET = b"a secret of some length that all three nodes know"
NONCE = bytes(16)
FAST_S = 2.0
"""A put and a get on a healthy node take milliseconds; this much says that something holds it up."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHarness]:
    """Three nodes with a secret."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "secret").write_bytes(SECRET)
    with ClusterHarness(folder, flags=["--cluster-secret-file", str(folder / "secret")]) as cluster:
        yield cluster


@pytest.fixture
def n1(guarded: ClusterHarness) -> Iterator[Client]:
    """A client of n1, which is as healthy after the test as before."""
    client = Client(guarded.http_address("n1"))
    yield client
    check_healthy(client)
    client.close()


def check_healthy(client: Client) -> None:
    began = time.monotonic()
    written = client.put("peer-port", b"value")
    assert written.status == 200, written
    assert client.get("peer-port").body == b"value"
    assert set(client.states().values()) == {"self", "alive"}
    assert time.monotonic() - began < FAST_S


class Stranger:
    """A raw connection to n1's peer port."""

    def __init__(self, cluster: ClusterHarness) -> None:
        host, _, port = cluster.peer_address("n1").partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)

    def say(self, greeting: Greeting) -> None:
        """Sends a greeting as a frame."""
        self.frame(encode_greeting(greeting))

    def frame(self, payload: bytes) -> None:
        """Sends a frame."""
        self.socket.sendall(len(payload).to_bytes(LENGTH_BYTES, "big") + payload)

    def hear(self) -> Greeting:
        """The next greeting."""
        greeting: Greeting = decode_greeting(self._read(int.from_bytes(self._read(LENGTH_BYTES), "big")))
        return greeting

    def hear_no(self) -> str:
        """The reason of the refusal, after which the node hangs up."""
        no = self.hear()
        assert isinstance(no, Rejected), no
        self.is_cut_off()
        return no.reason

    def is_cut_off(self) -> bytes:
        """Reads to the end, which the node must make; what came before it."""
        said = b""
        try:
            while some := self.socket.recv(65536):
                said += some
        except ConnectionResetError:
            pass
        return said

    def shake_hands(self, identity: Identity) -> None:
        """A whole handshake, as a member would."""
        hello = Hello(identity, "n1", NONCE)
        self.say(hello)
        welcome = self.hear()
        assert isinstance(welcome, Welcome), welcome
        assert welcome.proof == prove(SECRET, "listener", hello, welcome.identity, welcome.nonce)
        self.say(Proof(prove(SECRET, "dialler", hello, welcome.identity, welcome.nonce)))
        assert isinstance(self.hear(), Ready)

    def _read(self, count: int) -> bytes:
        said = b""
        while len(said) < count:
            some = self.socket.recv(count - len(said))
            assert some, "the node hung up"
            said += some
        return said


@pytest.fixture
def stranger(guarded: ClusterHarness, n1: Client) -> Iterator[Stranger]:
    stranger = Stranger(guarded)
    yield stranger
    stranger.socket.close()


def as_n2(client: Client, **other: str | int) -> Identity:
    """What n2 says of itself, with something else in places."""
    n2 = next(member for member in client.call("GET", "/v1/cluster").json()["members"] if member["name"] == "n2")
    cluster_id = client.call("GET", "/v1/cluster").json()["cluster_id"]
    identity = Identity(PROTOCOL_VERSION, cluster_id, "n2", n2["incarnation"], "", n2["http"])
    return msgspec.structs.replace(identity, **other)


def is_logged(cluster: ClusterHarness, *words: str) -> bool:
    return any(all(word in line for word in words) for line in cluster.log("n1").splitlines())


def wait_logged(cluster: ClusterHarness, *words: str) -> None:
    wait_until(lambda: is_logged(cluster, "closed a peer connection", *words), f"a line in the log with {words}", 10)


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "1195725856 bytes was announced"),
        (b"\xff\xff\xff\xff" + b"x" * 100, "4294967295 bytes was announced"),
        (b"\x00\x00\x00\x00", "truncated"),
        (b"\x00\x00\x00\x08\xc1\xc1\xc1\xc1\xc1\xc1\xc1\xc1", "MessagePack"),
        (b"\x00\x00\x0f\x02\x92\x04" + b"\x91" * 0xF00, "recursion"),
        (b"\x00\x00\x00\x02\x91\x04", "order of the handshake"),
    ],
    ids=["http", "4 GB", "empty", "no msgpack", "deep", "ready at once"],
)
def test_noise_is_cut_off_and_logged(guarded: ClusterHarness, stranger: Stranger, noise: bytes, reason: str) -> None:
    stranger.socket.sendall(noise)
    stranger.is_cut_off()
    address = f"'127.0.0.1', {stranger.socket.getsockname()[1]}"
    wait_until(lambda: is_logged(guarded, "closed a peer connection", address), "a line in the log", 10)
    assert is_logged(guarded, address, reason), [line for line in guarded.log("n1").splitlines() if address in line]


def test_random_noise_is_cut_off(guarded: ClusterHarness, n1: Client) -> None:
    for _ in range(50):
        stranger = Stranger(guarded)
        stranger.socket.sendall(b"\x00\x00\x01\x00" + os.urandom(256))
        stranger.is_cut_off()
        stranger.socket.close()


def test_a_stranger_without_the_secret_is_refused(guarded: ClusterHarness, n1: Client, stranger: Stranger) -> None:
    hello = Hello(as_n2(n1), "n1", NONCE)
    stranger.say(hello)
    welcome = stranger.hear()
    assert isinstance(welcome, Welcome)
    stranger.say(Proof(prove(b"another secret", "dialler", hello, welcome.identity, welcome.nonce)))
    assert "wrong cluster secret" in stranger.hear_no()
    wait_logged(guarded, "n2", "wrong cluster secret")


def test_the_nodes_own_proof_opens_nothing(n1: Client, stranger: Stranger) -> None:
    stranger.say(Hello(as_n2(n1), "n1", NONCE))
    welcome = stranger.hear()
    assert isinstance(welcome, Welcome)
    stranger.say(Proof(welcome.proof))
    assert "wrong cluster secret" in stranger.hear_no()


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"cluster_id": "0" * 32}, "another cluster"),
        ({"protocol": PROTOCOL_VERSION + 1}, f"protocol {PROTOCOL_VERSION + 1}"),
        ({"name": "n1"}, "own name"),
    ],
    ids=["cluster", "version", "name"],
)
def test_another_identity_is_refused_at_its_first_word(
    guarded: ClusterHarness, n1: Client, stranger: Stranger, other: dict[str, str | int], reason: str
) -> None:
    stranger.say(Hello(as_n2(n1, **other), "n1", NONCE))
    assert reason in stranger.hear_no()
    wait_logged(guarded, reason)


def test_an_unknown_name_is_refused_though_it_knows_the_secret(
    guarded: ClusterHarness, n1: Client, stranger: Stranger
) -> None:
    hello = Hello(as_n2(n1, name="n9"), "n1", NONCE)
    stranger.say(hello)
    welcome = stranger.hear()
    assert isinstance(welcome, Welcome)
    stranger.say(Proof(prove(SECRET, "dialler", hello, welcome.identity, welcome.nonce)))
    assert "no member" in stranger.hear_no()
    wait_logged(guarded, "n9", "no member")


def test_a_handshake_that_stalls_is_closed(guarded: ClusterHarness, n1: Client) -> None:
    silent, half, greeted = (Stranger(guarded) for _ in range(3))
    half.socket.sendall(b"\x00\x00\x01\x00half a frame")
    greeted.say(Hello(as_n2(n1), "n1", NONCE))
    assert isinstance(greeted.hear(), Welcome)
    began = time.monotonic()
    for stranger in (silent, half, greeted):
        assert "in time" in stranger.hear_no()
    assert HANDSHAKE_S_MAX - 1 < time.monotonic() - began < HANDSHAKE_S_MAX + 5
    wait_logged(guarded, "did not finish the handshake in time")


def test_the_4_gb_of_one_who_is_known_are_not_waited_for(
    guarded: ClusterHarness, n1: Client, stranger: Stranger
) -> None:
    stranger.shake_hands(as_n2(n1))
    stranger.socket.sendall((FRAME_BYTES_MAX + 1).to_bytes(LENGTH_BYTES, "big"))
    stranger.is_cut_off()
    wait_logged(guarded, "n2", f"{FRAME_BYTES_MAX + 1} bytes was announced")


@pytest.mark.parametrize(
    "garbage",
    [b"\xc1" * 50, b"", b"\x93\x01\x00\x91\x92\x01\x92\x63\x00", b"\x93\x01\x00\x91\x92\x01\x93\x02\xa1k\xff", b"\x90"],
    ids=["no msgpack", "empty", "unknown request", "negative ballot", "too short"],
)
def test_garbage_after_the_handshake_is_cut_off(
    guarded: ClusterHarness, n1: Client, stranger: Stranger, garbage: bytes
) -> None:
    before = guarded.log("n1").count("closed a peer connection")
    stranger.shake_hands(as_n2(n1))
    stranger.frame(garbage)
    stranger.is_cut_off()
    wait_until(lambda: guarded.log("n1").count("closed a peer connection") > before, "a line in the log", 10)


def test_idle_connections_hold_up_nobody(guarded: ClusterHarness, n1: Client) -> None:
    idle = [Stranger(guarded) for _ in range(500)]
    try:
        for _ in range(20):
            check_healthy(n1)
        for stranger in idle:
            stranger.is_cut_off()
    finally:
        for stranger in idle:
            stranger.socket.close()


# -- nodes that are configured differently ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--cluster-secret-file", "{folder}/other-secret"], "cluster secret"),
        (["--cluster-name", "another"], "belongs to another cluster"),
        (["--replicas", "2"], "belongs to another cluster"),
    ],
    ids=["secret", "cluster name", "replicas"],
)
def test_a_node_that_differs_does_not_join(tmp_path: Path, flags: list[str], reason: str) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "other-secret").write_bytes(b"not what the others know")
    cluster = ClusterHarness(
        tmp_path,
        flags=["--cluster-secret-file", str(tmp_path / "secret")],
        node_flags={"n3": [flag.format(folder=tmp_path) for flag in flags]},
    )
    try:
        for name in cluster.names:
            cluster.spawn(name)
        cluster.wait_ready("n1", "n2")
        client = Client(cluster.http_address("n1"))
        for name in cluster.names:
            wait_until(lambda name=name: reason in cluster.log(name), f"{name} to say why")  # type: ignore[misc]
        assert client.put("key", b"value").status == 200
        assert client.states() == {"n1": "self", "n2": "alive", "n3": "down"}
        outsider = Client(cluster.http_address("n3"))
        assert outsider.call("GET", "/readyz").status == 503
        refused = outsider.put("key", b"value")
        assert (refused.status, refused.json()["outcome"]) == (503, "not-applied")
    finally:
        cluster.close()
