"""Conditional requests (RFC 9110, section 13) as this store has them, and fences.

A write has one condition, on one version, and one fence, of one lock, at the strong level; anything else is refused and
never ignored, for a condition that is ignored loses somebody's data. A read compares what it found with the versions it
was given; it may bear a fence like a write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from multidict import CIMultiDictProxy, istr

from cluster.levels import Level
from cluster.locks.lock_state import NAME_BYTES_MAX
from cluster.requests import ALWAYS, Condition, ConditionKind, Fence
from kvstore.http.incoming.key_path import checked_text, percent_decode
from kvstore.http.outgoing.problems import Problem
from storage.ballot import parse_version

Headers = CIMultiDictProxy[str]

IF_MATCH = istr("If-Match")
IF_NONE_MATCH = istr("If-None-Match")
KV_FENCE = istr("KV-Fence")
_IMPRECISE = tuple(map(istr, ("If-Unmodified-Since", "If-Range", "Content-Range")))

_TAG = re.compile(r'[ \t]*(?:W/)?"([^"]*)"[ \t]*(?:,|$)')
"""One of a list of ETags; there may be commas within its quotes."""

_FENCE = re.compile(r"([A-Za-z0-9._~!$&'()*+/:@%-]*)=([1-9][0-9]{0,18})")
"""A lock's name in what a path segment may hold, but for what parts a list (RFC 3986), and a number."""
_FENCE_MAX = (1 << 63) - 1

IF_EXISTS = Condition(ConditionKind.IF_EXISTS)
IF_ABSENT = Condition(ConditionKind.IF_ABSENT)


def write_condition(headers: Headers, level: Level, method: str) -> Condition:
    """The condition of a PUT or DELETE. Raises Problem."""
    for name in _IMPRECISE:
        if name in headers:
            raise _bad(name, "a write can't honour it; use If-Match with the version that was read")
    if_match, if_none_match = headers.get(IF_MATCH), headers.get(IF_NONE_MATCH)
    if if_match is None and if_none_match is None:
        return ALWAYS
    if if_match is not None and if_none_match is not None:
        raise _bad("If-Match", "not together with If-None-Match: a write has one condition")
    if len(headers.getall(IF_MATCH, ())) > 1 or len(headers.getall(IF_NONE_MATCH, ())) > 1:
        raise _bad("If-Match", "a write has one condition, not several headers of it")
    condition = _over(if_match) if if_match is not None else _create_only(if_none_match or "", method)
    return checked_level(condition, level)


def parse_if_match(text: str) -> Condition:
    """One quoted version, or `*`. Raises ValueError whose text says what would be right."""
    if text == "*":
        return IF_EXISTS
    if text.startswith("W/"):
        raise ValueError("a weak ETag can't guard a write; send the ETag as it came")
    if "," in text:
        raise ValueError("one version, not a list of them")
    try:
        return Condition(ConditionKind.IF_VERSION, _quoted(text))
    except ValueError as fault:
        raise ValueError(f"{fault}; send an ETag as it came, with its double quotes, or *") from None


def checked_level(condition: Condition, level: Level) -> Condition:
    """The condition itself, where the level can keep it. Raises Problem needs-strong."""
    if condition is not ALWAYS and level is not Level.STRONG:
        raise Problem(
            "needs-strong",
            f"A condition holds only where a majority is asked, and this request is {level}. "
            "Nothing was written; send it with consistency=strong, or without the condition.",
        )
    return condition


def fence_of(headers: Headers, level: Level, *, is_read: bool) -> Fence | None:
    """The fence of a request for one key, None when it has none. Raises Problem bad-fence or needs-strong."""
    if KV_FENCE not in headers:
        return None
    found = headers.getall(KV_FENCE)
    if len(found) > 1:
        done = _done(is_read)
        raise bad_fence(f"Header {KV_FENCE}: a request bears one fence, not several headers of it. Nothing was {done}.")
    return parse_fence(found[0], level, f"Header {KV_FENCE}", is_read=is_read)


