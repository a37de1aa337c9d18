"""Known heads: what a client says in front of a request is nearly always what it said in front of the one before.

Of a head, only the first line and the length of the body tell two requests of one client apart. So what came of a
head's other lines, once aiohttp's parser has taken them apart, is remembered under those very bytes: where they come
again, they mean the same, and the parser is not asked. Whatever is out of the ordinary is the parser's: other first
lines than a plain one for a key, anything that is not one whole request, heads that nobody has sent before.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp import HttpVersion11, hdrs
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDictProxy

from kvstore.http.head import StraightHead
from kvstore.http.incoming.body import WholeBody
from kvstore.paths import KEYS

HEADS_MAX = 512
HEAD_BYTES_MAX = 1_024
"""A longer head is not remembered."""
PARSED_MAX = 64
"""What is remembered with one head, by route and query."""
_BLANK_LINE = b"\r\n\r\n"
_KEY_LINE = re.compile(
    rb"(GET|HEAD|PUT) (" + re.escape(KEYS.encode()) + rb"[A-Za-z0-9._~!$&'()*+,;=:@%/?-]+) HTTP/1\.1"
)
"""The characters of RFC 3986, but for those that aiohttp's parser has a word to say about."""
_ANY_LINE = re.compile(rb"(?:GET|HEAD|PUT|POST|DELETE) [!-~]+ HTTP/1\.1\r\n")
_METHODS = {b"GET": "GET", b"HEAD": "HEAD", b"PUT": "PUT"}
LOST = -1
"""Nobody but the parser knows any more where the next request begins."""


class KnownHead:
    """One head, without its first line."""

    __slots__ = ("body_bytes", "headers", "parsed")

    def __init__(self, headers: CIMultiDictProxy[str], body_bytes: int) -> None:
        self.headers, self.body_bytes = headers, body_bytes
        self.parsed: dict[Any, Any] = {}
        """See StraightHead."""


class KnownRequest:
    """One request whose head is known, as it came."""

    __slots__ = ("_body_at", "_data", "known", "method", "path")

    def __init__(self, known: KnownHead, method: bytes, path: bytes, data: bytes, body_at: int) -> None:
        self.known, self.method, self.path = known, method, path
        self._data, self._body_at = data, body_at

    @property
    def query(self) -> str:
        """What stands behind the path's question mark."""
        return self.path.partition(b"?")[2].decode("ascii")

    def taken_apart(self) -> tuple[StraightHead, WholeBody]:
        """What its handler goes by."""
        known, method, path = self.known, _METHODS[self.method], self.path.decode("ascii")
        if len(known.parsed) > PARSED_MAX:
            known.parsed.clear()
        head = StraightHead(method, path, HttpVersion11, known.headers, True, known.parsed)
        return head, WholeBody(self._data[self._body_at :])


class KnownHeads:
    """Those of all connections."""

    def __init__(self) -> None:
        self._known: dict[bytes, KnownHead] = {}

    def request(self, data: bytes) -> KnownRequest | None:
        """The one request that the bytes are, from the first to the last, if its head is known."""
        end = data.find(_BLANK_LINE, 0, HEAD_BYTES_MAX)
        if end < 0:
            return None
        line_end, body_at = data.find(b"\r\n"), end + len(_BLANK_LINE)
        known = self._known.get(data[line_end:end])
        if known is None or len(data) - body_at != known.body_bytes:
            return None
        line = _KEY_LINE.fullmatch(data, 0, line_end)
        return None if line is None else KnownRequest(known, line[1], line[2], data, body_at)

    def learn(self, data: bytes, message: RawRequestMessage) -> None:
        """What the parser made of a request that these bytes are, from the first to the last."""
        end = data.find(_BLANK_LINE, 0, HEAD_BYTES_MAX)
        if end < 0 or message.should_close or message.upgrade or message.chunked:
            return
        if len(self._known) >= HEADS_MAX:
            self._known.clear()
        lines = data[data.find(b"\r\n") : end]
        self._known[lines] = KnownHead(message.headers, len(data) - end - len(_BLANK_LINE))


def left_of_body(data: bytes, left: int, messages: list[RawRequestMessage]) -> int:
    """How many bytes of a body are still to come after these, or LOST; 0: the next byte begins a request.

    left: how many were to come before them. messages: the heads that the parser found in them.
    """
    if left > 0:
        return left - len(data) if len(data) <= left and not messages else LOST
    end = data.find(_BLANK_LINE)
    if left == LOST or len(messages) != 1 or end < 0 or _ANY_LINE.match(data) is None:
        return LOST
    message = messages[0]
    if message.should_close or message.upgrade or message.chunked or hdrs.TRANSFER_ENCODING in message.headers:
        return LOST
    announced = message.headers.get(hdrs.CONTENT_LENGTH, "0")
    if not (announced.isascii() and announced.isdigit()):
        return LOST
    return max(int(announced) - (len(data) - end - len(_BLANK_LINE)), LOST)
