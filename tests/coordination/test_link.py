"""The peer link over real sockets: strangers, frames that are too long, callbacks that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from random import Random

import msgspec
import pytest

from cluster.clock import SystemClock
from cluster.link import dialler as dialling
from cluster.link import frames
from cluster.link import listener as listening
from cluster.link.dialler import Dialler, Peer
from cluster.link.frames import FRAME_BYTES_MAX, FRAME_BYTES_SOFT, LENGTH_BYTES, Outbox, Replies, Requests, encode
from cluster.link.handshake import PROTOCOL_VERSION, Identity, Ready, encode_greeting
from cluster.link.listener import Listener
from cluster.membership.topology import Topology, form
from cluster.protocol.changes import Merge, Put
from cluster.protocol.messages import (
    Accept,
    Accepted,
    Answer,
    Forward,
    Forwarded,
    Heartbeat,
    Held,
    Lost,
    Promised,
    Read,
    Reply,
    Request,
    Settled,
    Unfit,
    WrongEpoch,
)
from cluster.replica.replica import Respond
from cluster.tasks import Tasks
from storage.record import Record

SECRET = b"a secret that both of them know"
HOST = "127.0.0.1"
PATIENCE_S = 10.0
"""For what takes milliseconds."""
TOPOLOGY = form("c", {"a": (HOST, 1), "b": (HOST, 2)}, {}, 2, 4)
READ = Read(b"key", value=True)


def _identity(name: str) -> Identity:
    return Identity(PROTOCOL_VERSION, TOPOLOGY.cluster_id, name, f"incarnation of {name}", "", f"{HOST}:80")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # of an object that knows of no event
            await asyncio.sleep(0.005)


class Ends:
    """Node `a` listens, node `b` dials it."""

    def __init__(self) -> None:
        self.tasks = Tasks()
        self.topology = TOPOLOGY
        self.requests: list[tuple[Request, Respond, int]] = []
        self.downs: list[int] = []
        self.refused: dict[str, str] = {}
        """Reasons to refuse a peer, by its name."""
        self.mark = (7, 100)
        """Boot and commit sequence of `a`."""
        self.heard: list[object] = []
        """The marks of the frames of replies that came, and between them what the test adds."""
        self.listener = Listener(
            lambda: _identity("a"),
            SECRET,
            SystemClock(),
            Random(1),
            topology=lambda: TOPOLOGY,
            on_hello=lambda _: None,
            on_request=lambda request, _, respond, token: self.requests.append((request, respond, token)),
            why_refuse=self.refused.get,
            mark=lambda: self.mark,
        )
        self._servers: list[asyncio.Server] = []

    async def listen(self) -> int:
        await self.listener.start(HOST, 0)
        assert self.listener._server is not None
        return int(self.listener._server.sockets[0].getsockname()[1])

    def dial(self, port: int, host: str = HOST) -> Dialler:
        dialler = Dialler(
            Peer(0, "a", host, port),
            lambda: _identity("b"),
            SECRET,
            SystemClock(),
            Random(2),
            topology=lambda: self.topology,
            on_heard=lambda _: None,
            on_up=lambda _, __: None,
            on_down=self.downs.append,
            on_replies=lambda *told: self.heard.append(told),
        )
        self.dialling = self.tasks.spawn(dialler.run(), "dial a")
        return dialler

    async def connect(self) -> Dialler:
        dialler = self.dial(await self.listen())
        await until(lambda: dialler.is_up)
        return dialler

    async def stranger(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> int:
        """Somebody else listens where node `a` is expected."""
        server = await asyncio.start_server(serve, HOST, 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        await self.tasks.cancel_all()
        await self.listener.stop()
        for server in self._servers:
            server.close()


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    both = Ends()
    yield both
    await both.close()


async def test_a_listener_that_proves_nothing_is_not_believed(ends: Ends) -> None:
    """Whoever held a peer's address could say Ready at once: it was sent records and its answers were counted."""
    heard: list[bytes] = []

    async def say_ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(LENGTH_BYTES)
        _write_frame(writer, encode_greeting(Ready()))
        _write_frame(writer, encode(Replies(1, [(number, Accepted(True)) for number in range(9)])))
        heard.append(await reader.read())
        writer.close()

    dialler = ends.dial(await ends.stranger(say_ready))
    answers: list[Answer] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(heard) < 2:
            assert not dialler.is_up
            dialler.send(Accept(b"key", Record(5, 5, False, b"private"), 0), lambda _, answer: answers.append(answer))
            await asyncio.sleep(0.005)
    assert all(b"private" not in said for said in heard)
    assert set(answers) == {Lost(sent=False)}


