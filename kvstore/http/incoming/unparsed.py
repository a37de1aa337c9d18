"""Bytes that the parser stumbled over: what of a request they still show, and what is answered.

Nothing of what came is echoed, in the answer or in the log: it may be another protocol's, or an attack's.
"""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

from aiohttp.http_exceptions import BadHttpMessage, BadHttpMethod, BadStatusLine, InvalidURLError, LineTooLong

from kvstore.http.outgoing.problems import Problem

LINE_BYTES_MAX = 8_190
"""Of the request line, and of a header: two escaped keys of 1,024 bytes fit."""
HEADERS_MAX = 64

_LINE = re.compile(rb"(?:^|\r\n)([A-Za-z][A-Za-z-]{0,31}) (/[^ \r\n]*)")
_WHOLE_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (/[^ ]*) HTTP/1\.[01]")
_SHOWN_BY_PARSER = re.compile(r"\n  (b(['\"]).*\2)\n")
_CLEARER = {
    "Duplicate Content-Length": "it has two Content-Length headers",
    "Duplicate 'Host' header found.": "it has two Host headers",
    "Missing 'Host' header in request.": "its Host header is missing",
    "Transfer-Encoding can't be present with Content-Length": "it has both Content-Length and Transfer-Encoding",
    "Invalid method encountered": "it does not begin with a method, such as GET",
    "Expected space after method": "it does not begin with a method, such as GET",
    "Expected HTTP/, RTSP/ or ICE/": "its first line has no HTTP/1.1 behind the path; escape spaces in paths as %20",
    "Unexpected char in url schema": "its path does not begin with '/'",
    "Invalid char in url path": "there is a character in its path that must be escaped, such as %C3%A9 for an accent",
    "Received HTTPS traffic on an HTTP port": "it is HTTPS, and this port speaks plain HTTP",
}
"""Where the parser's own words can be said better."""


class RequestLine(NamedTuple):
    """What is known of a request that could not be parsed; empty where it is not."""

    method: str
    path: str


class UnknownMethod(Exception):
    """A request that is well formed up to a method that the parser has never heard of."""


def request_line(fault: BaseException | None, data: bytes) -> RequestLine:
    """The request line in the bytes last received, or in the parser's own words."""
    if isinstance(fault, BadHttpMethod) and (line := _whole_line(fault)) is not None:
        return line
    lines = _LINE.findall(data)
    if lines:
        return RequestLine(lines[-1][0].decode("ascii"), lines[-1][1].decode("latin-1"))
    return RequestLine("", bytes(fault.args[0]).decode("latin-1") if _is_long_path(fault) and fault else "")


def problem_of(fault: BaseException | None) -> Problem:
    """What is answered. Raises UnknownMethod, since whoever knows the routes can say which methods there are."""
    match fault:
        case BadHttpMethod() if _whole_line(fault) is not None:
            raise UnknownMethod
        case LineTooLong() if _is_long_path(fault):
            return _too_large(414, f"The request line is longer than {LINE_BYTES_MAX:,} bytes.", LINE_BYTES_MAX)
        case LineTooLong():
            return _too_large(431, f"A header is longer than {LINE_BYTES_MAX:,} bytes.", LINE_BYTES_MAX)
        case BadHttpMessage(message="Too many headers received"):
            return _too_large(431, f"There are more than {HEADERS_MAX} headers.", HEADERS_MAX)
        case BadHttpMessage():
            detail = f"The request can't be understood: {reason(fault)}. Nothing was done; the connection is closed."
            return Problem("bad-request", detail, close=True)
        case _:
            return Problem("internal", "This node failed; its log says why.", outcome="unknown", close=True)


def reason(fault: BaseException | None) -> str:
    """Why the bytes are no request, without any of them."""
    if isinstance(fault, LineTooLong):
        return "a line is too long"
    if not isinstance(fault, BadHttpMessage):
        return type(fault).__name__
    words = fault.message
    if isinstance(fault, BadStatusLine):
        words = words.removeprefix("Bad status line:\n").strip()
    if isinstance(fault, InvalidURLError) and "\n" not in words:
        return "its path can't be parsed"
    words = words.partition(":\n")[0].partition(": ")[0]
    return _CLEARER.get(words) or f"{words[:1].lower()}{words[1:]}".rstrip(".")


def _too_large(status: int, detail: str, limit: int) -> Problem:
    return Problem("too-large", f"{detail} Nothing was done.", status=status, limit=limit, close=True)


def _is_long_path(fault: BaseException | None) -> bool:
    return isinstance(fault, LineTooLong) and bytes(fault.args[0])[:1] == b"/"


def _whole_line(fault: BadHttpMethod) -> RequestLine | None:
    """The request line whose method the parser refused; it stands in its message as Python writes bytes."""
    shown = _SHOWN_BY_PARSER.search(fault.message)
    line = _WHOLE_LINE.fullmatch(ast.literal_eval(shown[1])) if shown is not None else None
    return None if line is None else RequestLine(line[1].decode("ascii"), line[2].decode("latin-1"))
