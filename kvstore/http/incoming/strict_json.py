"""JSON bodies, parsed strictly: what two parsers could read differently is refused, and nothing raises a 500."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from kvstore.http.outgoing.problems import Problem

T = TypeVar("T")


def decode_json(body: bytes | msgspec.Raw, kind: type[T]) -> T:
    """The body as `kind`, a struct that forbids unknown fields. Raises Problem bad-json."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise _bad(str(fault)) from None
    except RecursionError:
        raise _bad("it is nested too deeply") from None


def refuse_ambiguity(body: bytes) -> None:
    """Raises Problem bad-json for a field that stands twice in its object: parsers differ on which one counts."""
    try:
        json.loads(body, object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as fault:
        raise _bad(str(fault)) from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!a:.40} stands there more than once")


def _bad(why: str) -> Problem:
    return Problem("bad-json", f"{why}. Nothing was done.")
