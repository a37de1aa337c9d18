"""Walks a listing, a page at a time, for the client with `await` and the one without."""

from __future__ import annotations

from kvstore.client.store import Opened
from kvstore.client.values import Consistency, Count, Entry

PAGE_KEYS, PAGE_KEYS_WITH_VALUES = 1_000, 100
"""A page is read whole into memory: a hundred values of 1 MiB are as much as that should take."""


class Pages:
    """One way through the keys with a prefix. A listing is no snapshot: each page is read when it is come to."""

    def __init__(
        self,
        opened: Opened,
        prefix: str,
        *,
        values: bool,
        after: str | None,
        limit: int | None,
        consistency: Consistency | None,
        r: Count | None,
        timeout_s: float | None,
    ) -> None:
        self._opened = opened
        self._prefix, self._values, self._after = prefix, values, after
        self._consistency, self._r, self._timeout_s = consistency, r, timeout_s
        self._left = limit
        self._page_keys = PAGE_KEYS_WITH_VALUES if values else PAGE_KEYS
        self.is_over = limit is not None and limit <= 0

    async def next_page(self) -> tuple[Entry, ...]:
        """The next entries, maybe none; not to be called when is_over."""
        store = await self._opened()
        page = await store.page(
            self._prefix,
            values=self._values,
            after=self._after,
            limit=self._page_keys if self._left is None else min(self._left, self._page_keys),
            consistency=self._consistency,
            r=self._r,
            timeout_s=self._timeout_s,
        )
        if self._left is not None:
            self._left -= len(page.entries)
        self._after = page.next
        self.is_over = page.next is None or self._left == 0
        return page.entries
