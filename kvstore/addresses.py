"""HOST:PORT and the list of members, as people write them.

Raises ValueError whose text says what would be right; it stands behind the text that was wrong.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

NAME_CHARACTERS_MAX = 63
"""As a label of a host name: short enough for a header that lists a few of them."""
HOST_CHARACTERS_MAX = 253
"""The longest host name that DNS knows."""

_NAME_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_NAME_REST = _NAME_FIRST | frozenset(".-")
_HOST = _NAME_REST | frozenset("_")


@dataclass(frozen=True, slots=True)
class Address:
    """A host, by name or number, and a TCP port."""

    host: str
    """Lower case, IPv6 without its brackets."""
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than localhost may point anywhere, so: no."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all addresses of this machine, to listen on."""
        return self.host in {"0.0.0.0", "::"}


@dataclass(frozen=True, slots=True)
class MemberAddress:
    """A member of the first topology: where its peers reach it and where it stands."""

    name: str
    host: str
    port: int
    zone: str = ""
    """Empty when zones are not used."""

    @property
    def peer(self) -> Address:
        """Where its peers reach it."""
        return Address(self.host, self.port)


def parse_name(text: str) -> str:
    """The name of a node, a cluster or a zone."""
    if 0 < len(text) <= NAME_CHARACTERS_MAX and text[0] in _NAME_FIRST and _NAME_REST.issuperset(text):
        return text
    raise ValueError("1 to 63 of a-z, 0-9, '.' and '-', beginning with a letter or digit")


def parse_address(text: str, port_min: int = 1) -> Address:
    """HOST:PORT, an IPv6 host in brackets."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and port_min <= int(port) <= 65535):
        raise ValueError(f"HOST:PORT with a port from {port_min} to 65535, such as 127.0.0.1:7001")
    return Address(parse_host(host), int(port))


def parse_host(text: str) -> str:
    """A host name or an IP address; IPv6 in brackets, which the result goes without."""
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError("an IPv6 address in the brackets, such as [::1]") from None
    host = text.lower()
    if not 0 < len(host) <= HOST_CHARACTERS_MAX or not _HOST.issuperset(host):
        raise ValueError("a host name or an IP address, IPv6 in brackets ([::1]), and a port behind it")
    return host


def parse_members(text: str) -> tuple[MemberAddress, ...]:
    """`n1=HOST:PORT,n2=HOST:PORT@zone,...`: each name and each address once."""
    members = tuple(_parse_member(part.strip()) for part in text.split(","))
    for what, seen in (("name", [m.name for m in members]), ("address", [str(m.peer) for m in members])):
        for one in sorted({one for one in seen if seen.count(one) > 1}):
            raise ValueError(f"each {what} once; {one} stands there {seen.count(one)} times")
    return members


def _parse_member(text: str) -> MemberAddress:
    name, equals, rest = text.partition("=")
    address, at, zone = rest.partition("@")
    if not equals:
        raise ValueError(f"NAME=HOST:PORT or NAME=HOST:PORT@ZONE for each member, joined by commas; not {text!r}")
    try:
        peer = parse_address(address)
        return MemberAddress(parse_name(name), peer.host, peer.port, parse_name(zone) if at else "")
    except ValueError as fault:
        raise ValueError(f"in {text!r}: {fault}") from None
