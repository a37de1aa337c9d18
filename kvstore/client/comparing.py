"""Compare-and-set by value, made of a read and a write that is conditional on the version that was read."""

from __future__ import annotations

import asyncio

from kvstore.client.store import Store
from kvstore.client.values import Fence, Fencing, Written, fence_of
from kvstore.errors import VersionMismatch

LEAST_S = 0.001


class Comparison:
    """What to write at a key, if it is as expected."""

    def __init__(
        self,
        store: Store,
        key: str,
        value: bytes | None,
        *,
        fence: Fence | Fencing | None,
        ttl_s: float | None,
        content_type: str | None,
    ) -> None:
        """value: None deletes."""
        if value is None and (ttl_s is not None or content_type is not None):
            raise ValueError("a deletion has no ttl and no content_type")
        self._store, self._key, self._value, self._fence = store, key, value, fence
        self._ttl_s, self._content_type = ttl_s, content_type
        self._now_s = asyncio.get_running_loop().time

    async def over_nothing(self, deadline_s: float) -> Written:
        """Writes if the key is absent. Raises Exists."""
        if self._value is None:
            raise ValueError("what is absent can't be deleted: give a value, or what to expect")
        return await self._write(None, deadline_s)

    async def over_version(self, version: str, deadline_s: float) -> Written:
        """Writes if the key still has this version. Raises VersionMismatch."""
        return await self._write(version, deadline_s)

    async def over_value(self, expected: bytes, deadline_s: float) -> Written:
        """Writes if the value equals this one, whatever its version. Raises VersionMismatch."""
        while True:
            left_s = self._left_s(deadline_s)
            found = await self._store.get(self._key, fence=None, consistency="strong", r=None, timeout_s=left_s)
            if found is None:
                raise VersionMismatch("The key has no value, which is not what was expected; nothing was written.")
            if found.value != expected:
                raise VersionMismatch(
                    f"The value is another than expected, version {found.version} now; nothing was written.",
                    version=found.version,
                )
            try:
                return await self._write(found.version, deadline_s)
            except VersionMismatch:
                # Somebody wrote in between: the same value maybe, under another version.
                if self._now_s() >= deadline_s:
                    raise

    async def _write(self, version: str | None, deadline_s: float) -> Written:
        fence, left_s = fence_of(self._fence), self._left_s(deadline_s)
        if self._value is None:
            return await self._store.delete(
                self._key, if_match=version, fence=fence, consistency="strong", w=None, timeout_s=left_s
            )
        return await self._store.put(
            self._key,
            self._value,
            if_match=version,
            create=version is None,
            fence=fence,
            ttl_s=self._ttl_s,
            content_type=self._content_type,
            consistency="strong",
            w=None,
            timeout_s=left_s,
        )

    def _left_s(self, deadline_s: float) -> float:
        return max(deadline_s - self._now_s(), LEAST_S)
