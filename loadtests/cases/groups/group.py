"""What a group of cases is: how it is measured, and the plots it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure as Canvas

from loadtests.cases.bench import Bench
from loadtests.cases.results import Group


@dataclass(frozen=True)
class Plot:
    """One picture, and what is seen on it."""

    name: str
    """Of its file."""
    title: str
    draw: Callable[[Group, Canvas], None]
    how: Callable[[Group], str]
    """Under the title: what every request here has in common."""
    words: Callable[[Group], list[str]]
    """Sentences made from the figures, so that they are true of other figures, too."""
    size: tuple[float, float] = (9.0, 4.0)
    """Inches, without the caption."""


def typical(group: Group, connections: str = "connections") -> str:
    """The usual keys, values and connections, as they were in that run."""
    keys, size, count = (group.settings.get(name, 0.0) for name in ("keys", "value_bytes", connections))
    return f"{keys:,.0f} keys, values of {size:,.0f} bytes, {count:,.0f} connections over all members, closed loop"


@dataclass(frozen=True)
class CaseGroup:
    """Some cases that are measured together."""

    name: str
    """As --only has it."""
    title: str
    measure: Callable[[Bench], None]
    plots: tuple[Plot, ...]
    at: Callable[[float], str] = lambda at: f"{at:,.0f}"
    """What a place on the x axis is called in the table."""
