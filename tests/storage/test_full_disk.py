"""A disk that is full, truly: a small file system of the test's own, which ends with its processes."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from storage import Batch, Record, ReplicaState, SqliteEngine
from storage.sqlite import schema
from tests.storage.test_durability import ROOT

MOUNT = 'mount -t tmpfs -o size=$1 none "$2" || exit 77; '
CHILD = '"$3" -m tests.storage.children '
NO_MOUNT = 77


def on_a_small_disk(script: str, size: str, folder: Path) -> list[str]:
    """Runs it over a file system of that size; what it said. Skips the test where it may not mount one."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("unshare is not installed: no test may mount a file system of its own")
    command = [unshare, "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT + script, "sh", size, str(folder)]
    ran = subprocess.run([*command, sys.executable], cwd=ROOT, text=True, capture_output=True, check=False, timeout=120)
    if ran.returncode == NO_MOUNT or ran.stderr.startswith("unshare:"):
        pytest.skip(f"no test may mount a file system here: {ran.stderr.strip()}")
    print(ran.stderr)
    return ran.stdout.splitlines()


@pytest.mark.parametrize("size", ["1m", "6m", "20m"], ids=["in the log", "in a longer log", "behind a checkpoint"])
def test_a_full_disk_stops_writing_until_there_is_room_and_nothing_else(tmp_path: Path, size: str) -> None:
    script = f'{CHILD} fill_disk "$2"; echo "ended $?"; {CHILD} look "$2"'
    lines = on_a_small_disk(script, size, tmp_path)
    first, second = (int(line.split()[1]) for line in lines if line.startswith("full"))
    assert f"acknowledged {first + 1}" in lines, "the batch that was refused, written again"
    assert second > first + 1
    assert lines[-2:] == ["ended 137", f"found {second}, whole"]


def test_a_log_that_fills_the_disk_is_given_back(tmp_path: Path) -> None:
    lines = on_a_small_disk(f'{CHILD} overwrite "$2"', "3m", tmp_path)
    assert lines.count("full") > 3
    assert lines[-1] == "acknowledged 99"


async def test_the_logs_index_has_its_room_from_the_start(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path)
    await engine.open()
    index = tmp_path / "kvstore.db-shm"

    def room() -> tuple[int, bool]:
        status = index.stat()
        return status.st_size, status.st_blocks * 512 >= status.st_size

    assert room() == (schema.LOG_INDEX_BYTES, True)
    reader = sqlite3.connect(tmp_path / "kvstore.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM records").fetchall()  # until it ends, the log can't begin anew
    for number in range(1, 9):
        state = ReplicaState(number, Record(number, number, False, os.urandom(4_000_000)))
        await engine.write(Batch({b"%d" % number: state}))
    assert (tmp_path / "kvstore.db-wal").stat().st_size > 7_000 * 4_096
    assert room() == (schema.LOG_INDEX_BYTES, True)
    reader.close()
    await engine.close()
    assert not index.exists()
