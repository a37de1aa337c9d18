"""What SQLite does not tell of its write-ahead log: whether it was cut short by damage. Pure: bytes in, a reason out.

When SQLite opens a log it takes frames until one does not verify, and drops the rest without a word. That is right
for a transaction that a crash interrupted, and amnesia when a bit has flipped in the middle: every commit behind it is
gone. Both look alike to SQLite. They do not here, because the frames behind the bad one are looked at too.

The format is https://sqlite.org/fileformat2.html#walformat : a header of 32 bytes, then frames, each a header of 24
bytes and a page. A frame belongs to this log if it carries the salts of the log's header. Its checksum covers the
first 8 bytes of its header and its page, and is chained: it goes on from the checksum of the frame before. Chained on
the checksum that is *stored* in the frame before, a frame verifies by itself, whatever happened further ahead.

A frame that does not verify is one of two kinds. If a single flipped bit explains it (of 33,000 bits one whose change
makes 64 bits of checksum right), then that is what happened, and what the frame said is known. Otherwise it is lost.

What counts as proof that a commit had been synced, so that somebody may have been told of it:

- a frame that verifies right behind a commit frame. The next transaction begins only when the one before it is synced;
- a last transaction that is all there up to its commit frame, but for single flipped bits. No crash does that;
- a last transaction that is all there, but for exactly one lost frame that is not its commit frame. This one is
  ambiguous: a power cut that tears a single sector while everything around it arrives does it too. It is rare (what a
  power cut loses is mostly a page of the system's cache, which is 4096 bytes, so with frames of 4120 bytes it lies
  across two of them), and we take it for damage: a needless recovery costs time, amnesia costs data.

Any other bad frame is the torn end of a transaction that nobody was told of.

All this presumes that a log holds what one process wrote: what is left behind a torn end, with the salts of the log,
would look like damage once something shorter was written over its beginning. The writer therefore empties the log
whenever it opens it. What transactions that were undone leave behind has no commit frame that verifies.

A log whose end is missing as if it had never been written can't be told from a shorter one; peers, who remember the
highest commit sequence, can.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

_HEADER = Struct(">IIII8sII")
_HEADER_BYTES = 32
_FRAME = Struct(">II8sII")
_FRAME_BYTES = 24
_MAGIC_LITTLE, _MAGIC_BIG = 0x377F0682, 0x377F0683
_FORMAT = 3_007_000
_PAGE_BYTES_USUAL = 4096
_PAGE_BYTES = [1 << power for power in range(9, 17)]
_MASK = 0xFFFF_FFFF

_FRAMES_PER_BLOCK = 512
"""Checksummed side by side, 2 MiB of a log: what a processor's cache holds."""
_STEPS_BETWEEN_MASKS = 8
"""Each step of the checksum grows a lane by at most 1.4 bits, and there are 32 to spare."""
_SEARCHES_MAX = 16
"""So many bad frames are searched for a flipped bit, at 10 ms each; more is no flipped bit."""

Checksum = tuple[int, int]


class _Header(NamedTuple):
    is_big_endian: bool
    """How the words under the checksums are read."""
    page_bytes: int
    salts: bytes
    checksum: Checksum


class _Condition(Enum):
    SOUND = "sound"
    MENDED = "mended"
    """One flipped bit explains it; what it said is known."""
    LOST = "lost"


class _Frame(NamedTuple):
    condition: _Condition
    is_own: bool
    """Whether it bears the salts of the log."""
    is_commit: bool
    """Whether a transaction ends with it: as it was where that is known, else as it says."""
    what: str
    """What is wrong with it."""

    @property
    def is_known(self) -> bool:
        """Whether it is certain that it was written to this log, behind the frame before it."""
        return self.condition is not _Condition.LOST


def damage_of_log(log: bytes) -> str | None:
    """Why SQLite will drop commits of this log that had been synced, as a sentence; None when it drops none.

    To be asked before SQLite opens the log: it may overwrite the proof with its first write. Takes some 50 ms for a
    log of 16 MiB.
    """
    if len(log) < _HEADER_BYTES + _FRAME_BYTES:
        return None
    header = _header_of(log[:_HEADER_BYTES])
    if header is not None:
        return _damage_of_frames(list(_frames_of(log, header)))
    for header in _headers_to_try(log):
        lost = sum(frame.is_commit and frame.is_known for frame in _frames_of(log, header))
        if lost:
            return _reason("its header has changed on disk", lost)
    return None


def _damage_of_frames(frames: Sequence[_Frame]) -> str | None:
    first = next((place for place, frame in enumerate(frames) if frame.condition is not _Condition.SOUND), None)
    if first is None or not (_is_proof_behind(frames[first:]) or _is_last_transaction_whole(frames[first:])):
        return None
    lost = sum(frame.is_commit and (frame.is_known or frame.is_own) for frame in frames[first:])
    return _reason(f"frame {first + 1} of {len(frames)} has changed on disk ({frames[first].what})", lost)


