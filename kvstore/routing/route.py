"""What a request is about, and which node spares the others work. Pure.

    strong put or delete, a read under a fence,      the key's primary, which proposes all changes of the key: any
    a vote, a step of a lock                         other node hands it on, at some sixth more work for all of them
    weak or eventual put or delete, any other read   a replica, where not every node is one: any other node holds
                                                     nothing of the key, and has to ask
    acquiring a lock with a wait                     nobody in particular: the line is kept by the primary, and who
                                                     waits at another node keeps the place when that one dies
    listing, batch                                   nobody in particular: a listing asks all nodes anyway, and what a
                                                     batch hands on travels together: splitting it gains nothing

All of it is read off the request itself, so whoever can send one can have it routed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from cluster.levels import Level
from cluster.locks.lock_state import lock_key
from cluster.locks.vote import vote_key
from kvstore.paths import ELECTIONS, KEYS, LOCKS, VOTES

_READS = frozenset({"GET", "HEAD"})
_REGISTERS = ((LOCKS, lock_key), (VOTES, vote_key), (ELECTIONS, lock_key))


class Route(NamedTuple):
    """Where a request wants to go."""

    key: bytes
    """The register that it is about: a key of applications, or that of a lock or vote."""
    to_primary: bool
    """Else any replica is as good."""


def route_of(
    method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], *, waits: bool = False
) -> Route | None:
    """The route of a request; None where all nodes are alike. waits: for a lock that others hold.

    path: percent-encoded. A level that the request does not name is taken to be strong.
    """
    if waits:
        return None
    if path.startswith(KEYS):
        is_read = method in _READS
        to_primary = "KV-Fence" in headers if is_read else query.get("consistency", Level.STRONG) == Level.STRONG
        raw = path[len(KEYS) :]
        return Route(unquote_to_bytes(raw) if "%" in raw else raw.encode(), to_primary)
    for prefix, register_of in _REGISTERS:
        if path.startswith(prefix):
            return Route(register_of(unquote(path[len(prefix) :])), method not in _READS)
    return None
