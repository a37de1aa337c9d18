"""JSON bodies, parsed strictly: what two parsers could read differently is refused, and nothing raises a 500."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from kvstore.http.outgoing.problems import Problem

T = TypeVar("T")

_NOT_UTF8 = "it is not UTF-8"


def decode_json(body: bytes | msgspec.Raw, kind: type[T]) -> T:
    """The body as `kind`, a struct that forbids unknown fields. Raises Problem bad-json."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as fault:
        raise _bad(str(fault)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise _bad(_why_malformed(bytes(body), str(fault))) from None
    except RecursionError:
        raise _bad("it is nested too deeply") from None


def refuse_ambiguity(body: bytes) -> None:
    """Raises Problem bad-json for a field that stands twice in its object: parsers differ on which one counts."""
    try:
        json.loads(body.decode(), object_pairs_hook=_refuse_duplicates, parse_int=_any_number, parse_float=_any_number)
    except UnicodeDecodeError:
        raise _bad(_NOT_UTF8) from None
    except json.JSONDecodeError as fault:
        raise _bad(f"JSON is malformed: {fault.msg}") from None
    except ValueError as fault:
        raise _bad(str(fault)) from None
    except RecursionError:
        raise _bad("it is nested too deeply") from None


def _why_malformed(body: bytes, words: str) -> str:
    """What is wrong; msgspec calls half a surrogate pair at a text's end truncated data, and UTF-8 by its codec."""
    try:
        json.loads(body.decode(), parse_int=_any_number, parse_float=_any_number)
    except UnicodeDecodeError:
        return _NOT_UTF8
    except (ValueError, RecursionError):
        return words
    return "a text in it has half of a surrogate pair (\\ud800 to \\udfff alone), which is no character"


def _any_number(_: str) -> int:
    """Numbers are of no interest here, and Python refuses to read very long ones."""
    return 0


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!a:.40} stands there more than once")


def _bad(why: str) -> Problem:
    return Problem("bad-json", f"{why}. Nothing was done.")
