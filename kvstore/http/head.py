"""The head of a request: what guard, routes and answers go by, whichever way the request is served."""

from __future__ import annotations

from typing import Any, Protocol

from aiohttp import HttpVersion
from multidict import CIMultiDictProxy


class Head(Protocol):
    """Method, path and headers as they were sent; aiohttp's BaseRequest is one."""

    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> str: ...
    @property
    def version(self) -> HttpVersion: ...
    @property
    def headers(self) -> CIMultiDictProxy[str]: ...
    @property
    def keep_alive(self) -> bool: ...


class StraightHead:
    """That of a request which is answered without aiohttp's task: what its BaseRequest would say."""

    __slots__ = ("headers", "keep_alive", "method", "parsed", "raw_path", "version")

    def __init__(
        self,
        method: str,
        raw_path: str,
        version: HttpVersion,
        headers: CIMultiDictProxy[str],
        keep_alive: bool,
        parsed: dict[Any, Any] | None = None,
    ) -> None:
        """parsed: what routes made of these headers, theirs to fill; None where the headers won't come again."""
        self.method, self.raw_path, self.version = method, raw_path, version
        self.headers, self.keep_alive, self.parsed = headers, keep_alive, parsed
