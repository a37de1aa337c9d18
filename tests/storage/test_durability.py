"""What was acknowledged is on disk: with processes killed, disks full, logs cut short and system calls watched."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.repair.hash_trees import HashTrees
from storage import CommitFailed, FolderLocked, ReplicaState, SqliteEngine
from storage.ballot import NONE
from tests.storage.children import KEYS_PER_BATCH, PARTITIONS, batch_number, hints_of

ROOT = Path(__file__).parents[2]
Child = subprocess.Popen[str]


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    """Starts a child of tests/storage/children.py; kills it by its own handle at the end."""
    started: list[Child] = []

    def start(*arguments: object, under: tuple[str, ...] = ()) -> Child:
        command = [*under, sys.executable, "-m", "tests.storage.children", *map(str, arguments)]
        process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def next_line(process: Child) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill_and_collect(process: Child) -> list[str]:
    """Kills it with SIGKILL; what it had said before that is still in the pipe."""
    process.kill()
    assert process.stdout is not None
    rest = process.stdout.read().splitlines()
    process.wait()
    return rest


def acknowledged(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines if re.fullmatch(r"acknowledged \d+", line)]


async def batches_found(folder: Path) -> tuple[int, int]:
    """How many batches from the first on are there, each whole, and the commit sequence; nothing else may be there."""
    engine = SqliteEngine(folder)
    await engine.open()
    try:
        count = engine.commit_sequence
        if count:
            assert engine.facts["last"] == b"%d" % count
            assert await engine.kept_aside() == batch_number(count).keep
        expected = {key: state for number in range(1, count + 1) for key, state in batch_number(number).states.items()}
        assert expected == await engine.load(list(expected))
        beyond = [b"%d/%d" % (count + 1, place) for place in range(KEYS_PER_BATCH)]
        assert await engine.load(beyond) == dict.fromkeys(beyond, ReplicaState())
        return count, engine.commit_sequence
    finally:
        await engine.close()


@pytest.mark.parametrize("wait_for", [1, 40, 333])
async def test_what_a_killed_process_had_acknowledged_is_there(
    child: Callable[..., Child], tmp_path: Path, wait_for: int
) -> None:
    writer = child("write", tmp_path / "data", 1_000_000)
    lines = [next_line(writer) for _ in range(wait_for)] + kill_and_collect(writer)
    last = acknowledged(lines)[-1]
    assert last >= wait_for
    found, _ = await batches_found(tmp_path / "data")
    assert found in (last, last + 1), "the one under way may be there, whole"


async def test_a_second_process_is_refused_and_told_who_holds_the_folder(
    child: Callable[..., Child], tmp_path: Path
) -> None:
    holder = child("hold", tmp_path / "data")
    assert next_line(holder) == f"open {holder.pid}"
    with pytest.raises(FolderLocked, match=rf"process {holder.pid} uses the data folder .*nothing was touched"):
        await SqliteEngine(tmp_path / "data").open()
    refused = child("hold", tmp_path / "data")
    assert next_line(refused).startswith(f"FolderLocked: process {holder.pid} ")


async def test_a_killed_holder_leaves_no_lock_behind(child: Callable[..., Child], tmp_path: Path) -> None:
    holder = child("hold", tmp_path / "data")
    assert next_line(holder) == f"open {holder.pid}"
    kill_and_collect(holder)
    engine = SqliteEngine(tmp_path / "data")
    await engine.open()
    await engine.close()


async def test_a_process_that_ends_without_closing_ends(child: Callable[..., Child], tmp_path: Path) -> None:
    careless = child("forget", tmp_path / "data")
    assert await asyncio.to_thread(careless.wait, 20) == 3
    assert await batches_found(tmp_path / "data") == (1, 1)


async def test_a_failed_commit_ends_the_engine_and_loses_nothing_acknowledged(
    child: Callable[..., Child], tmp_path: Path
) -> None:
    filler = child("fill", tmp_path / "data")
    output, _ = await asyncio.to_thread(filler.communicate)
    lines = output.splitlines()
    (failure,) = [line for line in lines if line.startswith("failed")]
    assert "may or may not be on disk" in failure
    assert lines[-4:] == ["refused write", "refused load", "refused scan", "refused kept_aside"]
    assert filler.returncode == 0, "it can be closed all the same"
    last = acknowledged(lines)[-1]
    found, _ = await batches_found(tmp_path / "data")
    assert found in (last, last + 1)


async def test_a_log_cut_short_by_a_flipped_bit_shows_in_the_commit_sequence(
    child: Callable[..., Child], tmp_path: Path
) -> None:
    writer = child("write", tmp_path / "data", 1_000_000)
    lines = [next_line(writer) for _ in range(50)] + kill_and_collect(writer)
    log = tmp_path / "data" / "kvstore.db-wal"
    content = bytearray(log.read_bytes())
    content[content.index(b"25" * 100)] ^= 1
    log.write_bytes(content)
    found, sequence = await batches_found(tmp_path / "data")
    assert found == sequence < acknowledged(lines)[-1], "peers that heard the higher one notice, too"


def unsynced_acknowledgements(trace: list[str]) -> list[str]:
    """The acknowledgements of a system-call trace before which the log was written and not synced.

    A sync counts when it has returned; strace splits a call that others overtake into two lines.
    """
    dirty, bad = False, []
    syncing: set[str] = set()
    for line in trace:
        pid = line.split(maxsplit=1)[0]
        if "pwrite64(" in line and "kvstore.db-wal>" in line:
            dirty = True
        elif "fdatasync(" in line or "fsync(" in line:
            if "kvstore.db-wal>" in line:
                syncing.add(pid)
                dirty = dirty and not line.endswith("= 0")
        elif "sync resumed>" in line and pid in syncing:
            dirty = dirty and not line.endswith("= 0")
        elif "write(1<" in line and '"acknowledged' in line and dirty:
            bad.append(line)
    return bad


def test_the_reader_of_traces_finds_an_acknowledgement_before_its_sync() -> None:
    write = '7 pwrite64(5</d/kvstore.db-wal>, "..."..., 4096, 32) = 4096'
    started, ended = "7 fdatasync(5</d/kvstore.db-wal> <unfinished ...>", "7 <... fdatasync resumed>) = 0"
    acknowledge = '6 write(1<pipe:[1]>, "acknowledged 1\\n", 15) = 15'
    assert unsynced_acknowledgements([write, started, ended, acknowledge]) == []
    for early in (
        [write, acknowledge],
        [write, started, acknowledge, ended],
        [write, started, ended, write, acknowledge],
    ):
        assert unsynced_acknowledgements(early) == [acknowledge]


def test_every_acknowledgement_comes_after_the_sync_of_its_log(child: Callable[..., Child], tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: the order of system calls can't be watched")
    if subprocess.run([strace, "-f", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("strace may not trace here: the order of system calls can't be watched")
    trace = tmp_path / "trace"
    calls = "trace=fdatasync,fsync,write,pwrite64"
    writer = child(
        "write", tmp_path / "data", 30, under=(strace, "-f", "-y", "-s", "24", "-o", str(trace), "-e", calls)
    )
    writer.communicate()
    lines = trace.read_text().splitlines()
    assert len([line for line in lines if '"acknowledged' in line]) == 30
    assert len([line for line in lines if "pwrite64(" in line and "kvstore.db-wal>" in line]) >= 30
    assert unsynced_acknowledgements(lines) == []


async def test_nothing_is_written_behind_a_commit_that_failed(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path)
    await engine.open()
    (tmp_path / "kvstore.db-wal").unlink()  # what the writer looks at after each commit
    first, second = (asyncio.ensure_future(engine.write(batch_number(number))) for number in (1, 2))
    with pytest.raises(CommitFailed, match="may or may not be on disk"):
        await first
    with pytest.raises(CommitFailed, match="refuses everything since a commit failed"):
        await second
    await engine.close()


@pytest.mark.parametrize("wait_for", [1, 60, 250])
async def test_after_a_kill_the_leaves_are_the_sums_of_the_rows_and_the_hints_are_those_of_the_last_batch(
    child: Callable[..., Child], tmp_path: Path, wait_for: int
) -> None:
    writer = child("write_trees", tmp_path / "data")
    lines = [next_line(writer) for _ in range(wait_for)] + kill_and_collect(writer)
    engine = SqliteEngine(tmp_path / "data")
    await engine.open()
    last = engine.commit_sequence
    assert last - acknowledged(lines)[-1] in (0, 1), "the one under way may be there, whole"
    page = await engine.rows(0, 1 << 32, None, 10_000)
    assert page.complete
    trees = HashTrees(PARTITIONS, {})
    for row in page.rows:
        trees.replace(row.key, NONE, row.ballot)
    assert len(page.rows) >= min(last, 30)
    assert [trees.leaf_sums(partition) for partition in range(PARTITIONS)] == [
        HashTrees(PARTITIONS, engine.leaves).leaf_sums(partition) for partition in range(PARTITIONS)
    ]
    assert (await engine.hints(0, 10_000, 1 << 20)).hints == hints_of(last)
    await engine.close()
