"""Checksums of rows: what SQLite's own checks miss is a flipped bit inside a value, a ballot or a promise.

Two CRC-32s per row. One covers the value; the other, over everything else, covers the first and the value's
length too, so that a header can be verified without reading its value. All lengths and absences are in it: no part
can trade bytes with its neighbour, and an empty value is not a missing one.

CRC-32 finds every burst of up to 32 bits and is no defence against an intruder, who could write the checksum too.
"""

from __future__ import annotations

from struct import Struct
from zlib import crc32

_ABSENT = -1
_HEADER = Struct("<10q")
_HINT = Struct("<4q")
_LENGTH = Struct("<q")


def value_checksum(value: bytes | None) -> int:
    """The checksum of a value; 0 for none."""
    return 0 if value is None else crc32(value)


def header_checksum(
    key: bytes,
    promised: int,
    ballot: int,
    origin: int,
    weak: int,
    content_type: bytes,
    expires_at_ms: int,
    fences: bytes | None,
    checksum_of_value: int,
    value_size: int | None,
) -> int:
    """The checksum of a row without its value's bytes. Raises struct.error or TypeError for what no row may hold."""
    numbers = _HEADER.pack(
        promised,
        ballot,
        origin,
        weak,
        expires_at_ms,
        len(key),
        len(content_type),
        _ABSENT if fences is None else len(fences),
        _ABSENT if value_size is None else value_size,
        checksum_of_value,
    )
    return crc32(b"".join((numbers, key, content_type, fences or b"")))


def hint_checksum(number: int, targets: bytes, sole: int, checksum_of_record: int) -> int:
    """The checksum of what a hint says beside its record, and of its record's checksum."""
    return crc32(targets, crc32(_HINT.pack(number, sole, len(targets), checksum_of_record)))


def blob_checksum(number: int, content: bytes) -> int:
    """The checksum of numbered bytes: a chunk of the hash trees, an entry of their journal."""
    return crc32(content, crc32(_LENGTH.pack(number)))


def fact_checksum(name: str, value: bytes) -> int:
    """The checksum of a named fact."""
    encoded = name.encode()
    return crc32(b"".join((_LENGTH.pack(len(encoded)), encoded, value)))


def folder_checksum(incarnation: str, commit_sequence: int) -> int:
    """The checksum of what a folder says about itself."""
    return crc32(_LENGTH.pack(commit_sequence) + incarnation.encode())
