"""Steps: one register's operations, as the search sees them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, NamedTuple

State = Hashable
UNSEEN: Final = -1
"""The state that no observer accepts: every change to such a state leads here."""
NEVER: Final = 2**62
"""Later than every event."""


class Step(NamedTuple):
    """One operation, as the search sees it."""

    invoked: int
    completed: int | None
    """None: it may take effect at any time after its invocation, or never."""
    accepts: frozenset[State] | None = None
    """The states that it can meet. None: any."""
    target: State | None = None
    """The state that it leaves. None: it only observes."""
    appends: str | None = None
    """Instead of a target: what it puts behind the text that is there."""

    @property
    def is_change(self) -> bool:
        """Whether it leaves another state than it met."""
        return self.target is not None or self.appends is not None
