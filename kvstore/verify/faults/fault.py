"""What a fault is: it begins, it is looked at while it acts, it ends. Each kind proves for itself that it acted."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

from kvstore.verify.faults.cluster import LocalCluster


class NotNow(Exception):
    """The fault can't begin as things stand, and says why: another one has not healed yet, or a tool is missing."""


class Fault(ABC):
    """One fault on one cluster, drawn with its victims. Used once."""

    name: str
    """As --faults has it."""
    minimum_s = 0.5
    """Acting for less it would not be felt."""

    def __init__(self, cluster: LocalCluster, dice: random.Random) -> None:
        self._cluster, self._dice = cluster, dice
        self.victims: tuple[str, ...] = ()
        """Nodes whose clients must notice."""
        self.draw()

    @abstractmethod
    def draw(self) -> None:
        """Chooses victims and sizes, and nothing else: a seed must tell the whole plan before anything happens."""

    @property
    @abstractmethod
    def says(self) -> str:
        """What it does to whom, in a few words."""

    @abstractmethod
    async def begin(self) -> None:
        """From here on it acts. Raises NotNow."""

    @abstractmethod
    async def look(self) -> str | None:
        """What nodes or links show of it, in words; None while nothing is seen. Called again and again."""

    @abstractmethod
    async def end(self) -> None:
        """Takes back what it did, without waiting for the nodes to be well."""

    def _one(self) -> str:
        """Some node, the only victim."""
        name = self._dice.choice(self._cluster.names)
        self.victims = (name,)
        return name

    async def _seen_away(self, name: str) -> str | None:
        """Another node says that it does not hear this one."""
        for observer in self._cluster.others(name):
            state = await self._cluster.state(observer, name)
            if state in {"suspect", "down"}:
                return f"{observer} called {name} {state}"
        return None
