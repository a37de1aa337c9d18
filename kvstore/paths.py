"""Where things are in the HTTP API, for those who call it."""

from __future__ import annotations

from urllib.parse import quote

KEYS, LOCKS, VOTES, ELECTIONS = "/v1/kv/", "/v1/locks/", "/v1/votes/", "/v1/elections/"
"""What stands before a key or a name."""
LISTING, HELD_LOCKS, BATCH, CLUSTER = "/v1/kv", "/v1/locks", "/v1/batch", "/v1/cluster"


def key_path(key: str | bytes) -> str:
    """The percent-encoded path of a key: `/` stays, everything else that is not plain is escaped."""
    return KEYS + quote(key, safe="/")
