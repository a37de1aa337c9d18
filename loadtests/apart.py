"""Client and nodes on cores of their own, so that what is measured on one machine is the nodes.

Left to themselves they share all cores, and a client takes more of them the more it sends: under twice the load there
is less left for the nodes than at the peak that they are held against.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class NotApart(Exception):
    """Why client and nodes can't be kept apart here, in words."""


@dataclass(frozen=True)
class Cores:
    """Which are whose."""

    client: frozenset[int]
    nodes: frozenset[int]

    @classmethod
    def parted(cls) -> Cores:
        """The last that this process may use is the client's, all others the nodes'. Raises NotApart."""
        if not hasattr(os, "sched_setaffinity"):
            raise NotApart("this system does not let a program say which cores a process may use")
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:
            raise NotApart("there is only one core that this process may use, and it takes two")
        return cls(frozenset(usable[-1:]), frozenset(usable[:-1]))

    def keep(self, node_pids: Iterable[int]) -> None:
        """Keeps these processes, with all threads that they have and will have, and this one to theirs.

        Raises NotApart where the system does not allow it.
        """
        try:
            for pid in node_pids:
                _keep(pid, self.nodes)
            _keep(os.getpid(), self.client)
        except OSError as fault:
            raise NotApart(f"the system does not allow it: {fault}") from fault

    def __str__(self) -> str:
        return f"client on core {_listed(self.client)}, nodes on {_listed(self.nodes)}"


def _keep(pid: int, cores: frozenset[int]) -> None:
    """A thread that starts meanwhile has its maker's cores, so the second look finds none that are wrong."""
    is_looking = True
    while is_looking:
        is_looking = False
        for thread in _threads(pid):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                if os.sched_getaffinity(thread) != cores:
                    os.sched_setaffinity(thread, cores)
                    is_looking = True


def _threads(pid: int) -> list[int]:
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]


def _listed(cores: frozenset[int]) -> str:
    return ", ".join(map(str, sorted(cores)))
