"""Reading request bodies: never more than allowed, never for longer than allowed, and within one budget for all."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol

from aiohttp import hdrs, web
from aiohttp.web_request import BaseRequest

from kvstore.http.outgoing.answer import CONTINUE
from kvstore.http.outgoing.problems import Problem, overloaded


class Visit(Protocol):
    """What begins once a body is here; see pressure/door.py."""

    def begin(self) -> None:
        """It is."""
        ...


VISIT = web.RequestKey("visit", Visit)
SMALL_BYTES = 64 << 10
"""No more than this costs hardly more than none."""


class Content(Protocol):
    """A body that is here; aiohttp's StreamReader is one."""

    def read_nowait(self, n: int = -1) -> bytes:
        """What of it was not read yet."""
        ...


class WholeBody:
    """A body in one piece."""

    __slots__ = ("_body",)

    def __init__(self, body: bytes) -> None:
        self._body = body

    def read_nowait(self, n: int = -1) -> bytes:
        """All of it."""
        return self._body


class Bodies:
    """Reads bodies and counts the bytes of those in memory. Whoever read one gives it back with `done`."""

    def __init__(self, bytes_max: int, timeout_s: float) -> None:
        """bytes_max: of all bodies together. timeout_s: for one body to arrive whole."""
        self._bytes_max = bytes_max
        self._timeout_s = timeout_s
        self.bytes_in_flight = 0
        self.bytes_to_come = 0
        """Of those that are on their way. A client that never sends them takes nobody's room."""
        self.bytes_limit: Callable[[], float] = lambda: math.inf
        """What all of them may be now, for large bodies."""
        self.refused = 0

    async def read(self, request: BaseRequest, limit: int) -> bytes:
        """The whole body, of at most `limit` bytes. Raises Problem too-large, slow-body, overloaded, bad-request."""
        if request.content.is_eof() and hdrs.EXPECT not in request.headers:
            return self.take_whole(request.content, limit)
        return await self._read_slowly(request, limit)

    def take_whole(self, content: Content, limit: int) -> bytes:
        """A body that came with its head, as small ones do. Raises Problem too-large or overloaded."""
        body = content.read_nowait()
        if len(body) > limit:
            raise _too_large(limit)
        self._require_room(len(body), is_large=len(body) > SMALL_BYTES)
        self.bytes_in_flight += len(body)
        return body

    def done(self, body: bytes) -> None:
        """The body is no longer in memory."""
        self.bytes_in_flight -= len(body)

    async def _read_slowly(self, request: BaseRequest, limit: int) -> bytes:
        declared = request.content_length
        if declared is not None and declared > limit:
            raise _too_large(limit)
        expected = limit if declared is None else declared
        self._require_room(expected, is_large=expected > SMALL_BYTES)
        self.bytes_to_come += expected
        try:
            _invite(request)
            async with asyncio.timeout(self._timeout_s):
                body = await self._collect(request, limit)
        except TimeoutError:
            raise Problem(
                "slow-body",
                f"The body did not arrive within {self._timeout_s:g} s; nothing was done. Send it again, faster.",
                close=True,
            ) from None
        finally:
            self.bytes_to_come -= expected
        if (visit := request.get(VISIT)) is not None:
            visit.begin()
        return body

    async def _collect(self, request: BaseRequest, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        try:
            while piece := await request.content.readany():
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
                self._take(len(piece))
                pieces.append(piece)
        except BaseException:
            self.bytes_in_flight -= sum(map(len, pieces))
            raise
        return b"".join(pieces)

    def _take(self, count: int) -> None:
        self._require_room(count, is_large=False)
        self.bytes_in_flight += count

    def _require_room(self, count: int, is_large: bool) -> None:
        together = self.bytes_in_flight + count
        if together > self._bytes_max or (is_large and together + self.bytes_to_come > self.bytes_limit()):
            self.refused += 1
            held = f"{self.bytes_in_flight:,} bytes of bodies already"
            raise overloaded(f"Requests hold {held}; nothing was done. Try again.")


def _invite(request: BaseRequest) -> None:
    """Answers `Expect: 100-continue`, which a client sends so as not to send a body that is refused."""
    expected = request.headers.get(hdrs.EXPECT)
    if expected is None or request.version.minor == 0:
        return
    if expected.lower() != "100-continue":
        raise Problem("expectation-failed", f"Expect: {expected!a:.40} can't be met; leave it out.", close=True)
    if request.transport is not None and not request.content.is_eof():
        request.transport.write(CONTINUE)


def _too_large(limit: int) -> Problem:
    detail = f"The body is larger than {limit:,} bytes, which is the most that is taken here; nothing was done."
    return Problem("too-large", detail, limit=limit, close=True)
