"""A proxy in front of every node's peer address: single links are cut, slowed and disturbed, without any rights.

Nodes are started with --peer (where others dial: the proxy) and --peer-listen (where they listen: behind it). Who
dials is told by the first frame, a Hello, so each direction between two nodes can be treated by itself. A connection
from a to b carries the requests of a and, the other way, the replies of b.

What a link may do is what a network may do to TCP, with two exceptions that go further than TCP lets a network go:

    reordered     frames overtake one another. Requests are numbered and answered in any order, so that is legal
    duplicated    a frame comes twice. The second reply to a number is dropped, and messages between proposers and
                  replicas are made to be repeated, so those are doubled. A change that is handed to a primary
                  (Forward) and steps of locks are not: each is a wish of its own, and that the link never doubles
                  one is what the protocol rests on
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import msgspec

from cluster.link.frames import FRAME_BYTES_MAX, LENGTH_BYTES, decode_requests, encode
from cluster.link.handshake import Hello, decode_greeting
from cluster.protocol.messages import Accept, Heartbeat, Prepare, Read
from kvstore.addresses import Address

HANDSHAKE_FRAMES = 2
"""In each direction: Hello and Proof, Welcome and Ready. They are neither doubled nor moved."""
QUEUED_BYTES_MAX = 16 << 20
"""Of one direction of one connection: what doesn't fit waits in its socket, as on a slow network."""
OVERTAKEN_S = 0.03
"""How long at most a frame is held so that others overtake it."""
REPEATED_S = 0.05
"""How much later at most its double comes."""
LOOK_AGAIN_S = 0.02
"""How often a direction that is held up looks whether it still is."""
CLOSE_WITHIN_S = 5.0
REPEATABLE = (Read, Prepare, Accept, Heartbeat)

Pair = tuple[str, str]
"""(from, to)"""


@dataclass(frozen=True, slots=True)
class Weather:
    """What happens to the frames on their way from one node to another."""

    is_held: bool = False
    """Nothing gets through for now; nothing is lost either, as with TCP while a route is away."""
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """Up to so much more, each frame anew; the order stays."""
    breaks: float = 0.0
    """The chance that a frame breaks its connection."""
    stalls: float = 0.0
    """The chance that a frame, and all behind it, waits for a lost packet to be sent again."""
    stall_s: float = 0.3
    reorders: float = 0.0
    """The chance that later frames overtake this one."""
    doubles: float = 0.0
    """The chance that it comes twice."""


CALM = Weather()


@dataclass(frozen=True, slots=True)
class Post:
    """Where a node is dialled by the others, and where it listens itself."""

    peer: Address
    behind: Address


