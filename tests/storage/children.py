"""Processes that the durability tests start, and kill: `python -m tests.storage.children TASK FOLDER`."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from pathlib import Path

from cluster.repair.hash_trees import HashTrees
from storage import (
    Batch,
    CommitFailed,
    DiskFull,
    Hint,
    Record,
    ReplicaState,
    SqliteEngine,
    StorageError,
)
from storage.ballot import NONE
from storage.sqlite import leaf_sums

KEYS_PER_BATCH = 5


def batch_number(number: int) -> Batch:
    """What the children write: keys of this batch's own, one that every batch overwrites, a kept one and a fact."""
    states = {b"%d/%d" % (number, place): state_number(number) for place in range(KEYS_PER_BATCH)}
    kept = {(b"kept", number): Record(number, number, True, b"kept")}
    return Batch({**states, b"last": state_number(number)}, kept, {(b"kept", number - 1)}, {"last": b"%d" % number})


def state_number(number: int) -> ReplicaState:
    return ReplicaState(number, Record(number, number, False, b"%d" % number * 100, "text/plain"))


PARTITIONS = 4
HINTS_PER_BATCH = 20


class Trees:
    """Batches whose leaves are the sums over the rows, and which hold the hints of their number and no others."""

    def __init__(self) -> None:
        self.trees = HashTrees(PARTITIONS, {})
        self._ballots: dict[bytes, int] = {}

    def batch(self, number: int) -> Batch:
        batch = Batch()
        for place in range(KEYS_PER_BATCH):
            key = b"%d" % (number * 37 % 300 + place)
            before = self._ballots.pop(key, NONE)
            after = NONE if before != NONE and number % 3 == 0 else number
            leaf, total = self.trees.replace(key, before, after)
            batch.leaves[leaf] = total
            if after == NONE:
                batch.drop.add(key)
            else:
                self._ballots[key] = after
                batch.states[key] = state_number(after)
        batch.hints = hints_of(number)
        batch.drop_hints = set(hints_of(number - 1))
        return batch


def hints_of(number: int) -> dict[int, Hint]:
    """Those that batch adds, and the next one drops."""
    record = Record(number + 1, number + 1, True, b"%d" % number)
    first = number * HINTS_PER_BATCH
    return {first + place: Hint(b"%d" % place, record, (1,), place == 0) for place in range(HINTS_PER_BATCH)}


async def write_trees(folder: Path) -> None:
    """Says each batch's number once its write has returned; folds the leaves' journal often."""
    leaf_sums.FOLD_AFTER = 3
    made = Trees()
    engine = SqliteEngine(folder)
    await engine.open()
    for number in range(1, 1_000_000):
        await engine.write(made.batch(number))
        tell(f"acknowledged {number}")


async def fill_disk(folder: Path) -> None:
    """On a small disk of its own: fills it, frees some of it, goes on; says what it saw."""
    ballast = folder / "ballast"
    ballast.write_bytes(b"." * 300_000)
    engine = SqliteEngine(folder / "data")
    await engine.open()
    for has_ballast in (True, False):
        refusals = 0
        while refusals < 4:  # a first one may make room: what the log holds is copied, and it is cut
            batch = batch_number(engine.commit_sequence + 1)
            batch.leaves = dict.fromkeys(range(3), engine.commit_sequence + 1)
            try:
                await engine.write(batch)
                refusals = 0
            except DiskFull:
                refusals += 1
        tell(f"full {engine.commit_sequence}")
        assert await engine.load([b"last"]) == {b"last": state_number(engine.commit_sequence)}, "reads go on"
        free, total = engine.free_bytes()
        assert free < 100_000 < total
        if has_ballast:
            ballast.unlink()
            await engine.write(batch)
            tell(f"acknowledged {engine.commit_sequence}")
    os.kill(os.getpid(), signal.SIGKILL)


async def overwrite(folder: Path) -> None:
    """On a small disk of its own: writes the same keys over and over, so that only the log can fill it."""
    for numbers in ((1, 2), range(3, 100)):
        engine = SqliteEngine(folder / "data")
        await engine.open()
        for number in numbers:
            record = Record(number, number, False, b"%03d" % number * 7_000)
            batch = Batch({b"%d" % key: ReplicaState(number, record) for key in range(10)})
            try:
                await engine.write(batch)
            except DiskFull:
                tell("full")
                await engine.write(batch)
            tell(f"acknowledged {number}")
        await engine.close()  # the database has its size from here on


async def look(folder: Path) -> None:
    """Says what a folder that was left behind by fill_disk holds."""
    engine = SqliteEngine(folder / "data")
    await engine.open()
    count = engine.commit_sequence
    expected = {key: state for number in range(1, count + 1) for key, state in batch_number(number).states.items()}
    assert await engine.load(list(expected)) == expected
    assert dict(engine.leaves) == dict.fromkeys(range(3), count)
    tell(f"found {count}, {engine.was_cut_short or 'whole'}")
    await engine.close()


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
    tasks = {
        "hold": hold,
        "forget": forget,
        "fill": fill,
        "write_trees": write_trees,
        "fill_disk": fill_disk,
        "overwrite": overwrite,
        "look": look,
    }
    counted_tasks = {"write": write, "write-and-hold": write_and_hold}
    asyncio.run(counted_tasks[task](folder, int(sys.argv[3])) if task in counted_tasks else tasks[task](folder))