async def test_a_peer_that_is_refused_is_heard_and_may_read(ends: Ends) -> None:
    """In one frame: what would change something is answered at once, the rest is handed on. Nothing is cut off."""
    dialler = await ends.connect()
    answers: list[Answer] = []

    def on_answer(_: int, answer: Answer) -> None:
        answers.append(answer)

    accept = Accept(b"key", Record(5, 5, False, b"value"), 0)
    ends.refused["b"] = "its clock is off"
    for request in (accept, READ, Forward(b"key", Put(b"value", ""), 2, 1000), Heartbeat(1, 1)):
        dialler.send(request, on_answer)
    await until(lambda: len(answers) == 2)
    assert answers == [Unfit("its clock is off")] * 2
    assert [type(request) for request, _, _ in ends.requests] == [Read, Heartbeat]
    ends.refused.clear()
    dialler.send(accept, on_answer)
    await until(lambda: len(ends.requests) == 3)
    assert dialler.is_up


def _write_frame(writer: asyncio.StreamWriter, payload: bytes) -> None:
    writer.write(len(payload).to_bytes(LENGTH_BYTES, "big") + payload)


LARGE = Record(1, 1, True, bytes(5 << 20))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(Accept(b"key", LARGE, 0), id="accept"),
        pytest.param(Forward(b"key", Merge(LARGE), 2, 1000), id="merge"),
        pytest.param(Forward(b"key", Put(LARGE.value, ""), 2, 1000), id="put"),
    ],
)
async def test_large_requests_of_one_turn_are_cut_into_frames_a_peer_accepts(message: Request) -> None:
    """The value of a merge was not counted: sixteen of them in one turn made a frame that ended the connection.

    And made it again after every reconnection, for the merges came back together.
    """
    cut: list[list[tuple[int, Request]]] = []
    outbox: Outbox[Request] = Outbox(cut.append)
    for number in range(16):
        outbox.put(number, message, dialling._size(message))
    await asyncio.sleep(0)
    assert sum(map(len, cut)) == 16
    for items in cut:
        assert len(encode(Requests(1, 1, 1, items))) < FRAME_BYTES_MAX


@pytest.mark.parametrize(
    "reply",
    [Held(LARGE, False), Promised(LARGE), Forwarded(Settled(LARGE, ()))],
    ids=["held", "promised", "settled"],
)
async def test_large_replies_of_one_turn_are_cut_into_frames_a_peer_accepts(reply: Reply) -> None:
    """What a primary settled on carries a value too, and was counted as nothing."""
    cut: list[list[tuple[int, Reply]]] = []
    outbox: Outbox[Reply] = Outbox(cut.append)
    for number in range(16):
        outbox.put(number, reply, listening._size(reply))
    await asyncio.sleep(0)
    assert max(len(items) for items in cut) * (5 << 20) <= FRAME_BYTES_SOFT + (5 << 20)


