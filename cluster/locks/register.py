"""Register: the one thing that locks and votes need of the world, whatever it is made of.

Attiya, Bar-Noy, Dolev, "Sharing Memory Robustly in Message-Passing Systems" (1995): what can be done with shared
registers can be done with messages. So the lock (lock.py) and the vote (vote.py) know this interface and nothing else.

    message passing    replicated_register.py: a key of the cluster, at the strong level
    shared memory      kvstore/embedded: a row of an SQLite file that several processes of a host have open
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

Function = Callable[[bytes | None, int], bytes | None]
"""(value or None where there is none yet, the moment of this change in Unix milliseconds) -> the new value, or None to
leave the register as it is. Pure: it may be called more than once, on different values, for one change."""


class Changed(msgspec.Struct, frozen=True, gc=False):
    """How a change ended."""

    value: bytes | None
    """What the register holds from then on. It is settled: no later read finds an older one."""
    is_new: bool
    """Whether the function's value was put there; False where the function left the register alone."""


class RegisterError(Exception):
    """The root of what can go wrong.

    RegisterError
    ├── NotChanged      surely not changed, now or later
    └── MayBeChanged    the change may have been made, or may be yet
    """


class NotChanged(RegisterError):
    """The register could not be had; the change surely was not made, and never will be. `why` says more."""

    def __init__(self, why: object) -> None:
        super().__init__(str(why))
        self.why = why
        """What the medium says of it: for the replicated register an outcome of cluster/requests.py."""


class MayBeChanged(RegisterError):
    """Nobody knows whether the change was made, or will be yet. `why` says more."""

    def __init__(self, why: object) -> None:
        super().__init__(str(why))
        self.why = why
        """As in NotChanged."""


class Register(Protocol):
    """One linearizable cell of bytes."""

    async def read(self, timeout_s: float) -> bytes | None:
        """The value, settled; None where there is none. Raises NotChanged when it can't be had in time."""
        ...

    async def change(self, function: Function, timeout_s: float) -> Changed:
        """Reads, applies the function and writes, as one atomic step. Raises NotChanged and MayBeChanged."""
        ...
