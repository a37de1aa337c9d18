"""kvstore: a replicated key-value store with tunable consistency, locks and votes.

    import kvstore

    with kvstore.connect(["http://127.0.0.1:7001", "http://127.0.0.1:7002"]) as client:
        client.put("greeting", "hello")
        print(client.get("greeting").text)

    async with kvstore.connect([...]) as client:    # the same methods, awaited
        await client.put("greeting", "hello")

    with kvstore.open("app.db") as db:              # the same again, over one file of this machine
        db.put("greeting", "hello")

Names are imported when they are first used: a node that is started pays for no client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvstore.client.asynchronous import AsyncClient
    from kvstore.client.connecting import connect, connect_async
    from kvstore.client.facade import Client
    from kvstore.client.holding import Election, Lock
    from kvstore.client.locking import AsyncElection, AsyncLock
    from kvstore.client.values import (
        Consistency,
        Count,
        Decision,
        Delete,
        Entry,
        Fence,
        Get,
        Holder,
        Leader,
        LockInfo,
        Operation,
        Put,
        Receipt,
        Value,
        Written,
    )
    from kvstore.embedded import open, open_async
    from kvstore.errors import (
        BadFence,
        BadRequest,
        ConditionFailed,
        DiskFull,
        Exists,
        Fenced,
        KvstoreError,
        LockHeld,
        LockLost,
        NeedsStrong,
        NoNodeReachable,
        NotAllowed,
        NotApplied,
        OutcomeUnknown,
        Overloaded,
        QuorumUnavailable,
        ReadFailed,
        ReadTimedOut,
        TooLarge,
        Unavailable,
        VersionMismatch,
    )

_HOMES = {
    "kvstore.client.connecting": ("connect", "connect_async"),
    "kvstore.embedded": ("open", "open_async"),
    "kvstore.client.facade": ("Client",),
    "kvstore.client.holding": ("Election", "Lock"),
    "kvstore.client.asynchronous": ("AsyncClient",),
    "kvstore.client.locking": ("AsyncElection", "AsyncLock"),
    "kvstore.client.values": (
        *("Consistency", "Count", "Decision", "Delete", "Entry", "Fence", "Get", "Holder", "Leader", "LockInfo"),
        *("Operation", "Put", "Receipt", "Value", "Written"),
    ),
    "kvstore.errors": (
        *("BadFence", "BadRequest", "ConditionFailed", "DiskFull", "Exists", "Fenced", "KvstoreError", "LockHeld"),
        *("LockLost", "NeedsStrong", "NoNodeReachable", "NotAllowed", "NotApplied", "OutcomeUnknown", "Overloaded"),
        *("QuorumUnavailable", "ReadFailed", "ReadTimedOut", "TooLarge", "Unavailable", "VersionMismatch"),
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncClient",
    "AsyncElection",
    "AsyncLock",
    "BadFence",
    "BadRequest",
    "Client",
    "ConditionFailed",
    "Consistency",
    "Count",
    "Decision",
    "Delete",
    "DiskFull",
    "Election",
    "Entry",
    "Exists",
    "Fence",
    "Fenced",
    "Get",
    "Holder",
    "KvstoreError",
    "Leader",
    "Lock",
    "LockHeld",
    "LockInfo",
    "LockLost",
    "NeedsStrong",
    "NoNodeReachable",
    "NotAllowed",
    "NotApplied",
    "Operation",
    "OutcomeUnknown",
    "Overloaded",
    "Put",
    "QuorumUnavailable",
    "ReadFailed",
    "ReadTimedOut",
    "Receipt",
    "TooLarge",
    "Unavailable",
    "Value",
    "VersionMismatch",
    "Written",
    "connect",
    "connect_async",
    "open",
    "open_async",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
