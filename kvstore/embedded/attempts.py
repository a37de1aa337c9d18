"""Attempts: one transaction, however many tries it takes until the file lets it in, or its deadline is over.

SQLite's locks are not handed on in turn: whoever asks in the right moment gets in. So the pauses are random, and grow
shorter with the time that somebody has waited: who has waited long asks most often, and nobody is left out.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from storage.shared_file.errors import FileBusy
from storage.shared_file.file import SharedFile
from storage.shared_file.transaction import Reading, Writing

T = TypeVar("T")

LONGEST_PAUSE_S = 0.01
"""Between the first tries: a few ordinary commits of others."""
SHORTEST_PAUSE_S = 0.0005
PATIENCE_S = 0.2
"""How long somebody waits until pauses are at their shortest."""


class Attempts:
    """A file's transactions, carried out one after another by one thread."""

    def __init__(self, file: SharedFile, source: random.Random | None = None) -> None:
        self._file = file
        self._random = source or random.Random()
        self._thread: ThreadPoolExecutor | None = None
        self._pid = 0

    @property
    def now_s(self) -> float:
        """By the clock that deadlines are counted with: the event loop's."""
        return asyncio.get_running_loop().time()

    async def read(self, work: Callable[[Reading], T], deadline_s: float) -> T:
        """See SharedFile.read. Raises FileBusy when the deadline is over."""
        return await self._carry_out(lambda: self._file.read(work), deadline_s)

    async def write(self, work: Callable[[Writing], T], deadline_s: float) -> T:
        """See SharedFile.write. Raises FileBusy when the deadline is over.

        Cancelling does not undo it: a transaction that is under way is finished.
        """
        return await self._carry_out(lambda: self._file.write(work), deadline_s)

    async def close(self) -> None:
        """Closes the file, behind what is under way."""
        thread = self._thread if self._pid == os.getpid() else None
        try:
            closing = None if thread is None else asyncio.wrap_future(thread.submit(self._file.close))
        except RuntimeError:  # the interpreter is about to end, and its threads have
            closing = None
        if thread is None or closing is None:
            self._file.close()
            return
        await asyncio.shield(closing)
        thread.shutdown(wait=False)

    async def _carry_out(self, attempt: Callable[[], T], deadline_s: float) -> T:
        began_s = self.now_s
        first: FileBusy | None = None
        while True:
            try:
                return await self._once(attempt, deadline_s)
            except FileBusy as busy:
                first = first or busy  # of those in the end, the last may not have got as far as to the file
                left_s = deadline_s - self.now_s
                if left_s <= 0:
                    raise first from None
                await asyncio.sleep(min(self._pause_s(self.now_s - began_s), left_s))

    def _pause_s(self, waited_s: float) -> float:
        longest_s = max(LONGEST_PAUSE_S * (1 - waited_s / PATIENCE_S), SHORTEST_PAUSE_S)
        return self._random.uniform(SHORTEST_PAUSE_S / 2, longest_s)

    async def _once(self, attempt: Callable[[], T], deadline_s: float) -> T:
        future = self._submit(attempt)
        ended = asyncio.wrap_future(future)
        try:
            await asyncio.wait([ended], timeout=max(deadline_s - self.now_s, 0))
        except asyncio.CancelledError:
            future.cancel()  # does nothing to what has begun
            raise
        if not ended.done() and future.cancel():
            raise FileBusy("other calls of this process were not done with the file in time; nothing was begun")
        return await ended  # it has begun, and does not last

    def _submit(self, attempt: Callable[[], T]) -> Future[T]:
        if self._thread is None or self._pid != os.getpid():  # a child has inherited the object, but not its thread
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="kvstore-file")
            self._pid = os.getpid()
        return self._thread.submit(attempt)
