"""Damage in the write-ahead log: SQLite drops what is behind it in silence, and we don't let that pass.

The rule that runs through these tests: either SQLite shows every commit there was, or damage_of_log says why not.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage import CUT_SHORT_FACT, Batch, FolderUnusable, SqliteEngine
from storage.sqlite.folder import CUT_LOG_NAME
from storage.sqlite.log_inspection import damage_of_log
from tests.storage.children import batch_number

ROOT = Path(__file__).parents[2]
BATCHES = 20
HEADER, FRAME_HEADER, PAGE = 32, 24, 4096
FRAME = FRAME_HEADER + PAGE
FIELDS = {"page number": 0, "size": 4, "salts": 8, "checksum": 16, "page": FRAME_HEADER}

DATABASE, LOG = "kvstore.db", "kvstore.db-wal"


class Log:
    """A log and the database under it, as a killed process left them; and what SQLite makes of a changed log."""

    def __init__(self, database: bytes, log: bytes, scratch: Path, page_bytes: int = PAGE) -> None:
        self.database, self.content, self._scratch, self._names = database, log, scratch, count()
        self.frame = FRAME_HEADER + page_bytes
        heads = [log[start : start + FRAME_HEADER] for start in range(HEADER, len(log) - self.frame + 1, self.frame)]
        own = [head for head in heads if head[8:16] == log[16:24]]
        assert own == heads[: len(own)]
        self.frames = len(own)
        self.commits = [place for place, head in enumerate(own) if head[4:8] != bytes(4)]

    @property
    def last_begins(self) -> int:
        """The first frame of the last transaction."""
        return self.commits[-2] + 1

    def at(self, frame: int, offset: int = 0) -> int:
        return HEADER + frame * self.frame + offset

    def flipped(self, byte: int, bit: int = 0) -> bytes:
        changed = bytearray(self.content)
        changed[byte] ^= 1 << bit
        return bytes(changed)

    def overwritten(self, start: int, content: bytes) -> bytes:
        return self.content[:start] + content + self.content[start + len(content) :]

    def commits_shown(self, log: bytes) -> int:
        """How many commits SQLite shows with this log; 0 where there is not even a table."""
        folder = self._scratch / str(next(self._names))
        folder.mkdir()
        (folder / DATABASE).write_bytes(self.database)
        (folder / LOG).write_bytes(log)
        connection = sqlite3.connect(folder / DATABASE)
        try:
            return int(connection.execute("SELECT commit_sequence FROM folder").fetchone()[0])
        finally:
            connection.close()
            shutil.rmtree(folder)

    def check(self, log: bytes, everything: int = BATCHES) -> str | None:
        """What is said of the log, after seeing that it is said if and only if commits are gone."""
        shown, said = self.commits_shown(log), damage_of_log(log)
        assert (shown < everything) == (said is not None), (shown, said)
        return said


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 20 batches, all acknowledged and all in the log alone, whose process was killed."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.storage.children", "write-and-hold", str(folder), str(BATCHES)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == f"written {BATCHES}\n"
        finally:
            child.kill()
    return folder


@pytest.fixture(scope="module")
def log(killed: Path, tmp_path_factory: pytest.TempPathFactory) -> Log:
    read = Log((killed / DATABASE).read_bytes(), (killed / LOG).read_bytes(), tmp_path_factory.mktemp("scratch"))
    assert len(read.commits) == BATCHES
    assert read.commits[-1] == read.frames - 1
    assert read.frames > 3 * BATCHES, "transactions have a beginning, a middle and an end"
    return read


# Sound logs.


def test_a_sound_log_an_empty_one_and_a_header_alone(log: Log) -> None:
    assert log.check(log.content) is None
    for size in (0, 1, HEADER - 1, HEADER, HEADER + 1, HEADER + FRAME - 1):
        assert damage_of_log(log.content[:size]) is None


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_torn_end_is_no_damage(log: Log, data: st.DataObject) -> None:
    """The file ends anywhere in the last transaction, or is zeros from there on, as far as it had grown."""
    cut = data.draw(st.integers(log.at(log.last_begins), len(log.content) - 1))
    zeros = data.draw(st.integers(0, len(log.content) - cut))
    torn = log.content[:cut] + bytes(zeros)
    if torn == log.content:  # it ended in zeros anyway
        return
    assert log.check(torn, BATCHES - 1) is None


@pytest.mark.parametrize("torn", ["whole frame", "page"])
def test_a_last_frame_of_zeros_is_no_damage(log: Log, torn: str) -> None:
    start = log.at(log.frames - 1, 0 if torn == "whole frame" else FRAME_HEADER)
    assert log.check(log.overwritten(start, bytes(log.at(log.frames) - start)), BATCHES - 1) is None


def test_a_lost_page_of_the_systems_cache_in_the_last_transaction_is_no_damage(log: Log) -> None:
    """A power cut loses it while all around it arrives: it lies across two frames."""
    begin, end = log.at(log.last_begins + 1), log.at(log.frames - 1)
    pages = [start for start in range(0, len(log.content), PAGE) if begin <= start <= end - PAGE - FRAME_HEADER]
    assert pages
    for start in pages:
        assert log.check(log.overwritten(start, bytes(PAGE)), BATCHES - 1) is None


@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_flipped_bits_in_a_transaction_that_has_no_end_are_no_damage(log: Log, byte_order: str) -> None:
    """Nobody was told of it, whatever it holds; a bit that makes a frame look like a commit included."""
    log = rechained(log, {}, byte_order)
    unfinished = log.content[: log.at(log.frames - 1)]
    for frame in range(log.last_begins, log.frames - 1):
        for offset in (0, 3, 4, 5, 6, 7, 8, 15, 16, 23, 24, 25):
            changed = bytearray(unfinished)
            changed[log.at(frame, offset)] ^= 0x10
            assert log.check(bytes(changed), BATCHES - 1) is None


# One flipped bit.


def test_every_bit_of_the_header(log: Log) -> None:
    for byte in range(HEADER):
        for bit in range(8):
            said = log.check(log.flipped(byte, bit))
            assert said is not None
            assert f"its header has changed on disk, and with it at least {BATCHES} transactions" in said


@pytest.mark.parametrize("where", ["first frame", "middle", "commit", "begin of the last", "last"])
def test_bits_of_every_field_of_a_frame(log: Log, where: str) -> None:
    middle = log.commits[BATCHES // 2]
    frame = {
        "first frame": 0,
        "middle": middle - 1,
        "commit": middle,
        "begin of the last": log.last_begins,
        "last": log.frames - 1,
    }[where]
    lost = sum(commit >= frame for commit in log.commits)
    for bit in range(0, 8 * FRAME_HEADER, 3):
        said = log.check(log.flipped(log.at(frame, bit // 8), bit % 8))
        assert said is not None
        assert f"frame {frame + 1} of {log.frames} " in said
        assert f"at least {lost} transaction" in said


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bit_of_the_log(log: Log, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(log.content) - 1))
    assert log.check(log.flipped(bit // 8, bit % 8)) is not None


def test_a_size_field_that_lost_its_only_bit_no_longer_marks_a_commit_and_is_understood(log: Log) -> None:
    """A commit frame that looks like none, at the end of a log: the bit that explains its checksum says what it was."""
    field = log.at(log.frames - 1, FIELDS["size"])
    pages = int.from_bytes(log.content[field : field + 4], "big")
    of_a_power = rechained(log, {log.frames - 1: 1 << pages.bit_length()})
    assert log.check(of_a_power.content) is None
    said = log.check(of_a_power.overwritten(field, bytes(4)))
    assert said is not None
    assert "one bit of its size of the database" in said


# More than a bit.


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def test_two_flipped_bits_in_the_last_transaction(log: Log) -> None:
    for field in FIELDS.values():
        for other in FIELDS.values():
            changed = bytearray(log.flipped(log.at(log.last_begins, field)))
            changed[log.at(log.last_begins + 2, other)] ^= 0x20
            assert log.check(bytes(changed)) is not None


def test_a_flipped_bit_of_a_checksum_costs_no_other_frame(log: Log) -> None:
    """So that one lost frame beside it is still one."""
    assert log.frames - log.last_begins > 4
    changed = bytearray(log.flipped(log.at(log.last_begins, FIELDS["checksum"] + 4)))
    changed[log.at(log.last_begins + 3, FRAME_HEADER) : log.at(log.last_begins + 3, FRAME_HEADER + 100)] = noise(100)
    assert log.check(bytes(changed)) is not None


def test_a_lost_checksum_in_the_last_transaction(log: Log) -> None:
    """The frame behind it goes on from what it should have been."""
    for frame in range(log.last_begins, log.frames - 1):
        assert log.check(log.overwritten(log.at(frame, FIELDS["checksum"]), noise(8))) is not None


@pytest.mark.parametrize("size", [1, 4, 512, PAGE])
def test_a_piece_of_a_page_in_front_of_a_later_commit(log: Log, size: int) -> None:
    for frame in (0, log.commits[5], log.commits[5] + 1, log.last_begins - 1):
        assert log.check(log.overwritten(log.at(frame, FRAME_HEADER), noise(size))) is not None


def test_many_frames_in_front_of_a_later_commit(log: Log) -> None:
    start = log.at(log.commits[2] + 1)
    for end in (log.commits[3], log.commits[4], log.commits[10], log.last_begins - 1):
        assert log.check(log.overwritten(start, noise(log.at(end) - start))) is not None


def test_a_header_that_is_lost_altogether(log: Log) -> None:
    for lost in (bytes(HEADER), noise(HEADER)):
        assert log.check(log.overwritten(0, lost)) is not None


def test_a_rotten_commit_in_front_of_a_transaction_that_has_no_end(log: Log) -> None:
    """The frame behind it proves that it was synced."""
    unfinished = log.content[: log.at(log.last_begins + 1)]
    rotten = bytearray(unfinished)
    start = log.at(log.commits[-2], FRAME_HEADER)
    rotten[start : start + 100] = noise(100)
    assert log.check(unfinished, BATCHES - 1) is None
    said = log.check(bytes(rotten), BATCHES - 1)
    assert said is not None
    assert "at least 1 transaction " in said


def test_one_lost_frame_in_a_last_transaction_that_is_whole_otherwise_is_taken_for_damage(log: Log) -> None:
    """It may be a torn sector as well. A needless recovery costs time, amnesia costs data."""
    for frame in range(log.last_begins, log.frames - 1):
        assert log.check(log.overwritten(log.at(frame, FRAME_HEADER), noise(512))) is not None


# Logs that were used again.


def database_of(folder: Path, page_bytes: int = PAGE) -> sqlite3.Connection:
    """A database that counts its commits as ours does, and is told when to checkpoint."""
    connection = sqlite3.connect(folder / DATABASE, isolation_level=None)
    for pragma in (f"page_size = {page_bytes}", "journal_mode = wal", "synchronous = 2", "wal_autocheckpoint = 0"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    connection.execute("CREATE TABLE folder (commit_sequence INTEGER NOT NULL)")
    connection.execute("CREATE TABLE pieces (content BLOB)")
    connection.execute("INSERT INTO folder VALUES (0)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return connection


def commit(connection: sqlite3.Connection, pieces: int) -> None:
    connection.execute("BEGIN")
    insert(connection, pieces)
    connection.execute("UPDATE folder SET commit_sequence = commit_sequence + 1")
    connection.execute("COMMIT")


def insert(connection: sqlite3.Connection, pieces: int) -> None:
    connection.executemany("INSERT INTO pieces VALUES (?)", [(noise(1000 + number),) for number in range(pieces)])


def log_of(folder: Path, page_bytes: int = PAGE) -> Log:
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return Log((folder / DATABASE).read_bytes(), (folder / LOG).read_bytes(), scratch, page_bytes)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = database_of(tmp_path)
    yield connection
    connection.close()


def test_frames_of_an_older_log_behind_the_newest(tmp_path: Path, connection: sqlite3.Connection) -> None:
    for _ in range(10):
        commit(connection, 5)
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    old = log_of(tmp_path)
    for _ in range(2):
        commit(connection, 5)
    log = log_of(tmp_path)
    assert log.frames < old.frames / 2
    assert len(log.content) == len(old.content)
    assert log.check(log.content, 12) is None
    for frame in range(log.frames, old.frames):
        for offset in (0, 7, 8, 16, 100):
            assert log.check(log.flipped(log.at(frame, offset)), 12) is None
    for frame in range(log.frames):
        for offset in (0, 7, 8, 16, 100):
            assert log.check(log.flipped(log.at(frame, offset)), 12) is not None
    only_header = log.content[:HEADER] + old.content[HEADER:]
    assert log.check(only_header, 10) is None, "a crash right after the log was begun anew"
    for bit in range(8 * HEADER):
        changed = bytearray(only_header)
        changed[bit // 8] ^= 1 << bit % 8
        assert log.check(bytes(changed), 10) is None, "with its header nothing is lost: all was checkpointed"


def test_what_a_power_cut_leaves_of_a_last_transaction_in_a_log_that_was_begun_anew(
    tmp_path: Path, connection: sqlite3.Connection
) -> None:
    """Two of its frames did not arrive: there are those of the older log, which agree among themselves."""
    for pieces in (1, 2, 1, 2, 1, 2, 1, 2):
        commit(connection, pieces)
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    old = log_of(tmp_path)
    commit(connection, 1)
    commit(connection, 60)
    log = log_of(tmp_path)
    assert log.frames - log.last_begins > 10
    with_commits = 0
    for frame in range(log.last_begins, min(log.frames, old.frames) - 2):
        torn = log.overwritten(log.at(frame), old.content[log.at(frame) : log.at(frame + 2)])
        with_commits += frame + 1 in old.commits
        assert log.check(torn, 9) is None
    assert with_commits


def test_what_an_undone_transaction_left_behind(tmp_path: Path, connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA cache_size = 10")
    commit(connection, 5)
    connection.execute("BEGIN")
    insert(connection, 500)
    connection.execute("ROLLBACK")
    spilled = len((tmp_path / LOG).read_bytes())
    log = Log((tmp_path / DATABASE).read_bytes(), (tmp_path / LOG).read_bytes(), tmp_path)
    assert log.frames > 50, "the cache was too small, so frames of it are in the log, with its salts"
    assert log.check(log.content, 1) is None
    commit(connection, 5)
    log = log_of(tmp_path)
    assert len(log.content) == spilled
    assert log.check(log.content, 2) is None
    for frame in range(log.commits[-1] + 1):
        assert log.check(log.flipped(log.at(frame, 50)), 2) is not None
    commit(connection, 400)  # spills too, and writes frames anew in their places
    log = log_of(tmp_path)
    assert log.check(log.content, 3) is None


@pytest.mark.parametrize("page_bytes", [512, 1024, 65536])
def test_pages_of_any_size(tmp_path: Path, page_bytes: int) -> None:
    connection = database_of(tmp_path, page_bytes)
    for _ in range(5):
        commit(connection, 2)
    log = log_of(tmp_path, page_bytes)
    assert log.check(log.content, 5) is None
    for byte in range(0, len(log.content), len(log.content) // 61):
        assert log.check(log.flipped(byte, byte % 8), 5) is not None
    assert log.check(log.overwritten(log.at(2, 0), noise(page_bytes)), 5) is not None
    connection.close()


def test_a_log_of_many_blocks_of_frames(tmp_path: Path, connection: sqlite3.Connection) -> None:
    """Frames are checksummed some hundreds at a time."""
    for _ in range(4):
        commit(connection, 1500)
    log = log_of(tmp_path)
    assert log.frames > 1500
    assert log.check(log.content, 4) is None
    for frame in (0, 511, 512, 513, 1023, 1024, log.frames - 2, log.frames - 1):
        assert log.check(log.flipped(log.at(frame, 1000)), 4) is not None


def rechained(log: Log, sizes: dict[int, int], byte_order: str = sys.byteorder) -> Log:
    """The same log with other sizes in some frames and all checksums made anew, word by word as the format says."""

    def checksum(content: bytes, before: tuple[int, int]) -> tuple[int, int]:
        s0, s1 = before
        words = struct.unpack(f"{'<' if byte_order == 'little' else '>'}{len(content) // 4}I", content)
        for place in range(0, len(words), 2):
            s0 = (s0 + words[place] + s1) % (1 << 32)
            s1 = (s1 + words[place + 1] + s0) % (1 << 32)
        return s0, s1

    header = struct.pack(">I", 0x377F0682 if byte_order == "little" else 0x377F0683) + log.content[4:24]
    before = checksum(header, (0, 0))
    made = bytearray(header + struct.pack(">II", *before))
    for frame in range(log.frames):
        start = log.at(frame)
        head, page = log.content[start : start + 16], log.content[start + FRAME_HEADER : start + log.frame]
        if frame in sizes:
            head = head[:4] + sizes[frame].to_bytes(4, "big") + head[8:]
        before = checksum(head[:8] + page, before)
        made += head + struct.pack(">II", *before) + page
    return Log(log.database, bytes(made), log._scratch)


@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_a_log_that_was_written_on_a_machine_of_either_byte_order(log: Log, byte_order: str) -> None:
    made = rechained(log, {}, byte_order)
    assert (made.content == log.content) == (byte_order == sys.byteorder)
    assert made.check(made.content) is None
    for byte in (0, 3, 17, 30, *range(HEADER, len(made.content), len(made.content) // 50)):
        assert made.check(made.flipped(byte, byte % 8)) is not None


# The engine.


def copy_with(killed: Path, folder: Path, log: bytes) -> Path:
    folder.mkdir()
    shutil.copy(killed / DATABASE, folder)
    (folder / LOG).write_bytes(log)
    return folder


async def test_the_engine_says_so_until_it_is_told_that_all_is_recovered(
    killed: Path, log: Log, tmp_path: Path
) -> None:
    folder = copy_with(killed, tmp_path / "data", log.flipped(log.at(log.commits[9], 100)))
    for restart in range(3):
        engine = SqliteEngine(folder)
        await engine.open()
        assert engine.commit_sequence == 9
        assert engine.was_cut_short is not None
        assert "at least 11 transactions" in engine.was_cut_short
        assert await engine.load(list(batch_number(9).states)) == batch_number(9).states
        assert not (folder / CUT_LOG_NAME).exists(), "it is a fact now"
        if restart < 2:
            await engine.close()
    await engine.write(Batch(facts={CUT_SHORT_FACT: b""}))
    assert engine.was_cut_short is None
    await engine.close()
    engine = SqliteEngine(folder)
    await engine.open()
    assert engine.was_cut_short is None
    await engine.close()


async def test_what_was_found_outlasts_a_crash_before_it_is_a_fact(killed: Path, log: Log, tmp_path: Path) -> None:
    """The proof in the log may be overwritten by then."""
    folder = copy_with(killed, tmp_path / "data", log.content)
    (folder / CUT_LOG_NAME).write_text("found before the crash")
    engine = SqliteEngine(folder)
    await engine.open()
    assert engine.was_cut_short == "found before the crash"
    await engine.close()
    assert not (folder / CUT_LOG_NAME).exists()


async def test_a_sound_log_is_taken_over_and_emptied(killed: Path, log: Log, tmp_path: Path) -> None:
    """So that what a torn end leaves behind never comes to lie behind a shorter transaction, and looks like damage."""
    torn = log.overwritten(log.at(log.last_begins), bytes(FRAME))  # its first frame was lost in a power cut
    folder = copy_with(killed, tmp_path / "data", torn)
    for expected in (BATCHES - 1, BATCHES):
        engine = SqliteEngine(folder)
        await engine.open()
        assert engine.was_cut_short is None
        assert engine.commit_sequence == expected
        assert (folder / LOG).stat().st_size == 0
        await engine.write(Batch(facts={"short": b"transaction"}))
        assert damage_of_log((folder / LOG).read_bytes()) is None
        left = {name: (folder / name).read_bytes() for name in (DATABASE, LOG)}
        await engine.close()
        for name, content in left.items():  # as if it had been killed
            (folder / name).write_bytes(content)


async def left_by_a_crash(folder: Path, *, checkpointed: bool) -> Log:
    """99 batches in the database, then 60 in the log, which may be copied into the database as well."""
    engine = SqliteEngine(folder)
    await engine.open()
    for number in range(1, 100):
        await engine.write(batch_number(number))
    await engine.close()
    engine = SqliteEngine(folder)
    await engine.open()
    for number in range(100, 160):
        await engine.write(batch_number(number))

    def files() -> dict[str, bytes]:
        connection = engine._writer._connection
        assert connection is not None
        if checkpointed:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return {name: (folder / name).read_bytes() for name in (DATABASE, LOG)}

    left = await engine._in_thread(files)
    await engine.close()
    for name, content in left.items():
        (folder / name).write_bytes(content)
    log = log_of(folder)
    assert log.check(log.content, 159) is None
    return log


async def test_a_database_that_no_longer_fits_what_is_left_of_its_log_is_refused(tmp_path: Path) -> None:
    """It had been checkpointed, so what the log still has is older than what surrounds it."""
    folder = tmp_path / "data"
    log = await left_by_a_crash(folder, checkpointed=True)
    (folder / LOG).write_bytes(log.flipped(log.at(log.commits[4] + 1, 100)))
    for _ in range(2):
        with pytest.raises(FolderUnusable, match=r"(?s)was cut short.*does not fit the database.*start with a new one"):
            await SqliteEngine(folder).open()


def complaint_about(database: Path) -> str:
    connection = sqlite3.connect(database)
    try:
        return str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    finally:
        connection.close()


async def test_indexes_that_do_not_fit_when_a_log_was_cut_are_made_anew(tmp_path: Path) -> None:
    copy, folder = tmp_path / "copy", tmp_path / "data"
    log = await left_by_a_crash(folder, checkpointed=False)
    content = bytearray((folder / DATABASE).read_bytes())
    index_leaf = 0x0A
    places = [place for place in range(len(content)) if content.startswith(b"77/3", place)]
    (in_index,) = [place for place in places if content[place // PAGE * PAGE] == index_leaf]
    content[in_index + 3] ^= 1
    (folder / DATABASE).write_bytes(content)
    (folder / LOG).write_bytes(log.flipped(log.at(0, 100)))
    shutil.copytree(folder, copy)
    assert complaint_about(copy / DATABASE) != "ok"
    engine = SqliteEngine(folder)
    await engine.open()
    assert engine.was_cut_short is not None
    assert engine.commit_sequence == 99
    keys = [key for key in batch_number(77).states if key != b"last"]
    assert await engine.load(keys) == {key: batch_number(77).states[key] for key in keys}
    await engine.close()
    assert complaint_about(folder / DATABASE) == "ok"
