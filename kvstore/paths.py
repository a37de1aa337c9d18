"""Where things are in the HTTP API, for those who call it."""

from __future__ import annotations

from urllib.parse import quote


def key_path(key: str | bytes) -> str:
    """The percent-encoded path of a key: `/` stays, everything else that is not plain is escaped."""
    return "/v1/kv/" + quote(key, safe="/")
