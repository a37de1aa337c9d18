"""The head of a request: what guard, routes and answers go by, whichever way the request is served."""

from __future__ import annotations

from typing import Protocol

from aiohttp import HttpVersion
from aiohttp.http_parser import RawRequestMessage
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

    __slots__ = ("headers", "keep_alive", "method", "raw_path", "version")

    def __init__(self, message: RawRequestMessage) -> None:
        self.method, self.raw_path, self.version = message.method, message.path, message.version
        self.headers, self.keep_alive = message.headers, not message.should_close
