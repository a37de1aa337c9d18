"""Forks: a connection is never used on both sides of one.

SQLite keeps a table, per process, of which locks it holds on which file. A child inherits the table but not the locks:
if the process forks while a thread of it is within a transaction, the child takes the file for locked by itself, and
reads or writes without a lock. So a fork waits until no transaction is under way in this process, and the child
forgets the connections that it inherited, without closing them: each opens its own.

Where a process is forked behind Python's back, the number of the process tells (SharedFile looks at it); a transaction
that was under way in another thread at that moment is beyond help.
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from threading import RLock
from typing import Any, Protocol


class Forkable(Protocol):
    """What holds a connection."""

    guard: Any
    """Held while the connection is in use."""

    def forget_connection(self) -> None:
        """In the child: the connection is not its own."""
        ...


_open: weakref.WeakSet[Any] = weakref.WeakSet()
_registry = RLock()
_held: list[Forkable] = []
_inherited: list[sqlite3.Connection] = []


def watch_over(one: Forkable) -> None:
    """From now on forks wait for this one."""
    with _registry:
        _open.add(one)


def keep_unclosed(connection: sqlite3.Connection) -> None:
    """Keeps an inherited connection from being closed by the garbage collection."""
    _inherited.append(connection)


def _before() -> None:
    _registry.acquire()
    _held[:] = sorted(_open, key=id)
    for one in _held:
        one.guard.acquire()


def _in_parent() -> None:
    for one in reversed(_held):
        one.guard.release()
    _held.clear()
    _registry.release()


def _in_child() -> None:
    for one in _held:
        one.forget_connection()
        one.guard.release()
    _held.clear()
    _registry.release()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
