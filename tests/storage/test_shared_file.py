"""The shared file: what it refuses, what it notices, and what is left of it when processes are killed."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage import DiskFull, Record, SqliteEngine
from storage.shared_file import schema
from storage.shared_file.errors import EntryDamaged, FileBusy, FileUnusable
from storage.shared_file.file import SharedFile
from storage.shared_file.places import network_in
from storage.shared_file.rows import Cell
from storage.shared_file.transaction import Writing

ROOT = Path(__file__).parents[2]
NOW_MS = 1_800_000_000_000

Work = Callable[[Writing], int]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


@pytest.fixture
def file(path: Path) -> Iterator[SharedFile]:
    shared = SharedFile(path)
    yield shared
    shared.close()


def putting(key: bytes, value: bytes | None, now_ms: int = NOW_MS, fences: dict[str, int] | None = None) -> Work:
    def work(file: Writing) -> int:
        version = file.next_version(now_ms)
        file.put(key, Record(version, version, False, value, "text/plain", 0, fences))
        return version

    return work


def value_at(file: SharedFile, key: bytes) -> bytes | None:
    record = file.read(lambda reading: reading.entry(key))
    return None if record is None else record.value


# -- what it refuses -----------------------------------------------------------------------------------------------


def everything_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {one.name: (one.read_bytes(), one.stat().st_mtime_ns) for one in folder.iterdir()}


def refused(path: Path) -> str:
    before = everything_in(path.parent)
    with pytest.raises(FileUnusable, match="nothing was touched") as refusal:
        SharedFile(path).write(putting(b"a", b"1"))
    assert everything_in(path.parent) == before
    return str(refusal.value)


async def test_a_nodes_database_is_refused_untouched(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path)
    await engine.open()
    await engine.close()
    assert "a node's" in refused(tmp_path / "kvstore.db")


def test_another_programs_database_is_refused_untouched_even_with_a_log(path: Path) -> None:
    stranger = sqlite3.connect(path, isolation_level=None)
    stranger.execute("PRAGMA journal_mode = wal")
    stranger.execute("CREATE TABLE theirs (x)")
    stranger.execute("INSERT INTO theirs VALUES (1)")
    assert "another program's" in refused(path)
    stranger.close()
    assert "another program's" in refused(path)


@pytest.mark.parametrize("content", [b"a letter to a friend", b"\0" * 5_000])
def test_a_file_that_is_no_database_is_refused_untouched(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "no database of this program's" in refused(path)


def test_a_newer_schema_is_refused_untouched(file: SharedFile, path: Path) -> None:
    file.write(putting(b"a", b"1"))
    file.close()
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    newer.close()
    assert "newer program" in refused(path)


def test_a_place_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileUnusable, match="does not exist"):
        SharedFile(tmp_path / "nowhere" / "app.db").read(lambda _: None)


def test_a_network_file_system_is_recognised() -> None:
    mounts = (
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        "30 21 0:40 / /mnt/team\\040files rw,relatime shared:1 - nfs4 server:/x rw\n"
        "31 30 8:2 / /mnt/team\\040files/local rw - xfs /dev/sdb rw\n"
        "32 21 0:41 / /home/me/far rw - fuse.sshfs me@far: rw\n"
    )
    assert network_in(mounts, "/mnt/team files/app.db") == "nfs4"
    assert network_in(mounts, "/home/me/far/app.db") == "fuse.sshfs"
    assert network_in(mounts, "/mnt/team files/local/app.db") is None
    assert network_in(mounts, "/mnt/team files 2/app.db") is None
    assert network_in("", "/app.db") is None


def test_a_file_that_was_removed_or_replaced_is_not_written_into_the_void(file: SharedFile, path: Path) -> None:
    file.write(putting(b"a", b"1"))
    path.unlink()
    for _ in range(2):
        with pytest.raises(FileUnusable, match="removed or replaced"):
            file.write(putting(b"a", b"2"))
    assert not path.exists(), "nor is a new one begun without a word"
    other = SharedFile(path)
    other.write(putting(b"b", b"1"))
    with pytest.raises(FileUnusable, match="removed or replaced"):
        file.read(lambda reading: reading.entry(b"a"))
    other.close()


def test_a_file_that_another_program_sets_to_a_log_is_not_written_until_it_is_set_back(
    file: SharedFile, path: Path
) -> None:
    file.write(putting(b"a", b"1"))
    meddler = sqlite3.connect(path, isolation_level=None)
    assert meddler.execute("PRAGMA journal_mode = wal").fetchone() == ("wal",)
    with pytest.raises(FileUnusable, match="journal mode wal"):
        file.write(putting(b"a", b"2"))
    meddler.close()
    file.close()
    again = SharedFile(path)
    again.write(putting(b"a", b"3"))
    assert value_at(again, b"a") == b"3"
    again.close()


def test_after_close_nothing_is_done(file: SharedFile) -> None:
    file.write(putting(b"a", b"1"))
    file.close()
    file.close()
    with pytest.raises(FileUnusable, match="was closed"):
        value_at(file, b"a")


# -- transactions --------------------------------------------------------------------------------------------------


def test_versions_grow_though_clocks_go_back_keys_are_deleted_and_the_file_is_opened_anew(path: Path) -> None:
    given = []
    for now_ms in (NOW_MS, NOW_MS - 10_000, 0, NOW_MS + 5, 1 << 62, NOW_MS):
        file = SharedFile(path)
        given += [file.write(putting(b"a", value, now_ms)) for value in (b"1", None, b"2")]
        file.close()
    assert given == sorted(set(given))


def test_what_raises_is_undone(file: SharedFile) -> None:
    file.write(putting(b"a", b"1"))

    def work(writing: Writing) -> int:
        putting(b"a", b"2")(writing)
        raise LookupError("on second thoughts")

    with pytest.raises(LookupError):
        file.write(work)
    assert value_at(file, b"a") == b"1"
    assert file.write(putting(b"b", b"3"))


def test_who_comes_while_another_writes_is_told_busy_and_changes_nothing(file: SharedFile, path: Path) -> None:
    file.write(putting(b"a", b"1"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(FileBusy, match="nothing was read or written"):
        file.write(putting(b"a", b"2"))
    assert value_at(file, b"a") == b"1", "reading goes on until the other commits"
    other.execute("ROLLBACK")
    file.write(putting(b"a", b"2"))
    other.close()


def test_a_commit_that_readers_hold_up_is_undone(file: SharedFile, path: Path) -> None:
    file.write(putting(b"a", b"1"))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM entries").fetchone()
    with pytest.raises(FileBusy):
        file.write(putting(b"a", b"2"))
    reader.execute("ROLLBACK")
    assert value_at(file, b"a") == b"1"
    file.write(putting(b"a", b"3"))
    reader.close()


def test_a_full_disk_is_told_and_leaves_nothing(file: SharedFile) -> None:
    file.write(putting(b"a", b"1"))
    connection = file._connection
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(DiskFull, match="nothing was written"):
        file.write(putting(b"large", b"." * 100_000))
    assert value_at(file, b"a") == b"1"
    assert value_at(file, b"large") is None
    file.write(putting(b"a", b"2"))


def test_a_key_that_is_deleted_keeps_its_fences_and_others_keep_nothing(file: SharedFile, path: Path) -> None:
    file.write(putting(b"fenced", None, fences={"lock": 7}))
    file.write(putting(b"plain", b"1"))
    file.write(putting(b"plain", None))
    assert file.read(lambda reading: reading.entry(b"plain")) is None
    record = file.read(lambda reading: reading.entry(b"fenced"))
    assert record is not None
    assert (record.value, record.fences) == (None, {"lock": 7})
    assert file.read(lambda reading: reading.scan(b"", None, 10, True, 1 << 20)) == ([], True)


def test_a_scan_goes_by_bytes_and_stops_where_it_is_told_to(file: SharedFile) -> None:
    for key in (b"b", b"a/2", b"a/1", "ä".encode(), b"a0"):
        file.write(putting(key, b"123"))
    scan = file.read(lambda reading: reading.scan(b"a/", b"a0", 10, False, 0))
    assert ([one.key for one in scan[0]], scan[1]) == ([b"a/1", b"a/2"], True)
    scan = file.read(lambda reading: reading.scan(b"", None, 2, False, 0))
    assert ([one.key for one in scan[0]], scan[1]) == ([b"a/1", b"a/2"], False)
    scan = file.read(lambda reading: reading.scan(b"", None, 10, True, 4))
    assert ([(one.key, one.record.value) for one in scan[0]], scan[1]) == ([(b"a/1", b"123"), (b"a/2", b"123")], False)
    scan = file.read(lambda reading: reading.scan(b"a0", None, 3, True, 100))
    assert ([one.key for one in scan[0]], scan[1]) == ([b"a0", b"b", "ä".encode()], True)


# -- what has rotted -----------------------------------------------------------------------------------------------


def meddle(path: Path, sql: str) -> None:
    meddler = sqlite3.connect(path)
    meddler.execute(sql)
    meddler.commit()
    meddler.close()


def test_a_rotten_value_is_an_error_for_who_reads_it_and_may_be_written_over(file: SharedFile, path: Path) -> None:
    file.write(putting(b"a", b"1", fences={"lock": 3}))
    file.write(putting(b"b", b"2"))
    meddle(path, "UPDATE entries SET value = x'39' WHERE key = x'61'")
    with pytest.raises(EntryDamaged, match="b'a' does not match its value's checksum"):
        value_at(file, b"a")
    with pytest.raises(EntryDamaged):
        file.read(lambda reading: reading.scan(b"", None, 10, True, 1 << 20))
    assert value_at(file, b"b") == b"2"
    header = file.read(lambda reading: reading.header(b"a"))
    assert header is not None
    assert header.fences == {"lock": 3}
    file.write(putting(b"a", b"3", fences=header.fences))
    assert value_at(file, b"a") == b"3"


@pytest.mark.parametrize(
    "column", ["version = version + 1", "expires_at_ms = 5", "fences = x'80'", "content_type = x'41'", "value = NULL"]
)
def test_a_rotten_header_is_never_an_absence(file: SharedFile, path: Path, column: str) -> None:
    file.write(putting(b"a", b"1"))
    meddle(path, f"UPDATE entries SET {column}")
    with pytest.raises(EntryDamaged, match="changed on disk"):
        value_at(file, b"a")
    with pytest.raises(EntryDamaged, match="changed on disk"):
        file.read(lambda reading: reading.header(b"a"))


@pytest.mark.parametrize("column", ["value = x'39'", "beside = NULL", "key = x'62'", "value = 5"])
def test_a_rotten_register_is_never_a_free_lock(file: SharedFile, path: Path, column: str) -> None:
    file.write(lambda writing: writing.put_register(b"a", Cell(b"1", b"2")))
    assert file.read(lambda reading: reading.register(b"a")) == Cell(b"1", b"2")
    meddle(path, f"UPDATE registers SET {column}")
    with pytest.raises(EntryDamaged, match="changed on disk"):
        file.read(lambda reading: reading.registers(b"a", b"c", 10))


def test_without_the_highest_version_none_is_given(file: SharedFile, path: Path) -> None:
    file.write(putting(b"a", b"1"))
    meddle(path, "UPDATE file SET last_version = last_version - 1")
    with pytest.raises(EntryDamaged, match="No version can be given"):
        file.write(putting(b"a", b"2"))
    assert value_at(file, b"a") == b"1"


def test_a_page_that_sqlite_cant_read_is_told(file: SharedFile, path: Path) -> None:
    for number in range(200):
        file.write(putting(b"%03d" % number, b"." * 300))
    file.close()
    content = bytearray(path.read_bytes())
    content[8 * 4096 : 12 * 4096] = b"\xff" * (4 * 4096)
    path.write_bytes(content)
    damaged = SharedFile(path)
    with pytest.raises(EntryDamaged, match=r"can't make sense|changed on disk"):
        damaged.read(lambda reading: reading.scan(b"", None, 1_000, True, 1 << 30))
    damaged.close()


# -- forks ---------------------------------------------------------------------------------------------------------


def in_child(work: Callable[[], None]) -> int:
    """Forks; the child's exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_child_opens_the_file_anew_and_both_go_on(file: SharedFile) -> None:
    file.write(putting(b"a", b"1"))
    inherited = file._connection

    def work() -> None:
        assert file._connection is None
        file.write(putting(b"b", b"2"))
        assert file._connection is not inherited

    assert in_child(work) == 0
    assert value_at(file, b"b") == b"2"
    assert file._connection is inherited


