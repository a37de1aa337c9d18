"""Who may ask at all: checked on every request, before its route is looked at.

A page in somebody's browser can reach a node on his machine or network. Two things keep it out: the Host header
must name this cluster (a page that rebinds its own DNS name to our address still sends its own name), and an
Origin, which browsers add, must be our own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable

from aiohttp import HttpVersion10, HttpVersion11, hdrs

from kvstore.addresses import parse_host
from kvstore.http.head import Head
from kvstore.http.outgoing.problems import Problem

REMEMBERED_MAX = 1_024
"""Host headers found good; a cluster is called by a handful of names."""


class Guard:
    """Refuses what is not for this cluster."""

    def __init__(self, own: Iterable[str], allowed: Iterable[str], members: Callable[[], Iterable[str]]) -> None:
        """own: hosts that this node is known under; allowed: those that its owner named; members: theirs, now."""
        self._allowed = frozenset(host.lower() for host in allowed)
        self._own = self._allowed | {host.lower() for host in own}
        self._members = members
        self._good: set[str] = set()

    def check(self, request: Head) -> None:
        """Raises Problem http-version, bad-request or forbidden."""
        if request.version not in (HttpVersion11, HttpVersion10):
            raise Problem("http-version", "Send the request as HTTP/1.1.", close=True)
        if not request.raw_path.startswith("/"):
            detail = "The request line must have a path, such as /v1/kv/name, not a whole URL."
            raise Problem("bad-request", detail, close=True)
        headers = request.headers
        host = headers.get(hdrs.HOST)
        if host is None:
            raise Problem("bad-request", "The Host header is missing.", close=True)
        if host not in self._good:
            self._check_host(host)
        if hdrs.ORIGIN in headers:
            self._check_origin(headers.getall(hdrs.ORIGIN), host)

    def _check_host(self, host: str) -> None:
        name = host_name(host)
        if name is None:
            raise Problem("bad-request", f"Host {host!a:.80} is not HOST or HOST:PORT.", close=True)
        if not self._is_ours(name):
            raise Problem(
                "forbidden",
                f"This node does not go by the name {name!a:.80}. Call it by its address, by a member's name or by "
                "a member's host name, or start it with --allowed-hosts.",
            )
        if len(self._good) >= REMEMBERED_MAX:
            self._good.clear()
        self._good.add(host)

    def _is_ours(self, name: str) -> bool:
        if name in self._own or name == "localhost" or name.endswith(".localhost"):
            return True
        return _is_address(name) or name in self._members()

    def _check_origin(self, origins: list[str], host: str) -> None:
        for origin in origins:
            scheme, _, authority = origin.lower().partition("://")
            same = scheme == "http" and authority == host.lower()
            if not same and not (scheme in ("http", "https") and host_name(authority) in self._allowed):
                raise Problem("forbidden", f"Pages of {origin!a:.80} may not use this store; see --allowed-hosts.")


def host_name(host: str) -> str | None:
    """The name or address in a Host header, in lower case, without port or brackets; None when it is malformed."""
    name, colon, port = host.rpartition(":")
    if not colon or host.endswith("]"):  # no port; the colons are an IPv6 address's
        name, port = host, ""
    try:
        return parse_host(name).removesuffix(".") if _is_port(port) else None
    except ValueError:
        return None


def _is_port(text: str) -> bool:
    return text == "" or (text.isascii() and text.isdigit() and len(text) <= 5)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return "%" not in name
