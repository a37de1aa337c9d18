"""A cluster under measurement, whichever it is: where it listens, what it takes of the machine, how a member dies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from loadtests.http_load import Addresses


@dataclass(frozen=True)
class Member:
    """One process of a cluster."""

    name: str
    host: str
    port: int
    pid: int
    folder: Path


class Side(Protocol):
    """A cluster: a context manager that starts it and takes it away again."""

    name: str
    members: list[Member]

    def __enter__(self) -> Side: ...

    def __exit__(self, *_: object) -> None: ...

    def victim(self) -> Member:
        """The member whose death shows most: a leader, where there is one."""
        ...

    def kill(self, member: Member) -> None:
        """As if its power went: SIGKILL."""
        ...

    def faults(self) -> list[str]:
        """What its members have done so far that they should not have, in words."""
        ...


def addresses(members: Sequence[Member]) -> Addresses:
    """Where clients reach them."""
    return [(member.host, member.port) for member in members]


def processor_s(side: Side) -> float:
    """Processor seconds of its members that live, so far."""
    times = [process.cpu_times() for process in _processes(side)]
    return float(sum(one.user + one.system for one in times))


def memory_bytes(side: Side) -> float:
    """Resident memory of a member: the mean over those that live."""
    sizes = [process.memory_info().rss for process in _processes(side)]
    return float(sum(sizes)) / max(1, len(sizes))


def disk_bytes(side: Side) -> float:
    """What a member's folder takes on the disk, in blocks: the mean. Room that is taken beforehand counts."""
    return sum(_blocks(path) for path in _files(side)) / len(side.members)


def _processes(side: Side) -> Iterator[psutil.Process]:
    for member in side.members:
        try:
            process = psutil.Process(member.pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.NoSuchProcess:
            continue


def _blocks(path: Path) -> int:
    try:
        return 512 * path.stat().st_blocks
    except FileNotFoundError:  # logs come and go
        return 0


def _files(side: Side) -> Iterator[Path]:
    for member in side.members:
        for path in member.folder.rglob("*"):
            if path.is_file() and not path.name.startswith("node.log"):
                yield path