def test_a_fork_waits_for_the_transaction_of_another_thread(file: SharedFile, path: Path) -> None:
    """Else the child's SQLite would believe that it holds the parent's lock, and both would write at once."""
    file.write(putting(b"a", b"0"))
    is_within, may_end = threading.Event(), threading.Event()

    def slow(writing: Writing) -> int:
        is_within.set()
        assert may_end.wait(30)
        return putting(b"a", b"1")(writing)

    writer = threading.Thread(target=file.write, args=(slow,))
    writer.start()
    assert is_within.wait(30)
    ender = threading.Timer(0.3, may_end.set)
    ender.start()
    try:

        def work() -> None:
            assert value_at(file, b"a") == b"1", "the parent's transaction had ended"
            file.write(putting(b"a", b"2"))

        assert in_child(work) == 0
    finally:
        writer.join()
        ender.join()
    assert value_at(file, b"a") == b"2"


# -- kill -9, and what is synced when ------------------------------------------------------------------------------

Writer = subprocess.Popen[str]
WRITER = """
import os, sys
from storage import Record
from storage.shared_file.errors import FileBusy
from storage.shared_file.file import SharedFile

file, name = SharedFile(sys.argv[1]), sys.argv[2]

def work(writing, number):
    version = writing.next_version(0)
    for part in ("x", "y"):
        record = Record(version, version, False, b"%d" % number * 2_000)
        writing.put(f"{name}/{part}".encode(), record)
    writing.put(f"{name}/{number}".encode(), Record(version, version, False, b"."))

number = 0
while True:
    number += 1
    while True:
        try:
            file.write(lambda writing: work(writing, number))
            break
        except FileBusy:
            pass
    os.write(1, b"acknowledged %d\\n" % number)
"""


