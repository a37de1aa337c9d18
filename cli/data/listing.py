"""Walks a listing from its first page to its last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvstore.http_client import Answer, HttpClient

PAGE_KEYS_MAX = 1000
"""The most that a node puts on one page."""

Fetch = Callable[[Mapping[str, str]], Awaitable["Answer"]]


@dataclass(frozen=True, slots=True)
class Page:
    """One page: what the node says of each key, and the headers it came with."""

    keys: list[dict[str, Any]]
    headers: Mapping[str, str]


async def pages(
    client: HttpClient, query: Mapping[str, str], timeout_s: float, limit: int | None = None
) -> AsyncIterator[Page]:
    """The pages of the listing that `query` describes, with `limit` keys in all at most."""

    async def fetch(page_query: Mapping[str, str]) -> Answer:
        return await client.request("GET", "/v1/kv", query=page_query, timeout_s=timeout_s)

    async for page in pages_by(fetch, query, limit):
        yield page


async def pages_by(fetch: Fetch, query: Mapping[str, str], limit: int | None = None) -> AsyncIterator[Page]:
    """The same, for a caller that has its own way to get a page."""
    after: dict[str, str] = {}
    left = limit
    while left is None or left > 0:
        size = PAGE_KEYS_MAX if left is None else min(left, PAGE_KEYS_MAX)
        answer = await fetch({**query, **after, "limit": str(size)})
        body = answer.json()
        yield Page(body["keys"], answer.headers)
        left = None if left is None else left - len(body["keys"])
        if body.get("next") is None:
            return
        after = {"after": body["next"]}
