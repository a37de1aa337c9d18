"""Processes that the durability tests start, and kill: `python -m tests.storage.children TASK FOLDER`."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path

from storage import Batch, CommitFailed, Record, ReplicaState, SqliteEngine, StorageError

KEYS_PER_BATCH = 5


def batch_number(number: int) -> Batch:
    """What the children write: keys of this batch's own, one that every batch overwrites, a kept one and a fact."""
    states = {b"%d/%d" % (number, place): state_number(number) for place in range(KEYS_PER_BATCH)}
    kept = {(b"kept", number): Record(number, number, True, b"kept")}
    return Batch({**states, b"last": state_number(number)}, kept, {(b"kept", number - 1)}, {"last": b"%d" % number})


def state_number(number: int) -> ReplicaState:
    return ReplicaState(number, Record(number, number, False, b"%d" % number * 100, "text/plain"))


def tell(line: str) -> None:
    """One line to the parent, unbuffered."""
    os.write(1, f"{line}\n".encode())


async def write(folder: Path, batches: int) -> None:
    """Says each batch's number once its write has returned."""
    engine = SqliteEngine(folder)
    await engine.open()
    for number in range(1, batches + 1):
        await engine.write(batch_number(number))
        tell(f"acknowledged {number}")
    await engine.close()


async def write_and_hold(folder: Path, batches: int) -> None:
    """Writes so many batches, says so, and waits to be killed."""
    engine = SqliteEngine(folder)
    await engine.open()
    for number in range(1, batches + 1):
        await engine.write(batch_number(number))
    tell(f"written {batches}")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def hold(folder: Path) -> None:
    """Holds the folder until its standard input ends."""
    engine = SqliteEngine(folder)
    try:
        await engine.open()
    except StorageError as error:
        tell(f"{type(error).__name__}: {error}")
        return
    tell(f"open {os.getpid()}")
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await engine.close()


async def forget(folder: Path) -> None:
    """Ends without closing the engine, as a process does that an error brings down."""
    engine = SqliteEngine(folder)
    await engine.open()
    await engine.write(batch_number(1))
    await engine.load([b"last"])
    tell("acknowledged 1")
    raise SystemExit(3)


async def fill(folder: Path) -> None:
    """Writes until the disk refuses, here by a limit on the size of files; then tries everything once more."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    engine = SqliteEngine(folder)
    await engine.open()
    for number in range(1, 10_000):
        try:
            await engine.write(batch_number(number))
        except CommitFailed as failure:
            tell(f"failed {number}: {failure}")
            break
        tell(f"acknowledged {number}")
    attempts = {
        "write": engine.write(Batch()),
        "load": engine.load([b"last"]),
        "scan": engine.scan(b"", None, 1, False, 0),
        "kept_aside": engine.kept_aside(),
    }
    for name, attempt in attempts.items():
        try:
            await attempt
            tell(f"allowed {name}")
        except CommitFailed:
            tell(f"refused {name}")
    await engine.close()


if __name__ == "__main__":
    task, folder = sys.argv[1], Path(sys.argv[2])
    tasks = {"hold": hold, "forget": forget, "fill": fill}
    counted_tasks = {"write": write, "write-and-hold": write_and_hold}
    asyncio.run(counted_tasks[task](folder, int(sys.argv[3])) if task in counted_tasks else tasks[task](folder))