@pytest.fixture
def start_writer(path: Path) -> Iterator[Callable[..., Writer]]:
    """Starts processes that write until they are killed; kills them by their own handles at the end."""
    started: list[Writer] = []

    def start(name: str, *under: str) -> Writer:
        command = [*under, sys.executable, "-c", WRITER, str(path), name]
        started.append(subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE))
        return started[-1]

    yield start
    for writer in started:
        writer.kill()
        writer.wait()
        if writer.stdout is not None:
            writer.stdout.close()


def next_line(writer: Writer) -> str:
    assert writer.stdout is not None
    return writer.stdout.readline()


def acknowledged_until_killed(writer: Writer) -> int:
    """The number of the last write that it had acknowledged."""
    last = [next_line(writer) for _ in range(3)][-1]
    writer.kill()
    assert writer.stdout is not None
    lines = [last, *writer.stdout.read().splitlines()]
    writer.wait()
    return max(int(line.split()[1]) for line in lines if re.fullmatch(r"acknowledged \d+", line.strip()))


def test_what_killed_processes_had_acknowledged_is_there_and_whole(
    path: Path, start_writer: Callable[..., Writer]
) -> None:
    said: dict[str, int] = {}
    for turn in range(4):
        writers = {f"{name}{turn}": start_writer(f"{name}{turn}") for name in "abc"}
        said |= {name: acknowledged_until_killed(writer) for name, writer in writers.items()}
    file = SharedFile(path)
    for name, last in said.items():
        x, y = (value_at(file, f"{name}/{part}".encode()) for part in ("x", "y"))
        assert x is not None
        assert x == y, "a transaction is there as a whole"
        found = int(x[: len(x) // 2_000])
        assert found in (last, last + 1), "the one under way may be there"
        assert all(value_at(file, f"{name}/{number}".encode()) == b"." for number in range(1, found + 1))
    file.close()
    checker = sqlite3.connect(path)
    assert checker.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    checker.close()


def test_a_disk_that_fails_leaves_every_acknowledged_write(path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    command = [sys.executable, "-c", limited + WRITER, str(path), "a"]
    failed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=60)
    assert re.search(r"(CommitFailed: .*may or may not be there|FileFailed: .*nothing was written)", failed.stderr)
    last = max(int(line.split()[1]) for line in failed.stdout.splitlines())
    file = SharedFile(path)
    found = value_at(file, b"a/x")
    assert found is not None
    assert found == value_at(file, b"a/y")
    assert int(found[: len(found) // 2_000]) in (last, last + 1)
    assert all(value_at(file, b"a/%d" % number) == b"." for number in range(1, last + 1))
    file.write(putting(b"a/x", b"it goes on"))
    file.close()


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_what_is_acknowledged_was_synced_journal_and_file_and_the_journals_end(
    path: Path, tmp_path: Path, start_writer: Callable[..., Writer]
) -> None:
    trace = tmp_path / "trace"
    calls = "trace=openat,pwrite64,fdatasync,fsync,write,close,ftruncate"
    writer = start_writer("a", "strace", "-f", "-y", "-o", str(trace), "-e", calls)
    for _ in range(5):
        assert next_line(writer).startswith("acknowledged")
    (child,) = (int(pid) for pid in Path(f"/proc/{writer.pid}/task/{writer.pid}/children").read_text().split())
    os.kill(child, signal.SIGKILL)
    writer.communicate()
    unsynced: set[str] = set()
    seen = 0
    for line in trace.read_text().splitlines():
        name = match[1] if (match := re.search(rf"<{re.escape(str(path))}(|-journal)>", line)) else None
        if name is not None and "pwrite64(" in line:
            if name == "" and "-journal" in unsynced:
                pytest.fail("the file was changed before its journal was synced")
            unsynced.add(name)
        elif name is not None and re.search(r"\bf(data)?sync\(", line):
            unsynced.discard(name)
        elif '"acknowledged' in line and "write(1" in line:
            assert not unsynced, "acknowledged before it was on disk"
            seen += 1
    assert seen >= 5


def test_a_file_that_another_process_is_just_making_is_no_strangers(tmp_path: Path) -> None:
    """Its first pages are on their way to the disk: some are there, and the first is not yet."""
    made, path = tmp_path / "made.db", tmp_path / "app.db"
    first = SharedFile(made)
    first.write(lambda file: file.next_version(1))
    first.close()
    whole = made.read_bytes()
    path.write_bytes(bytes(4096) + whole[4096:])
    Path(f"{path}-journal").write_bytes(b"being written")

    def finish() -> None:
        path.write_bytes(whole)
        Path(f"{path}-journal").write_bytes(bytes(512))

    making = threading.Timer(0.2, finish)
    making.start()
    second = SharedFile(path)
    assert second.read(lambda file: True)
    second.close()
    making.join()


def test_a_stranger_without_a_journal_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it was looked at again"))
    (tmp_path / "app.db").write_bytes(b"this is no database of anybody's" * 200)
    with pytest.raises(FileUnusable):
        SharedFile(tmp_path / "app.db").read(lambda file: True)
