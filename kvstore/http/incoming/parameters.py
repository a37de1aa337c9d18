"""The query of a request: what each route takes, parsed strictly and remembered.

An unknown parameter, one that stands twice, or one that means nothing for this method is refused, never ignored:
whoever writes `consistancy=strong` must not get something else. Queries repeat endlessly (`?consistency=weak`), so
each parser keeps what it made of the last thousand of them.

A query is form-encoded, as client libraries write it: there '+' is a space, unlike in a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Generic, TypeVar

import msgspec

from cluster.levels import Level, QuorumTooLarge, QuorumTooSmall, quorum_size
from cluster.protocol.messages import KEY_BYTES_MAX
from kvstore.http.incoming.durations import LONG_UNITS_MS, UNITS_MS, duration_ms, is_number
from kvstore.http.incoming.key_path import checked_key, checked_text, percent_decode
from kvstore.http.outgoing.problems import Problem

TIMEOUT_S = 5.0
TIMEOUT_S_MAX = 60.0
"""A client that waits longer is better served by trying again: its connection costs a slot all the while."""
TTL_S_MIN = 0.1
"""Less than that would often be over before the answer to the write is there."""
TTL_S_MAX = 315_360_000.0
"""Ten years; a moment further away is more likely a slip than a wish."""
LIST_LIMIT = 100
LIST_LIMIT_MAX = 1_000
"""A page is merged in memory from as many replicas as are asked."""
REMEMBERED_MAX = 1_024
"""Parsed queries kept per route: a few kinds of requests make up all of the traffic that matters."""

_TIMEOUT = re.compile(r"(?:^|&)timeout=([0-9a-z.]+)(?:&|$)")
_NAMED_COUNTS = ("one", "quorum", "all")


class Choice(msgspec.Struct, frozen=True, gc=False):
    """What a read or a write of one key chose."""

    level: Level
    needed: int
    timeout_s: float
    ttl_ms: int = 0
    """How long a value that is put lasts; 0 is for ever."""


class BatchChoice(msgspec.Struct, frozen=True, gc=False):
    """What holds for all operations of a batch."""

    level: Level
    reads_needed: int
    writes_needed: int
    timeout_s: float


class ListChoice(msgspec.Struct, frozen=True, gc=False):
    """Which page of keys."""

    level: Level
    needed: int
    timeout_s: float
    prefix: bytes
    after: bytes | None
    limit: int
    values: bool


class PlacementChoice(msgspec.Struct, frozen=True, gc=False):
    """Whose replicas to show, and whether to ask them which version they hold."""

    key: bytes
    versions: bool
    timeout_s: float


class RepairChoice(msgspec.Struct, frozen=True, gc=False):
    """Which partition to repair."""

    partition: int
    timeout_s: float


class LockChoice(msgspec.Struct, frozen=True, gc=False):
    """How long to try what a lock, a vote or an election is asked for. A wait comes on top of it, in the body."""

    timeout_s: float


class LocksChoice(msgspec.Struct, frozen=True, gc=False):
    """Which page of locks."""

    prefix: str
    after: str | None
    limit: int
    timeout_s: float


class NoChoice(msgspec.Struct, frozen=True, gc=False):
    """For routes that take no parameters."""


T = TypeVar("T")
Build = Callable[[Mapping[str, Any], Level, int], T]


class Parameters(Generic[T]):
    """One route's parser."""

    def __init__(self, what: str, names: tuple[str, ...], default_level: Level, build: Build[T]) -> None:
        self._what = what
        self._names = names
        self._default_level = default_level
        self._build = build
        self._remembered: dict[str, T] = {}
        self._n = 0

    def parse(self, query: str, n: int) -> T:
        """What the raw query chose, with n replicas a key. Raises Problem."""
        if n != self._n:
            self._remembered.clear()
            self._n = n
        choice = self._remembered.get(query)
        if choice is None:
            choice = self._parse(query, n)
            if len(self._remembered) >= REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[query] = choice
        return choice

    def level_of(self, query: str) -> Level | None:
        """The level that a refused request asked for, where that much can be made out."""
        try:
            fields = _split(query)
            return _PARSERS["consistency"](fields["consistency"]) if "consistency" in fields else self._default_level
        except Problem:
            return None

    def _parse(self, query: str, n: int) -> T:
        fields = _split(query)
        for name in fields:
            if name not in self._names:
                raise _bad(name, _why_unknown(name, self._what, self._names))
        values = {name: _PARSERS[name](text) for name, text in fields.items()}
        level = values.get("consistency", self._default_level)
        try:
            return self._build(values, level, n)
        except QuorumTooSmall as fault:
            raise Problem("quorum-too-small", f"{fault}.", needed=_own_count(level, n), level=str(level)) from None
        except QuorumTooLarge as fault:
            raise Problem("quorum-too-large", f"{fault}.", needed=_own_count(level, n), limit=n) from None