def _is_proof_behind(frames: Sequence[_Frame]) -> bool:
    """Whether a transaction goes on behind the end of another one."""
    return any(
        end.is_commit and (end.is_known or end.is_own) and beginning.is_known for end, beginning in pairwise(frames)
    )


def _is_last_transaction_whole(frames: Sequence[_Frame]) -> bool:
    """Whether all of a transaction is there up to its commit frame, but for one frame at most."""
    end = next((place for place, frame in enumerate(frames) if frame.is_commit and frame.is_known), None)
    return end is not None and sum(not frame.is_known for frame in frames[:end]) <= 1


def _reason(what: str, transactions: int) -> str:
    many = "1 transaction" if transactions == 1 else f"{transactions} transactions"
    return f"the write-ahead log was cut short: {what}, and with it at least {many} that had been on disk"


# The header.


def _header_of(head: bytes) -> _Header | None:
    """The header, if SQLite would accept it."""
    magic, version, page_bytes, _, salts, *stored = _HEADER.unpack(head)
    if magic not in (_MAGIC_LITTLE, _MAGIC_BIG) or version != _FORMAT or page_bytes not in _PAGE_BYTES:
        return None
    is_big_endian = magic == _MAGIC_BIG
    if _checksum_of_words(head[:24], is_big_endian) != tuple(stored):
        return None
    return _Header(is_big_endian, page_bytes, salts, (stored[0], stored[1]))


def _headers_to_try(log: bytes) -> Iterator[_Header]:
    """What the header may have said that SQLite would not accept: by one flipped bit, else as the first frame has it.

    More than one bit may do: one of the last salt shows in the checksum as one of the checksum itself.
    """
    head = log[:_HEADER_BYTES]
    by_one_bit = [_header_of(_with_flipped_bit(head, bit)) for bit in range(8 * _HEADER_BYTES)]
    yield from filter(None, by_one_bit)
    if any(by_one_bit):
        return
    magic, _, stated, _, _, *stored = _HEADER.unpack(head)
    is_big_endian = magic == _MAGIC_BIG or (magic != _MAGIC_LITTLE and sys.byteorder == "big")
    for page_bytes in dict.fromkeys([stated, _PAGE_BYTES_USUAL]):
        if page_bytes in _PAGE_BYTES:
            salts = log[_HEADER_BYTES + 8 : _HEADER_BYTES + 16]  # the first frame's
            yield _Header(is_big_endian, page_bytes, salts, (stored[0], stored[1]))


