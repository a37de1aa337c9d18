"""What a call is given, checked as a node checks it: the same limits, the same refusals.

tests/kvstore/embedded compares the limits with those of the HTTP layer, which is not imported here: whoever opens a
file pays for no web server.
"""

from __future__ import annotations

import math
from typing import Any, get_args

from cluster.levels import Level, QuorumTooLarge, QuorumTooSmall, quorum_size
from cluster.locks.lock_state import NAME_BYTES_MAX, OWNER_BYTES_MAX, PERMITS_MAX, TTL_S_MAX, TTL_S_MIN, WAIT_S_MAX
from cluster.protocol.messages import KEY_BYTES_MAX
from cluster.requests import ALWAYS, Condition, ConditionKind, Fence
from kvstore.client import values
from kvstore.errors import BadFence, BadRequest, NeedsStrong, TooLarge
from storage.ballot import parse_version

VALUE_BYTES_MAX = 1 << 20
VALUE_TTL_S_MIN, VALUE_TTL_S_MAX = 0.1, 315_360_000.0
CONTENT_TYPE = "application/octet-stream"
CONTENT_TYPE_CHARACTERS_MAX = 256
LIST_LIMIT_MAX = 1_000
OPERATIONS_MAX = 1_000
BATCH_BYTES_MAX = 16 << 20
"""Values that one batch writes, together; and those that one reads."""
TOKEN_CHARACTERS_MAX = 256
_FENCE_MAX = (1 << 63) - 1
_N = 1
"""A file is one replica."""


def key_of(key: str) -> bytes:
    """The key as it is kept. Raises BadRequest."""
    return _text("key", key, KEY_BYTES_MAX, "bad-key")


def name_of(name: str) -> str:
    """The name of a lock, a vote or an election. Raises BadRequest."""
    _text("name", name, NAME_BYTES_MAX, "bad-key")
    return name


def owner_of(field: str, owner: str) -> str:
    """An owner, or a candidate. Raises BadRequest."""
    _text(field, owner, OWNER_BYTES_MAX, "bad-parameter")
    return owner


def prefix_of(prefix: str) -> bytes:
    """The beginning of keys or names. Raises BadRequest."""
    return _text("prefix", prefix, KEY_BYTES_MAX, "bad-parameter") if prefix else b""


def after_of(after: str | None) -> bytes | None:
    """The key behind which a listing goes on. Raises BadRequest."""
    return _text("after", after, KEY_BYTES_MAX, "bad-parameter") if after else None


def value_of(value: bytes) -> bytes:
    """The value, if it is not too large. Raises TooLarge."""
    if len(value) > VALUE_BYTES_MAX:
        raise TooLarge(
            f"The value is larger than {VALUE_BYTES_MAX:,} bytes; it was not written.", limit=VALUE_BYTES_MAX
        )
    return bytes(value)


def content_type_of(content_type: str | None) -> str:
    """The content type to keep. Raises BadRequest."""
    told = content_type or CONTENT_TYPE
    if len(told) > CONTENT_TYPE_CHARACTERS_MAX or not told.isascii() or not told.isprintable():
        why = f"it must be at most {CONTENT_TYPE_CHARACTERS_MAX} printable ASCII characters; nothing was written"
        raise _bad("content_type", why)
    return told


def level_of(consistency: str | None) -> Level:
    """The level; strong unless another is named. Raises BadRequest."""
    try:
        return Level.STRONG if consistency is None else Level(consistency)
    except ValueError:
        raise _bad("consistency", f"{consistency!a:.40} is no level; choose strong, weak or eventual") from None


def check_count(name: str, count: values.Count | None, level: Level) -> None:
    """That one replica can be what is asked for. Raises BadRequest."""
    named = get_args(get_args(values.Count)[1])
    if count is not None and (isinstance(count, bool) or not (isinstance(count, int) or count in named)):
        raise _bad(name, f"{count!a:.40} is no count; write a whole number, one, quorum or all")
    try:
        quorum_size(level, _N, count)
    except QuorumTooSmall as fault:
        raise BadRequest(f"{fault}.", code="quorum-too-small", needed=_N, level=str(level)) from None
    except QuorumTooLarge as fault:
        raise BadRequest(f"{fault}.", code="quorum-too-large", needed=_N, limit=_N) from None