async def test_silent_strangers_keep_no_peer_out(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on all connections let as many sockets that said nothing shut the real peers out."""
    monkeypatch.setattr(listening, "STRANGERS_MAX", 8)
    port = await ends.listen()
    is_over = asyncio.Event()

    async def keep_coming() -> None:
        while not is_over.is_set():
            reader, writer = await asyncio.open_connection(HOST, port)
            await reader.read()
            writer.close()

    strangers = [ends.tasks.spawn(keep_coming(), "stranger") for _ in range(16)]
    dialler = ends.dial(port)
    await until(lambda: dialler.is_up)
    for _ in range(20):
        await asyncio.sleep(0.005)
        assert dialler.is_up, "a peer was closed to make room"
    assert len(ends.listener._strangers) <= 8
    assert len(strangers) == 16
    is_over.set()


async def test_the_stranger_that_was_here_longest_makes_room(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer is the newest when it calls, and done within milliseconds."""
    monkeypatch.setattr(listening, "STRANGERS_MAX", 2)
    port = await ends.listen()
    oldest, *others = [await asyncio.open_connection(HOST, port) for _ in range(3)]
    async with asyncio.timeout(PATIENCE_S):
        assert b"this was the oldest" in await oldest[0].read()
    assert len(ends.listener._strangers) == 2
    for reader, writer in others:
        assert not reader.at_eof()
        writer.close()
    oldest[1].close()


async def test_an_answer_that_its_asker_cannot_take_ends_nothing_else(ends: Ends) -> None:
    """A merge's future had been cancelled; its late answer ended the connection with all that was in flight."""
    dialler = await ends.connect()
    answers: list[Answer] = []
    dialler.send(READ, _fail)
    dialler.send(READ, lambda _, answer: answers.append(answer))
    await until(lambda: len(ends.requests) == 2)
    for _, respond, token in ends.requests:
        respond(token, Held(None, False))
    await until(lambda: bool(answers))
    assert answers == [Held(None, False)]
    assert dialler.is_up
    assert ends.downs == []


def _fail(*_: object) -> None:
    raise RuntimeError("this callback fails")


async def test_a_request_that_the_node_fails_on_ends_nothing_else(ends: Ends) -> None:
    """The same on the listening side."""
    dialler = await ends.connect()
    seen, answers = list[int](), list[Answer]()

    def fail_once(_: Request, __: int, respond: Respond, token: int) -> None:
        seen.append(token)
        if len(seen) == 1:
            raise RuntimeError("this request fails")
        respond(token, Held(None, False))

    ends.listener._on_request = fail_once
    for _ in range(2):
        dialler.send(READ, lambda _, answer: answers.append(answer))
    await until(lambda: bool(answers))
    assert len(seen) == 2
    assert dialler.is_up


async def test_answers_find_their_requests_in_any_order(ends: Ends) -> None:
    """By number, not by place in the line."""
    dialler = await ends.connect()
    answers: dict[int, Answer] = {}
    for number in range(10):
        dialler.send(Read(b"%d" % number, value=True), partial(_note, answers, number))
    await until(lambda: len(ends.requests) == 10)
    for request, respond, token in reversed(ends.requests):
        assert isinstance(request, Read)
        ballot = int(request.key) + 1
        respond(token, Held(Record(ballot, ballot, False, None), False))
    await until(lambda: len(answers) == 10)
    for number, answer in answers.items():
        assert isinstance(answer, Held)
        assert answer.record is not None
        assert answer.record.ballot == number + 1


def _note(answers: dict[int, Answer], number: int, _: int, answer: Answer) -> None:
    answers[number] = answer


async def test_a_peer_with_large_values_on_their_way_is_asked_for_more(ends: Ends) -> None:
    """It was taken for one that can't be reached as soon as a value was larger than the socket's buffer."""
    dialler = await ends.connect()
    answers: list[Answer] = []
    for number in range(1, 13):
        large = Accept(b"%d" % number, Record(number, number, False, bytes(1 << 20)), 0)
        dialler.send(large, lambda _, answer: answers.append(answer))
        await asyncio.sleep(0)  # each leaves in a turn of its own
    await until(lambda: len(ends.requests) == 12)
    assert answers == []


async def test_what_was_in_flight_is_told_lost_and_sent_and_the_next_unsent(ends: Ends) -> None:
    """Nobody knows of the first; the second surely had no effect."""
    dialler = await ends.connect()
    answers: list[Answer] = []
    dialler.send(READ, lambda _, answer: answers.append(answer))
    await until(lambda: bool(ends.requests))
    await ends.listener.stop()
    await until(lambda: bool(answers))
    await until(lambda: ends.downs == [0])
    dialler.send(READ, lambda _, answer: answers.append(answer))
    await until(lambda: len(answers) == 2)
    assert answers == [Lost(sent=True), Lost(sent=False)]


async def test_a_request_under_another_topology_is_refused_and_changes_nothing(ends: Ends) -> None:
    """Of another epoch, or of the same epoch with anything else different."""
    dialler = await ends.connect()
    answers: list[Answer] = []
    for other in (_other_epoch(), form("c", {"a": (HOST, 1), "b": (HOST, 2)}, {"a": "zone"}, 2, 4)):
        ends.topology = other
        dialler.send(READ, lambda _, answer: answers.append(answer))
        await until(lambda: bool(answers))
        assert isinstance(answers.pop(), WrongEpoch)
    assert ends.requests == []


def _other_epoch() -> Topology:
    return msgspec.structs.replace(TOPOLOGY, epoch=2)


async def test_a_peer_that_does_not_answer_the_handshake_is_dialled_again(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection that had timed out was left open: one more socket for each attempt, until there were none."""
    monkeypatch.setattr(dialling, "HANDSHAKE_S_MAX", 0.05)
    calls = hang_ups = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal calls, hang_ups
        calls += 1
        try:
            while await reader.read(1000):
                pass
        except ConnectionResetError:
            pass
        hang_ups += 1
        writer.close()

    ends.dial(await ends.stranger(say_nothing))
    await until(lambda: hang_ups >= 3)
    assert calls - hang_ups <= 1


async def test_a_host_name_that_cannot_be_one_does_not_end_the_dialling(ends: Ends) -> None:
    """A label of 70 letters raises UnicodeError, no OSError: the task died and the peer was never dialled again."""
    dialler = ends.dial(1, host="a" * 70 + ".example")
    await until(lambda: bool(dialler._said))
    assert not ends.dialling.done()
    assert "is it running at" in dialler._said


def test_the_limits_of_a_frame_leave_room_for_a_batch_and_its_last_message() -> None:
    """A batch is cut after the message that made it too long."""
    assert frames.FRAME_BYTES_SOFT + (16 << 20) + (1 << 20) < frames.FRAME_BYTES_MAX


async def test_each_frame_of_replies_says_how_far_its_sender_had_committed_before_they_count(ends: Ends) -> None:
    """An acknowledgement that is counted is one that the peer is known to have committed."""
    dialler = await ends.connect()
    for sequence in (100, 101):
        dialler.send(READ, lambda _, answer: ends.heard.append(type(answer)))
        await until(lambda: bool(ends.requests))
        _, respond, token = ends.requests.pop()
        ends.mark = (7, sequence)
        respond(token, Held(None, False))
        await until(lambda: ends.heard[-1:] == [Held])
        assert ends.heard == [(0, 7, sequence), Held]
        ends.heard.clear()