def _with_flipped_bit(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _checksum_of_words(content: bytes, is_big_endian: bool) -> Checksum:
    s0 = s1 = 0
    for first, second in Struct(">II" if is_big_endian else "<II").iter_unpack(content):
        s0 = (s0 + first + s1) & _MASK
        s1 = (s1 + second + s0) & _MASK
    return s0, s1


# The frames.


def _frames_of(log: bytes, header: _Header) -> Iterator[_Frame]:
    """All frames up to the last one that bears the salts of the log, and the one behind it."""
    size = _FRAME_BYTES + header.page_bytes
    heads = [_FRAME.unpack_from(log, start) for start in range(_HEADER_BYTES, len(log) - size + 1, size)]
    own = [place for place, head in enumerate(heads) if head[2] == header.salts]
    heads = heads[: own[-1] + 2 if own else 1]
    chain = _Chain(header.page_bytes)
    befores = [header.checksum]
    """What the checksum of the frame before may have been: where it is lost, what it says and what it should say."""
    was_own, searched = True, 0
    parts = _checksums_from_zero(log, header, len(heads))
    for place, ((_, database_pages, salts, *found), part) in enumerate(zip(heads, parts, strict=True)):
        stored = found[0], found[1]
        is_own = salts == header.salts
        computed = [chain.go_on(before, part) for before in befores]
        frame = _Frame(_Condition.LOST, is_own, database_pages != 0, "its checksum does not match")
        befores = [stored, computed[0]]
        if stored in computed and (is_own or was_own):
            befores = [stored]
            condition = _Condition.SOUND if is_own else _Condition.MENDED
            frame = _Frame(condition, is_own, database_pages != 0, "its salts do not match")
        elif is_own and (near := [one for one in computed if _bits_apart(one, stored) == 1]):
            befores = near
            frame = _Frame(_Condition.MENDED, True, database_pages != 0, "one bit of its checksum")
        elif is_own and searched < _SEARCHES_MAX:
            searched += 1
            start = _HEADER_BYTES + place * size
            covered = log[start : start + 8] + log[start + _FRAME_BYTES : start + size]
            bit = chain.flipped_bit(covered, header.is_big_endian, computed, stored)
            if bit is not None:
                befores = [stored]
                pages = _with_flipped_bit(covered, bit)[4:8]
                where = "page number" if bit < 32 else "size of the database" if bit < 64 else "page"
                frame = _Frame(_Condition.MENDED, True, any(pages), f"one bit of its {where}")
        was_own = is_own or frame.is_known
        yield frame


def _bits_apart(one: Checksum, other: Checksum) -> int:
    return (one[0] ^ other[0]).bit_count() + (one[1] ^ other[1]).bit_count()


# The checksum. A step takes two words: s0 += first + s1; s1 += second + s0. That is linear, modulo 2^32: the
# checksum of a frame is its own part, computed from zero, plus the checksum before it times a constant matrix.

_STEP = (1, 1, 1, 2)


def _times(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    return (
        (a[0] * b[0] + a[1] * b[2]) & _MASK,
        (a[0] * b[1] + a[1] * b[3]) & _MASK,
        (a[2] * b[0] + a[3] * b[2]) & _MASK,
        (a[2] * b[1] + a[3] * b[3]) & _MASK,
    )


class _Chain:
    """How the checksum of a frame follows from the one before it, for one size of page."""

    def __init__(self, page_bytes: int) -> None:
        powers = [(1, 0, 0, 1)]
        for _ in range(1 + page_bytes // 8):
            powers.append(_times(powers[-1], _STEP))
        self._over_frame = powers.pop()
        self._weights = [
            weight for a, b, c, d in reversed(powers) for weight in (((a + b) & _MASK, (c + d) & _MASK), (b, d))
        ]
        """By how much each word counts in the two sums."""

    def go_on(self, before: Checksum, part: Checksum) -> Checksum:
        """The checksum of a frame whose own part is this, behind that of the frame before."""
        a, b, c, d = self._over_frame
        return (a * before[0] + b * before[1] + part[0]) & _MASK, (c * before[0] + d * before[1] + part[1]) & _MASK

    def flipped_bit(
        self, covered: bytes, is_big_endian: bool, computed: Sequence[Checksum], stored: Checksum
    ) -> int | None:
        """The one bit of what a checksum covers whose change makes one of the computed the stored one."""
        words = Struct(f"{'>' if is_big_endian else '<'}{len(covered) // 4}I").unpack(covered)
        for one in computed:
            if_set = (one[0] - stored[0]) & _MASK, (one[1] - stored[1]) & _MASK
            if_clear = -if_set[0] & _MASK, -if_set[1] & _MASK
            for place, ((in_first, in_second), word) in enumerate(zip(self._weights, words, strict=True)):
                for bit in range(32):
                    wanted = if_set if word >> bit & 1 else if_clear
                    if in_first << bit & _MASK == wanted[0] and in_second << bit & _MASK == wanted[1]:
                        byte = 3 - bit // 8 if is_big_endian else bit // 8
                        return 32 * place + 8 * byte + bit % 8
        return None


def _checksums_from_zero(log: bytes, header: _Header, count: int) -> Iterator[Checksum]:
    """The own part of the checksum of each of the first frames."""
    pairs = (_FRAME_BYTES + header.page_bytes) // 8
    view = memoryview(log)
    for start in range(0, count, _FRAMES_PER_BLOCK):
        lanes = min(_FRAMES_PER_BLOCK, count - start)
        begin = _HEADER_BYTES + start * pairs * 8
        words = array("I", view[begin : begin + lanes * pairs * 8].tobytes())
        if header.is_big_endian:
            words.byteswap()
        yield from _checksums_of_block(array("Q", words.tobytes()), pairs, lanes)


def _checksums_of_block(block: array[int], pairs: int, lanes: int) -> Iterator[Checksum]:
    """All frames of a block side by side, each in its 64 bits of one large integer.

    Ten times as fast as word by word: Python has nothing quicker than the arithmetic of its integers.
    """
    low = int.from_bytes(b"\xff\xff\xff\xff\0\0\0\0" * lanes, "little")
    s0 = s1 = 0
    for step, place in enumerate((0, *range(3, pairs))):  # all but the salts and the checksum
        both = int.from_bytes(block[place::pairs].tobytes(), "little")
        first = both & low
        s0 += first + s1
        s1 += ((both ^ first) >> 32) + s0
        if step % _STEPS_BETWEEN_MASKS == 0:
            s0 &= low
            s1 &= low
    sums = [Struct(f"<{lanes}Q").unpack((total & low).to_bytes(8 * lanes, "little")) for total in (s0, s1)]
    return zip(*sums, strict=True)
