"""Folders of each kind of engine, and what is written to them: for the tests of the contract."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st

from storage import Engine, MemoryEngine, MemoryFolder, Record, ReplicaState, SqliteEngine
from storage.ballot import BALLOT_MAX


class Folders:
    """Folders of one kind of engine, by name; an engine made here is closed at the end of its test."""

    def __init__(self, kind: str, root: Path) -> None:
        self.kind = kind
        self._root = root
        self._memory: dict[str, MemoryFolder] = {}
        self._made: list[Engine] = []

    def engine(self, name: str = "folder") -> Engine:
        engine: Engine
        if self.kind == "sqlite":
            engine = SqliteEngine(self._root / name)
        else:
            engine = MemoryEngine(self._memory.setdefault(name, MemoryFolder()))
        self._made.append(engine)
        return engine

    async def opened(self, name: str = "folder") -> Engine:
        engine = self.engine(name)
        await engine.open()
        return engine

    async def rot(self, engine: Engine, key: bytes) -> None:
        """Changes what the closed engine's folder holds of the key, without its checksum."""
        if isinstance(engine, MemoryEngine):
            engine.damage(key, "rotten")
            return
        with sqlite3.connect(self._root / "folder" / "kvstore.db") as database:
            changed = database.execute("UPDATE records SET promised = promised + 1 WHERE key = ?", (key,))
            assert changed.rowcount == 1
        database.close()

    async def lose_leaves(self, engine: Engine) -> None:
        """Rots what the closed engine's folder holds of the hash trees."""
        if isinstance(engine, MemoryEngine):
            engine.folder.leaves_are_lost = True
            return
        with sqlite3.connect(self._root / "folder" / "kvstore.db") as database:
            changed = database.execute("UPDATE tree_journal SET changes = zeroblob(length(changes))")
            assert changed.rowcount >= 1
        database.close()

    async def rot_hint(self, engine: Engine, number: int) -> None:
        """Changes a hint in the closed engine's folder, without its checksum."""
        if isinstance(engine, MemoryEngine):
            engine.folder.damaged_hints[number] = "rotten"
            return
        with sqlite3.connect(self._root / "folder" / "kvstore.db") as database:
            assert database.execute("UPDATE hints SET sole = 1 - sole WHERE number = ?", (number,)).rowcount == 1
        database.close()

    async def close(self) -> None:
        for engine in self._made:
            await engine.close()


def value(ballot: int, content: bytes = b"v", **fields: object) -> ReplicaState:
    return ReplicaState(ballot, Record(ballot, ballot, False, content, **fields))  # type: ignore[arg-type]


ballots = st.integers(1, BALLOT_MAX)
fences = st.none() | st.dictionaries(st.text(max_size=8), st.integers(0, 1 << 62), min_size=1, max_size=3)
texts = st.text(max_size=20) | st.just("text/plain; charset=utf-8") | st.just("stray \udcff byte")
records = st.builds(
    Record, ballots, ballots, st.booleans(), st.none() | st.binary(max_size=300), texts, st.integers(0, 1 << 62), fences
)
states = st.builds(ReplicaState, ballots, st.none() | records)
keys = st.binary(min_size=1, max_size=20) | st.sampled_from([b"\0", b"\xff", b"\xff\xff", b"a\0b", b"'; DROP--"])


def run_in(kind: str, path: Path, test: Callable[[Folders], object]) -> None:
    """Runs a coroutine function over fresh folders, for tests whose examples need one each."""

    async def body() -> None:
        folders = Folders(kind, path)
        try:
            await test(folders)  # type: ignore[misc]
        finally:
            await folders.close()

    asyncio.run(body())
