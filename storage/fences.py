"""The fences of a key: lock name -> the highest number seen of it.

They only grow: two sets of them are joined lock by lock, by maximum, and that is all that ever happens to them. So it
does not matter in which order, nor how often, they are joined: what every replica has been told, all end up with.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import msgspec

Fences = dict[str, int]

DIGEST_BYTES = 8
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Fences).decode


def joined(some: Fences | None, others: Fences | None) -> Fences | None:
    """Of each lock the higher number; `some` itself (`is`) where the others add nothing to it."""
    if not others:
        return some
    if not some:
        return others
    news = {lock: number for lock, number in others.items() if number > some.get(lock, -1)}
    return some | news if news else some


def pack(fences: Mapping[str, int]) -> bytes:
    """As they stand in a column of the database: equal fences are equal bytes."""
    return _pack(dict(sorted(fences.items())))


def unpack(packed: bytes) -> Fences:
    """The fences of pack(). Raises msgspec.MsgspecError for what no pack() gives."""
    return _unpack(packed)


def digest_of(fences: Mapping[str, int] | None) -> int:
    """64 bits that stand for these fences, the same on every node; 0 for none."""
    return digest_of_packed(pack(fences)) if fences else 0


def digest_of_packed(packed: bytes | None) -> int:
    """The same of fences as they are packed."""
    if packed is None:
        return 0
    return int.from_bytes(blake2b(packed, digest_size=DIGEST_BYTES).digest(), "big") or 1