@dataclass(frozen=True, slots=True)
class ParameterSet:
    """The parsers of all routes."""

    read: Parameters[Choice]
    put: Parameters[Choice]
    delete: Parameters[Choice]
    batch: Parameters[BatchChoice]
    listing: Parameters[ListChoice]
    placement: Parameters[PlacementChoice]
    repair: Parameters[RepairChoice]
    lock: Parameters[LockChoice]
    vote: Parameters[LockChoice]
    election: Parameters[LockChoice]
    locks: Parameters[LocksChoice]
    none: Parameters[NoChoice]


def parameter_set(default_level: Level) -> ParameterSet:
    """The parsers of all routes, for a node whose requests have this level when they name none."""
    return ParameterSet(
        read=Parameters("a read", ("consistency", "r", "timeout"), default_level, _choice("r")),
        put=Parameters("a put", ("consistency", "w", "timeout", "ttl"), default_level, _choice("w")),
        delete=Parameters("a delete", ("consistency", "w", "timeout"), default_level, _choice("w")),
        batch=Parameters("a batch", ("consistency", "r", "w", "timeout"), default_level, _batch),
        listing=Parameters(
            "a listing",
            ("prefix", "limit", "after", "values", "consistency", "r", "timeout"),
            default_level,
            _listing,
        ),
        placement=Parameters("a key's placement", ("key", "versions", "timeout"), default_level, _placement),
        repair=Parameters("a repair", ("partition", "timeout"), default_level, _repair),
        lock=Parameters("a lock", ("timeout",), default_level, _lock),
        vote=Parameters("a vote", ("timeout",), default_level, _lock),
        election=Parameters("an election", ("timeout",), default_level, _lock),
        locks=Parameters("a list of locks", ("prefix", "limit", "after", "timeout"), default_level, _locks),
        none=Parameters("this route", (), default_level, lambda values, level, n: NoChoice()),
    )


def _own_count(level: Level, n: int) -> int:
    """What the level needs where the request does not say."""
    return quorum_size(level, n, None)


def _choice(count: str) -> Build[Choice]:
    def build(values: Mapping[str, Any], level: Level, n: int) -> Choice:
        needed = quorum_size(level, n, values.get(count))
        return Choice(level, needed, values.get("timeout", TIMEOUT_S), values.get("ttl", 0))

    return build


def _batch(values: Mapping[str, Any], level: Level, n: int) -> BatchChoice:
    reads, writes = quorum_size(level, n, values.get("r")), quorum_size(level, n, values.get("w"))
    return BatchChoice(level, reads, writes, values.get("timeout", TIMEOUT_S))


def _listing(values: Mapping[str, Any], level: Level, n: int) -> ListChoice:
    return ListChoice(
        level,
        quorum_size(level, n, values.get("r")),
        values.get("timeout", TIMEOUT_S),
        values.get("prefix", b""),
        values.get("after") or None,
        values.get("limit", LIST_LIMIT),
        values.get("values", False),
    )


def _placement(values: Mapping[str, Any], level: Level, n: int) -> PlacementChoice:
    if "key" not in values:
        raise _bad("key", "it is needed: the key whose replicas are to be shown")
    return PlacementChoice(values["key"], values.get("versions", False), values.get("timeout", TIMEOUT_S))


def _repair(values: Mapping[str, Any], level: Level, n: int) -> RepairChoice:
    if "partition" not in values:
        raise _bad("partition", "it is needed: the number of the partition to compare, from 0 on")
    return RepairChoice(values["partition"], values.get("timeout", TIMEOUT_S_MAX))


def _lock(values: Mapping[str, Any], level: Level, n: int) -> LockChoice:
    return LockChoice(values.get("timeout", TIMEOUT_S))


def _locks(values: Mapping[str, Any], level: Level, n: int) -> LocksChoice:
    return LocksChoice(
        values.get("prefix", b"").decode(),
        values.get("after", b"").decode() or None,
        values.get("limit", LIST_LIMIT_MAX),
        values.get("timeout", TIMEOUT_S),
    )