class Links:
    """The proxies of one cluster. Everything runs on the event loop that start() was called on."""

    def __init__(self, posts: Mapping[str, Post], dice: random.Random | None = None) -> None:
        self._posts = dict(posts)
        self._dice = dice or random.Random()
        self._cut: set[Pair] = set()
        self._weather: dict[Pair, Weather] = {}
        self._open: dict[Pair, set[asyncio.WriteTransport]] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.seen: Counter[str] = Counter()
        """What has happened to frames and connections so far, by word: refused, broken, held, delayed, ..."""

    async def start(self) -> None:
        """Listens at every peer address. Raises OSError."""
        for name, post in self._posts.items():
            self._servers.append(await self._listen(name, post))

    async def close(self) -> None:
        """Ends everything."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_WITHIN_S)

    # -- what happens to links -------------------------------------------------------------------------------------

    def cut(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        """From now on nobody of the one group reaches anybody of the other, in either direction."""
        targets = list(targets)
        self.cut_pairs({pair for a in sources for b in targets for pair in ((a, b), (b, a))})

    def cut_pairs(self, pairs: Iterable[Pair]) -> None:
        """From now on the first of each pair can't connect to the second. What is open breaks."""
        pairs = set(pairs)
        self._cut |= pairs
        for pair in pairs:
            for transport in self._open.get(pair, ()):
                transport.abort()
                self.seen["broken"] += 1

    def change(self, pairs: Iterable[Pair], **weather: object) -> None:
        """From now on the weather on the way from the first of each pair to the second is like this in addition."""
        for pair in pairs:
            self._weather[pair] = replace(self._weather.get(pair, CALM), **weather)  # type: ignore[arg-type]

    def mend(self, pairs: Iterable[Pair] | None = None) -> None:
        """Connections come about again, between these or between all; the weather stays."""
        if pairs is None:
            self._cut.clear()
        else:
            self._cut -= set(pairs)

    def heal(self) -> None:
        """All links work again as links should."""
        self._cut.clear()
        self._weather.clear()

    def pairs(self) -> list[Pair]:
        """All there are."""
        return [(a, b) for a in self._posts for b in self._posts if a != b]

    # -- what passes -----------------------------------------------------------------------------------------------

    async def _listen(self, target: str, post: Post) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                with contextlib.suppress(OSError, EOFError, ValueError, msgspec.MsgspecError):
                    await self._serve(target, reader, writer)
            except asyncio.CancelledError:  # close(); a handler that ends cancelled is logged as a fault
                pass
            finally:
                self._tasks.discard(task)
                writer.transport.abort()

        return await asyncio.start_server(serve, post.peer.host, post.peer.port)

    async def _serve(self, target: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await _read_frame(reader)
        greeting = decode_greeting(first[LENGTH_BYTES:])
        if not isinstance(greeting, Hello):
            return
        source = greeting.identity.name
        pair = source, target
        if pair in self._cut:
            self.seen["refused"] += 1
            return
        behind = self._posts[target].behind
        behind_reader, behind_writer = await asyncio.open_connection(behind.host, behind.port)
        mine = self._open.setdefault(pair, set())
        mine.add(writer.transport)
        there = _Direction(self, pair, reader, behind_writer, first)
        back = _Direction(self, (target, source), behind_reader, writer, None)
        pumps = [asyncio.ensure_future(there.run()), asyncio.ensure_future(back.run())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            mine.discard(writer.transport)
            behind_writer.transport.abort()

    def weather(self, pair: Pair) -> Weather:
        """As it is now."""
        return self._weather.get(pair, CALM)

    @property
    def dice(self) -> random.Random:
        """What chances are taken from."""
        return self._dice


class _Direction:
    """The frames of one direction of one connection, from where they come in to where they leave."""

    def __init__(
        self,
        links: Links,
        pair: Pair,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        first: bytes | None,
    ) -> None:
        """first: the Hello that was read already, which makes it the direction of requests."""
        self._links, self._pair, self._reader, self._writer = links, pair, reader, writer
        self._is_of_requests = first is not None
        self._first = first
        self._queue: list[tuple[float, int, bytes]] = []
        self._queued_bytes = 0
        self._count = 0
        self._last_due_s = 0.0
        self._has_more = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._now_s = asyncio.get_running_loop().time

    async def run(self) -> None:
        """Until either end is gone, or the weather breaks the connection."""
        with contextlib.suppress(OSError, EOFError, _Broken):
            async with asyncio.TaskGroup() as group:
                leaving = group.create_task(self._leave())
                try:
                    await self._come_in()
                finally:
                    leaving.cancel()

    async def _come_in(self) -> None:
        if self._first is not None:
            self._push(self._now_s(), self._first)
        while True:
            frame = await _read_frame(self._reader)
            await self._has_room.wait()
            self._receive(frame)

    def _receive(self, frame: bytes) -> None:
        """Decides when the frame leaves, and how often."""
        weather, seen, chance = self._links.weather(self._pair), self._links.seen, self._links.dice.random
        due_s = self._now_s()
        if weather.delay_s or weather.jitter_s:
            due_s += weather.delay_s + chance() * weather.jitter_s
            seen["delayed"] += 1
        if weather.breaks and chance() < weather.breaks:
            seen["broken"] += 1
            self._writer.transport.abort()
            raise _Broken
        if weather.stalls and chance() < weather.stalls:
            due_s += weather.stall_s
            seen["stalled"] += 1
        due_s = max(due_s, self._last_due_s)
        is_free = self._count >= HANDSHAKE_FRAMES  # the handshake has an order
        if is_free and weather.reorders and chance() < weather.reorders:
            seen["reordered"] += 1
            self._push(due_s + chance() * OVERTAKEN_S, frame)
        else:
            self._last_due_s = due_s
            self._push(due_s, frame)
        if is_free and weather.doubles and chance() < weather.doubles:
            twice = repeatable(frame) if self._is_of_requests else frame
            if twice is not None:
                seen["doubled"] += 1
                self._push(due_s + chance() * REPEATED_S, twice)

    def _push(self, due_s: float, frame: bytes) -> None:
        self._count += 1
        heapq.heappush(self._queue, (due_s, self._count, frame))
        self._queued_bytes += len(frame)
        if self._queued_bytes > QUEUED_BYTES_MAX:
            self._has_room.clear()
        self._has_more.set()

    async def _leave(self) -> None:
        links, pair = self._links, self._pair
        while True:
            if not self._queue:
                self._has_more.clear()
                await self._has_more.wait()
                continue
            if links.weather(pair).is_held:
                links.seen["held"] += 1
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            wait_s = self._queue[0][0] - self._now_s()
            if wait_s > 0:
                # Not wait_for(), which in Python 3.11 may lose a cancellation that comes with what it waits for.
                self._has_more.clear()
                timer = asyncio.get_running_loop().call_later(wait_s, self._has_more.set)
                await self._has_more.wait()
                timer.cancel()
                continue
            _, _, frame = heapq.heappop(self._queue)
            self._queued_bytes -= len(frame)
            self._has_room.set()
            self._writer.write(frame)
            await self._writer.drain()


class _Broken(Exception):
    """The weather has broken the connection."""


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    """One frame with its length in front. Raises EOFError at the end, ValueError for what is no frame."""
    head = await reader.readexactly(LENGTH_BYTES)
    length = int.from_bytes(head, "big")
    if length > FRAME_BYTES_MAX:
        raise ValueError("no frame is that long")
    return head + await reader.readexactly(length)


def repeatable(frame: bytes) -> bytes | None:
    """The frame without what must not come twice; None when nothing is left of it."""
    requests = decode_requests(frame[LENGTH_BYTES:])
    items = [(number, request) for number, request in requests.items if isinstance(request, REPEATABLE)]
    if not items:
        return None
    payload = encode(msgspec.structs.replace(requests, items=items))
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload
