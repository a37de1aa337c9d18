"""Keys and names in paths, texts in queries: strict percent-decoding, so that two spellings never quietly mean one key.

Lax decoders leave `%zz` and `%ff` as they are: then `%ff` and `%25ff` are one key, and a key is changed on its way.
"""

from __future__ import annotations

from cluster.locks.lock_state import NAME_BYTES_MAX
from cluster.protocol.messages import KEY_BYTES_MAX
from kvstore.http.outgoing.problems import Problem

_DIGITS = "0123456789abcdefABCDEF"
_BYTE_OF = {(high + low).encode(): bytes([int(high + low, 16)]) for high in _DIGITS for low in _DIGITS}
_PATTERN = "a key is 1 to 1,024 bytes of UTF-8 without NUL"


def decode_key(raw: str) -> bytes:
    """The key that the rest of a request's path names. Raises Problem bad-key."""
    if raw.isascii() and "%" not in raw and "#" not in raw:
        key = raw.encode()
        if 0 < len(key) <= KEY_BYTES_MAX:
            return key
    try:
        return checked_key(percent_decode(raw))
    except ValueError as fault:
        raise Problem("bad-key", f"{fault}; {_PATTERN}") from None


def decode_name(raw: str) -> str:
    """The lock, vote or election that the rest of a request's path names. Raises Problem bad-key."""
    try:
        return checked_name(percent_decode(raw))
    except ValueError as fault:
        raise Problem("bad-key", f"{fault}; a name is 1 to {NAME_BYTES_MAX} bytes of UTF-8 without NUL") from None


def checked_name(name: bytes) -> str:
    """The name as text, if it is one. Raises ValueError."""
    if not name:
        raise ValueError("the name is empty")
    if len(name) > NAME_BYTES_MAX:
        raise ValueError(f"the name has {len(name):,} bytes")
    return checked_text(name).decode()


def checked_key(key: bytes) -> bytes:
    """The key itself, if it is one. Raises ValueError."""
    if not key:
        raise ValueError("the key is empty")
    if len(key) > KEY_BYTES_MAX:
        raise ValueError(f"the key has {len(key):,} bytes")
    return checked_text(key)


def checked_text(text: bytes) -> bytes:
    """The bytes themselves, if they are UTF-8 without NUL. Raises ValueError."""
    if b"\0" in text:
        raise ValueError("there is a NUL in it")
    try:
        text.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    return text


def percent_decode(raw: str) -> bytes:
    """The bytes that the text stands for; a plus is a plus. Raises ValueError for an escape that is none."""
    if "#" in raw:
        raise ValueError("'#' must be written as %23")
    first, *rest = raw.encode("utf-8", "surrogateescape").split(b"%")
    try:
        return b"".join([first, *[_BYTE_OF[part[:2]] + part[2:] for part in rest]])
    except KeyError as bad:
        escape = b"%" + bad.args[0]
        raise ValueError(f"{escape.decode('ascii', 'backslashreplace')} is no escape; write '%' as %25") from None
