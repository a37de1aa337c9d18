"""What one node remembers: records, promises and facts, on disk before anyone is told.

The contract of durability, kept by every engine (engine.py):

- What `write` returned for is on disk: it survives kill -9, and a power cut as far as the disk keeps its word.
- A batch is written as a whole or not at all, and in the order of the calls. On a full disk it is not, and may be
  written again.
- What was asked for and not yet returned may be there or not. It is never half there.
- A commit that failed ends the engine: nothing in memory may be trusted after it.
- A row that has rotted is Damaged, or an error that names it; it is never taken for an absence.

An engine decides nothing. It writes what the acceptor above tells it, unconditionally, and answers with what is
committed.

Reading order: ballot, keyspace, record, engine (the interface, and its errors as a tree); memory (its meaning, in
dictionaries); group_commit (how many requests share one fsync). Then the real one, sqlite/: schema, integrity, rows
(pure), folder, log_inspection, statements, leaf_sums, writer, scrub, reader, and engine, which holds them together.
DESIGN.md says why.
"""

from storage.ballot import ballot_of, parse_version, slot_of, unix_ms_of, version_text
from storage.engine import (
    CUT_SHORT_FACT,
    Batch,
    CantMend,
    CommitFailed,
    CommitMetDamage,
    Damaged,
    DiskFull,
    Engine,
    FolderDamaged,
    FolderLocked,
    FolderUnusable,
    HintPage,
    PagesDamaged,
    Rot,
    Row,
    RowPage,
    ScanEntry,
    ScanPage,
    ScrubPage,
    StorageError,
)
from storage.group_commit import GroupCommit
from storage.keyspace import bounds_of, hash_of, slice_of
from storage.memory import MemoryEngine, MemoryFolder
from storage.record import Hint, Record, ReplicaState
from storage.sqlite.engine import SqliteEngine

__all__ = [
    "CUT_SHORT_FACT",
    "Batch",
    "CantMend",
    "CommitFailed",
    "CommitMetDamage",
    "Damaged",
    "DiskFull",
    "Engine",
    "FolderDamaged",
    "FolderLocked",
    "FolderUnusable",
    "GroupCommit",
    "Hint",
    "HintPage",
    "MemoryEngine",
    "MemoryFolder",
    "PagesDamaged",
    "Record",
    "ReplicaState",
    "Rot",
    "Row",
    "RowPage",
    "ScanEntry",
    "ScanPage",
    "ScrubPage",
    "SqliteEngine",
    "StorageError",
    "ballot_of",
    "bounds_of",
    "hash_of",
    "parse_version",
    "slice_of",
    "slot_of",
    "unix_ms_of",
    "version_text",
]