def _split(query: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, equals, text = part.partition("=")
        if not equals:
            raise _bad(name, "it has no value; write name=value")
        if name in fields:
            raise _bad(name, "it stands there more than once")
        fields[name] = text
    return fields


def _word(name: str, parse: Callable[[str], T]) -> Callable[[str], T]:
    """The parser, for the value as it was before it was percent-encoded."""

    def decoded(text: str) -> T:
        if "%" not in text and "+" not in text:
            return parse(text)
        try:
            return parse(checked_text(_form_decode(text)).decode())
        except ValueError as fault:
            raise _bad(name, str(fault)) from None

    return decoded


def _form_decode(text: str) -> bytes:
    return percent_decode(text.replace("+", " "))


def _why_unknown(name: str, what: str, names: tuple[str, ...]) -> str:
    known = ", ".join(names) if names else "none at all"
    return f"{what} does not take it; known are: {known}"


def _bad(name: str, why: str) -> Problem:
    shown = name if len(name) <= 64 and name.isprintable() and name.isascii() else "?"
    return Problem("bad-parameter", f"Parameter {shown!r}: {why}.", parameter=shown)


def _level(text: str) -> Level:
    try:
        return Level(text)
    except ValueError:
        raise _bad("consistency", f"{text!a:.40} is no level; choose strong, weak or eventual") from None


def _count(name: str) -> Callable[[str], int | str]:
    def parse(text: str) -> int | str:
        if text in _NAMED_COUNTS:
            return text
        if is_number(text):
            return int(text)
        raise _bad(name, f"{text!a:.40} is no count; write a whole number, one, quorum or all")

    return parse


def parse_timeout(text: str) -> float:
    """`250ms`, `2s` or `1m` in seconds. Raises Problem."""
    timeout_ms = duration_ms(text, UNITS_MS)
    if timeout_ms is None:
        raise _bad("timeout", f"{text!a:.40} is no duration; write it like 250ms, 2s or 1m")
    seconds = timeout_ms / 1_000
    if not 0 < seconds <= TIMEOUT_S_MAX:
        raise _bad("timeout", f"{text!a:.40} is out of range; it is 1ms to {TIMEOUT_S_MAX:g}s")
    return seconds


def timeout_named(query: str) -> float:
    """The `timeout` of a query of any kind, in seconds; infinite where it names none that can be read."""
    found = _TIMEOUT.search(query)
    try:
        return parse_timeout(found[1]) if found else inf
    except Problem:
        return inf


def parse_ttl(text: str) -> int:
    """`250ms`, `30s`, `5m`, `1h` or `7d` in milliseconds. Raises ValueError, saying why."""
    ttl_ms = duration_ms(text, LONG_UNITS_MS)
    if ttl_ms is None:
        raise ValueError(f"{text!a:.40} is no duration; write it like 250ms, 30s, 5m, 1h or 7d")
    if not TTL_S_MIN * 1_000 <= ttl_ms <= TTL_S_MAX * 1_000:
        days = int(TTL_S_MAX) // 86_400
        raise ValueError(f"{text!a:.40} is out of range; it is {TTL_S_MIN * 1_000:g}ms to {days}d, which is ten years")
    return ttl_ms


def _ttl(text: str) -> int:
    try:
        return parse_ttl(text)
    except ValueError as fault:
        raise _bad("ttl", str(fault)) from None


def _limit(text: str) -> int:
    if is_number(text) and 1 <= int(text) <= LIST_LIMIT_MAX:
        return int(text)
    raise _bad("limit", f"{text!a:.40} is no page size; write a number from 1 to {LIST_LIMIT_MAX}")


def _partition(text: str) -> int:
    if is_number(text):
        return int(text)
    raise _bad("partition", f"{text!a:.40} is no number of a partition; write a whole number from 0 on")


def _switch(name: str) -> Callable[[str], bool]:
    def parse(text: str) -> bool:
        if text in ("true", "false"):
            return text == "true"
        raise _bad(name, f"{text!a:.40} is neither true nor false")

    return parse


def _text(name: str) -> Callable[[str], bytes]:
    def parse(text: str) -> bytes:
        try:
            decoded = checked_text(_form_decode(text))
        except ValueError as fault:
            raise _bad(name, str(fault)) from None
        if len(decoded) > KEY_BYTES_MAX:
            raise _bad(name, f"it has {len(decoded):,} bytes; a key has {KEY_BYTES_MAX:,} at most")
        return decoded

    return parse


def _key(text: str) -> bytes:
    try:
        return checked_key(_form_decode(text))
    except ValueError as fault:
        raise Problem("bad-key", f"{fault}; a key is 1 to {KEY_BYTES_MAX:,} bytes of UTF-8 without NUL") from None


_PARSERS: dict[str, Callable[[str], Any]] = {
    "consistency": _word("consistency", _level),
    "r": _word("r", _count("r")),
    "w": _word("w", _count("w")),
    "timeout": _word("timeout", parse_timeout),
    "ttl": _word("ttl", _ttl),
    "prefix": _text("prefix"),
    "after": _text("after"),
    "limit": _word("limit", _limit),
    "values": _word("values", _switch("values")),
    "versions": _word("versions", _switch("versions")),
    "partition": _word("partition", _partition),
    "key": _key,
}