def parse_fence(text: str, level: Level, where: str, *, is_read: bool) -> Fence:
    """`<lock>=<fence>`, the lock's name percent-encoded. Raises Problem bad-fence or needs-strong."""
    parts = _FENCE.fullmatch(text)
    try:
        if parts is None:
            raise ValueError(f"{text!a:.80} is no <lock>=<fence>, with the lock's name percent-encoded")
        if (number := int(parts[2])) > _FENCE_MAX:
            raise ValueError(f"a fence is at most {_FENCE_MAX}")
        name = checked_text(percent_decode(parts[1]))
        if not 0 < len(name) <= NAME_BYTES_MAX:
            raise ValueError(f"the name of a lock has 1 to {NAME_BYTES_MAX} bytes, not {len(name)}")
    except ValueError as fault:
        raise bad_fence(f"{where}: {fault}. Nothing was {_done(is_read)}.") from None
    if level is not Level.STRONG:
        raise Problem(
            "needs-strong",
            f"A fence holds only where a majority is asked, and this request is {level}. "
            f"Nothing was {_done(is_read)}; send it with consistency=strong, or without the fence.",
        )
    return Fence(name.decode(), number)


def refuse_fence(headers: Headers) -> None:
    """For what bears none: ignored, it would let a paused holder believe that it is checked. Raises Problem."""
    if KV_FENCE in headers:
        raise bad_fence(
            f"Header {KV_FENCE} is for requests for one key; in a batch the fence stands in its operation, and a "
            "listing has none."
        )


def bad_fence(detail: str) -> Problem:
    """The fence can't be used."""
    return Problem("bad-fence", detail)


@dataclass(frozen=True, slots=True)
class ReadCondition:
    """What a read compares the version found with; None is any, "*" is any that exists."""

    match: frozenset[int] | str | None
    none_match: frozenset[int] | str | None

    def is_met(self, version: int | None) -> bool:
        """Whether If-Match holds."""
        return self.match is None or _matches(self.match, version)

    def is_unmodified(self, version: int | None) -> bool:
        """Whether If-None-Match says that the client has this one already."""
        return self.none_match is not None and _matches(self.none_match, version)


def read_condition(headers: Headers) -> ReadCondition | None:
    """The condition of a GET or HEAD, None when it has none. Raises Problem."""
    if IF_MATCH not in headers and IF_NONE_MATCH not in headers:
        return None
    return ReadCondition(_versions(headers, IF_MATCH), _versions(headers, IF_NONE_MATCH))


def _versions(headers: Headers, name: str) -> frozenset[int] | str | None:
    if name not in headers:
        return None
    text = ",".join(headers.getall(name))
    if text.strip() == "*":
        return "*"
    return frozenset(version for tag in _tags(name, text) if (version := _version(tag)) is not None)


def _tags(name: str, text: str) -> Iterator[str]:
    """What stands between the quotes of each ETag of the list. Raises Problem."""
    place = 0
    while place < len(text) or place == 0:
        tag = _TAG.match(text, place)
        if tag is None:
            shown = text[place:].strip()
            raise _bad(name, f"{shown!a:.40} is no ETag; ETags stand in double quotes, joined by commas")
        yield tag[1]
        place = tag.end()


def _version(tag: str) -> int | None:
    """None for an ETag of something else, which matches nothing here."""
    try:
        return parse_version(tag)
    except ValueError:
        return None


def _matches(wanted: frozenset[int] | str, version: int | None) -> bool:
    return version is not None and (isinstance(wanted, str) or version in wanted)


def _done(is_read: bool) -> str:
    return "read" if is_read else "written"


def _over(text: str) -> Condition:
    try:
        return parse_if_match(text)
    except ValueError as fault:
        raise _bad("If-Match", str(fault)) from None


def _create_only(text: str, method: str) -> Condition:
    if method != "PUT":
        raise _bad("If-None-Match", "it creates, so it is for PUT; a DELETE takes If-Match")
    if text != "*":
        raise _bad("If-None-Match", "a write takes only * there: create, if there is no value")
    return IF_ABSENT


def _quoted(text: str) -> int:
    if len(text) < 2 or text[0] != '"' or text[-1] != '"':
        raise ValueError(f"{text!a:.40} is no version in double quotes")
    return parse_version(text[1:-1])


def _bad(header: str, why: str) -> Problem:
    return Problem("bad-parameter", f"Header {header}: {why}.", parameter=str(header))
