"""The proxy between nodes, byte by byte: what it lets through, holds, breaks, doubles and moves."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from cluster.link.frames import Requests, decode_requests, encode
from cluster.link.handshake import Hello, Identity, encode_greeting
from cluster.protocol.changes import Settle
from cluster.protocol.messages import Forward, Prepare, Read
from kvstore.addresses import Address
from kvstore.verify.faults.links import Links, Post, repeatable
from tests.cluster.ports import PortBlock

WAIT_S = 5.0
NOT_WITHIN_S = 0.2


def framed(payload: bytes) -> bytes:
    """With its length in front."""
    return len(payload).to_bytes(4, "big") + payload


def hello(name: str) -> bytes:
    """How a node begins."""
    return framed(encode_greeting(Hello(Identity(1, "c", name, "i", "", "h:1"), "b", b"nonce")))


async def frame(reader: asyncio.StreamReader) -> bytes:
    """The next frame, without its length."""
    head = await asyncio.wait_for(reader.readexactly(4), WAIT_S)
    return await asyncio.wait_for(reader.readexactly(int.from_bytes(head, "big")), WAIT_S)


class Wire:
    """Node a dials node b through the proxy; the test speaks for both."""

    def __init__(self) -> None:
        self.ports = PortBlock()
        base = self.ports.base
        self.posts = {
            name: Post(Address("127.0.0.1", base + place), Address("127.0.0.1", base + 10 + place))
            for place, name in enumerate(("a", "b"))
        }
        self.links = Links(self.posts, random.Random(3))
        self._dialled: list[asyncio.StreamWriter] = []
        self.accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def start(self) -> None:
        await self.links.start()
        behind = self.posts["b"].behind

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.accepted.put((reader, writer))

        self.server = await asyncio.start_server(accept, behind.host, behind.port)

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """a's connection to b; it has said Hello."""
        peer = self.posts["b"].peer
        reader, writer = await asyncio.open_connection(peer.host, peer.port)
        writer.write(hello("a"))
        self._dialled.append(writer)  # a writer that nobody holds closes its connection
        return reader, writer

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.StreamReader]:
        """What a reads and writes, and what b reads, once the handshake's frames are through."""
        reader, writer = await self.dial()
        there, _ = await asyncio.wait_for(self.accepted.get(), WAIT_S)
        writer.write(framed(b"proof"))
        await frame(there)
        assert await frame(there) == b"proof"
        return reader, writer, there

    async def close(self) -> None:
        self.server.close()
        await self.links.close()
        self.ports.release()


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    wire = Wire()
    await wire.start()
    yield wire
    await wire.close()


async def test_frames_pass_both_ways(wire: Wire) -> None:
    reader, writer = await wire.dial()
    there, back = await asyncio.wait_for(wire.accepted.get(), WAIT_S)
    assert framed(await frame(there)) == hello("a")
    writer.write(framed(b"one") + framed(b"two"))
    back.write(framed(b"three"))
    assert [await frame(there), await frame(there), await frame(reader)] == [b"one", b"two", b"three"]


async def test_a_cut_breaks_what_is_open_and_refuses_what_comes(wire: Wire) -> None:
    reader, _, there = await wire.connected()
    wire.links.cut(["a"], ["b"])
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await frame(there)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await frame(reader)
    reader, _ = await wire.dial()
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await frame(reader)
    assert wire.links.seen["refused"] == 1
    wire.links.mend([("a", "b"), ("b", "a")])
    await wire.connected()


async def test_what_is_held_arrives_later_and_the_other_way_is_free(wire: Wire) -> None:
    reader, writer = await wire.dial()
    there, back = await asyncio.wait_for(wire.accepted.get(), WAIT_S)
    await frame(there)
    wire.links.change([("a", "b")], is_held=True)
    writer.write(framed(b"late"))
    back.write(framed(b"answer"))
    assert await frame(reader) == b"answer"
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(there.read(1), NOT_WITHIN_S)
    wire.links.change([("a", "b")], is_held=False)
    assert await frame(there) == b"late"


async def test_late_frames_keep_their_order(wire: Wire) -> None:
    _, writer, there = await wire.connected()
    wire.links.change(wire.links.pairs(), delay_s=0.05, jitter_s=0.1)
    began_s = asyncio.get_running_loop().time()
    sent = [f"{number}".encode() for number in range(20)]
    writer.write(b"".join(framed(one) for one in sent))
    assert [await frame(there) for _ in sent] == sent
    assert asyncio.get_running_loop().time() - began_s > 0.05
    assert wire.links.seen["delayed"] == len(sent)


async def test_reordered_frames_all_arrive_in_another_order(wire: Wire) -> None:
    _, writer, there = await wire.connected()
    wire.links.change(wire.links.pairs(), reorders=0.5)
    sent = [f"{number:02}".encode() for number in range(50)]
    writer.write(b"".join(framed(one) for one in sent))
    came = [await frame(there) for _ in sent]
    assert sorted(came) == sent
    assert came != sent


async def test_the_handshake_is_neither_doubled_nor_moved(wire: Wire) -> None:
    wire.links.change(wire.links.pairs(), reorders=1.0, doubles=1.0)
    _, writer = await wire.dial()
    there, _ = await asyncio.wait_for(wire.accepted.get(), WAIT_S)
    writer.write(framed(b"proof"))
    assert framed(await frame(there)) == hello("a")
    assert await frame(there) == b"proof"


async def test_a_lossy_link_breaks_its_connection(wire: Wire) -> None:
    _, writer, there = await wire.connected()
    wire.links.change(wire.links.pairs(), breaks=1.0)
    writer.write(framed(b"x"))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await frame(there)
    assert wire.links.seen["broken"] == 1


async def test_replies_come_twice_whole(wire: Wire) -> None:
    reader, _ = await wire.dial()
    _, back = await asyncio.wait_for(wire.accepted.get(), WAIT_S)
    back.write(framed(b"welcome") + framed(b"ready"))
    assert [await frame(reader), await frame(reader)] == [b"welcome", b"ready"]
    wire.links.change(wire.links.pairs(), doubles=1.0)
    back.write(framed(b"reply"))
    assert [await frame(reader), await frame(reader)] == [b"reply", b"reply"]


async def test_noise_is_let_go(wire: Wire) -> None:
    peer = wire.posts["b"].peer
    for noise in (framed(b"noise"), b"\xff\xff\xff\xff", b"GET / HTTP/1.1\r\n\r\n"):
        reader, writer = await asyncio.open_connection(peer.host, peer.port)
        writer.write(noise)
        if len(noise) > 4:
            writer.write_eof()
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), WAIT_S) == b""
    await wire.connected()


def test_what_is_handed_to_a_primary_never_comes_twice() -> None:
    forward = Forward(b"k", Settle(), 2, 1000)
    both = Requests(4, 5, 6, [(1, forward), (2, Prepare(b"k", 7)), (3, Read(b"k", True))])
    twice = repeatable(framed(encode(both)))
    assert twice is not None
    requests = decode_requests(twice[4:])
    assert (requests.epoch, requests.fingerprint, requests.sent_ms) == (4, 5, 6)
    assert [number for number, _ in requests.items] == [2, 3]
    assert repeatable(framed(encode(Requests(4, 5, 6, [(1, forward)])))) is None