def condition_of(if_match: str | None, create: bool, level: Level) -> Condition:
    """The condition of a write. Raises BadRequest and NeedsStrong."""
    if if_match is None:
        condition = Condition(ConditionKind.IF_ABSENT) if create else ALWAYS
    elif create:
        raise _bad("create", "not together with if_match: a write has one condition")
    elif if_match == "*":
        condition = Condition(ConditionKind.IF_EXISTS)
    else:
        try:
            condition = Condition(ConditionKind.IF_VERSION, parse_version(if_match))
        except (ValueError, TypeError) as fault:
            raise _bad("if_match", f"{fault}; give the version as it came, or *") from None
    if condition is not ALWAYS and level is not Level.STRONG:
        raise NeedsStrong(
            f"A condition is kept at the strong level, and this request is {level}. Nothing was written; leave the "
            "level or the condition out."
        )
    return condition


def fence_of(fence: values.Fence | None, level: Level, *, is_read: bool = False) -> Fence | None:
    """The fence of a write, or a read. Raises BadFence and NeedsStrong."""
    if fence is None:
        return None
    try:
        _text("lock", fence.lock, NAME_BYTES_MAX, "bad-fence")
    except BadRequest as fault:
        raise BadFence(fault.detail) from None
    number, done = fence.fence, "read" if is_read else "written"
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= _FENCE_MAX:
        raise BadFence(f"A fence is a number from 1 to {_FENCE_MAX}, not {number!a:.40}; nothing was {done}.")
    if level is not Level.STRONG:
        raise NeedsStrong(
            f"A fence is kept at the strong level, and this request is {level}. Nothing was {done}; leave the level "
            "or the fence out."
        )
    return Fence(fence.lock, number)


def ttl_ms_of(ttl_s: float | None) -> int:
    """How long a value lasts, in milliseconds; 0 is for ever. Raises BadRequest."""
    if ttl_s is None:
        return 0
    return _seconds("ttl", ttl_s, VALUE_TTL_S_MIN, VALUE_TTL_S_MAX)


def lease_ms_of(ttl_s: float) -> int:
    """How long a grant lasts without a renewal, in milliseconds. Raises BadRequest."""
    return _seconds("ttl", ttl_s, TTL_S_MIN, TTL_S_MAX)


def wait_s_of(wait_s: float) -> float:
    """How long to wait for a lock. Raises BadRequest."""
    return _seconds("wait", wait_s, 0, WAIT_S_MAX) / 1000


def check_permits(permits: int) -> None:
    """Raises BadRequest."""
    if isinstance(permits, bool) or not isinstance(permits, int) or not 1 <= permits <= PERMITS_MAX:
        raise _bad("permits", f"it is 1 to {PERMITS_MAX}, a whole number")


def check_limit(limit: int) -> None:
    """Of a page. Raises BadRequest."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LIST_LIMIT_MAX:
        raise _bad("limit", f"{limit!a:.40} is no page size; write a number from 1 to {LIST_LIMIT_MAX}")


def check_token(token: str) -> None:
    """Of a lock's holder. Raises BadRequest."""
    if not 1 <= len(token) <= TOKEN_CHARACTERS_MAX or not token.isascii() or not token.isprintable():
        raise _bad("token", "it is no token; give the one that came with the grant")


def _text(field: str, text: str, bytes_max: int, code: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"{field} is a text, not {type(text).__name__}")
    try:
        coded = text.encode()
    except UnicodeEncodeError:
        raise _bad(field, "half of a surrogate pair is no character", code) from None
    if not 1 <= len(coded) <= bytes_max or b"\0" in coded:
        what = "there is a NUL in it" if b"\0" in coded else f"it has {len(coded):,} bytes"
        raise _bad(field, f"{what}; it is 1 to {bytes_max:,} bytes of UTF-8 without NUL", code)
    return coded


def _seconds(field: str, seconds: Any, least: float, most: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise _bad(field, f"{seconds!a:.40} is no number of seconds")
    if not least <= round(seconds * 1000) / 1000 <= most:
        raise _bad(field, f"{seconds!a:.40} is out of range; it is {least:g} to {most:,.0f} seconds")
    return round(seconds * 1000)


def _bad(field: str, why: str, code: str = "bad-parameter") -> BadRequest:
    return BadRequest(f"{field}: {why}.", code=code, parameter=field)
