"""The settings of a node, written once: the command line, the environment and the TOML file all read this table.

A setting called `cache_bytes_max` is `--cache-bytes-max`, `KVSTORE_CACHE_BYTES_MAX` and the TOML key
`cache_bytes_max`. Each comes in as text and is parsed by the function in its row, which raises ValueError with a
text that says what would be right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.levels import Level
from kvstore.addresses import parse_address, parse_host, parse_members, parse_name

VALUE_BYTES_MAX_MAX = 16 << 20
"""A value travels whole, in one frame to each replica: beyond this one request would hold up all others."""
PARTITIONS_MAX = 4_096
"""Each has a replica set that every node keeps in memory."""
REPLICAS_MAX = 9
"""Beyond this a majority waits for the slowest of five and more, and durability gains nothing."""
SECRET_BYTES_MIN = 16
"""128 bits: what can't be guessed."""
SECRET_BYTES_MAX = 4_096
"""A secret is a line, not somebody's disk image given by mistake."""

_UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_BYTES_EXAMPLES = {"65536": 1 << 16, "64KiB": 1 << 16, "8MiB": 8 << 20, "128MiB": 128 << 20, "1GiB": 1 << 30}
"""Of each range of bytes at least two lie in it."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: how a setting is called, what it means, what it is when nobody says."""

    name: str
    metavar: str
    """What stands for the value in help texts; empty for a switch."""
    default: str | None
    """As somebody would write it. None: it must be given."""
    help: str
    parse: Callable[[str], Any]

    @property
    def flag(self) -> str:
        """Its option on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return "KVSTORE_" + self.name.upper()


def _count(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) <= 12 and lowest <= int(text) <= highest:
            return int(text)
        raise ValueError(f"a whole number from {lowest} to {highest}")

    return parse


def _bytes(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        digits = text.rstrip("KMGiB").rstrip()
        unit = _UNITS.get(text[len(digits) :].strip())
        if unit and digits.isascii() and digits.isdigit() and len(digits) <= 15:
            count = int(digits) * unit
            if lowest <= count <= highest:
                return count
        examples = [example for example, count in _BYTES_EXAMPLES.items() if lowest <= count <= highest][:3]
        raise ValueError(f"bytes from {lowest} to {highest}, such as {', '.join(examples[:-1])} or {examples[-1]}")

    return parse


def _seconds(lowest: float, highest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            seconds = float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            seconds = math.nan
        if lowest <= seconds <= highest:
            return seconds
        raise ValueError(
            f"a number of seconds from {lowest:g} to {highest:g}, such as 2 or {0.5 if lowest <= 0.5 else 2.5}"
        )

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text in words:
            return text
        raise ValueError("one of " + ", ".join(words))

    return parse


def _switch(text: str) -> bool:
    return _one_of("true", "false")(text) == "true"


def _hosts(text: str) -> tuple[str, ...]:
    return tuple(parse_host(part.strip()) for part in text.split(",")) if text else ()


def _zone(text: str) -> str:
    return parse_name(text) if text else ""


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("the path of a file or folder")
    return Path(text)


def read_secret(text: str) -> bytes:
    """The secret that the file holds, without white space around it; b"" for no file."""
    if not text:
        return b""
    try:
        with Path(text).open("rb") as file:
            secret = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(f"a file that can be read ({error.strerror})") from None
    if not SECRET_BYTES_MIN <= len(secret.strip()) <= SECRET_BYTES_MAX:
        raise ValueError(f"a file with {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} bytes in it, the same on every node")
    return secret.strip()


SETTINGS: tuple[Setting, ...] = (
    Setting("name", "NAME", None, "this node's name; it must be one of the members", parse_name),
    Setting("data", "DIR", None, "folder for this node's data; made when it is not there", _path),
    Setting("http", "HOST:PORT", None, "where applications reach this node; port 0 takes a free one",
            lambda text: parse_address(text, port_min=0)),
    Setting("peer", "HOST:PORT", None, "where the other nodes reach this node", parse_address),
    Setting("peer_listen", "HOST:PORT", "", "where this node listens for them, if something between forwards to it",
            lambda text: parse_address(text) if text else None),
    Setting("members", "NAME=HOST:PORT[@ZONE],...", None,
            "every first member's peer address, this node too; the same on every node", parse_members),
    Setting("replicas", "COUNT", "3", "how many nodes hold each key (N)", _count(1, REPLICAS_MAX)),
    Setting("partitions", "COUNT", "64", "slices of the key space; fixed once the cluster is made",
            _count(1, PARTITIONS_MAX)),
    Setting("zone", "ZONE", "", "where this node stands; what --members says of it, if it says anything", _zone),
    Setting("cluster_name", "NAME", "kvstore", "nodes of differently named clusters refuse each other", parse_name),
    Setting("cluster_secret_file", "FILE", "", "file with the secret that nodes prove to each other", read_secret),
    Setting("allow_insecure", "", "false", "serve HTTP, which has no authentication yet, beyond this machine", _switch),
    Setting("allowed_hosts", "HOST,...", "", "more names that may stand in a request's Host header", _hosts),
    Setting("consistency", "LEVEL", "strong", "the level of requests that name none",
            lambda text: Level(_one_of(*Level)(text))),
    Setting("value_bytes_max", "BYTES", "1MiB", "the largest value", _bytes(1, VALUE_BYTES_MAX_MAX)),
    Setting("cache_bytes_max", "BYTES", "128MiB", "records kept in memory", _bytes(1 << 20, 1 << 40)),
    Setting("connections_max", "COUNT", "4096", "HTTP connections open at once", _count(1, 1_000_000)),
    Setting("requests_in_flight_max", "COUNT", "4096", "requests worked on at once; more are told to come back",
            _count(1, 1_000_000)),
    Setting("body_bytes_in_flight_max", "BYTES", "256MiB", "request bodies in memory at once",
            _bytes(VALUE_BYTES_MAX_MAX, 1 << 40)),
    Setting("disk_reserve_bytes", "BYTES", "64MiB", "room that is left on the disk when writes are refused",
            _bytes(0, 1 << 40)),
    Setting("anti_entropy_interval_s", "SECONDS", "5", "how often replicas are compared with one another",
            _seconds(0.1, 3600)),
    Setting("hints_bytes_max", "BYTES", "256MiB", "weak writes kept on disk for replicas that are away",
            _bytes(1 << 20, 1 << 40)),
    Setting("purge_after_s", "SECONDS", "180", "how old a deletion is when nothing of it is kept any longer",
            _seconds(1, 31_536_000)),
    Setting("scrub_period_s", "SECONDS", "60", "how often every row on the disk is looked at for damage",
            _seconds(0.1, 86_400)),
    Setting("clock_offset_max_s", "SECONDS", "5", "how far a wall clock may be off before its node is refused",
            _seconds(0.001, 3600)),
    Setting("drain_timeout_s", "SECONDS", "10", "how long a stopping node finishes what it has begun",
            _seconds(0, 3600)),
    Setting("log_format", "FORMAT", "auto", "auto, console or json; auto is console at a terminal",
            _one_of("auto", "console", "json")),
    Setting("log_level", "LEVEL", "info", "debug, info, warning or error",
            _one_of("debug", "info", "warning", "error")),
)  # fmt: skip
