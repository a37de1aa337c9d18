"""One thread with an event loop, which carries out what threads without one ask for."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kvstore.errors import OutcomeUnknown

Result = TypeVar("Result")

EXIT_S = 1.0
"""How long a program that ends without close() waits for connections to be closed in an orderly way."""


class BackgroundLoop:
    """A daemon thread and its loop, made when first needed. For any number of threads."""

    def __init__(self, on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """on_close: carried out on the loop before it ends."""
        self._on_close = on_close
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_closed = False
        self._pid = os.getpid()

    @property
    def is_started(self) -> bool:
        """Whether anything was ever asked for."""
        return self._thread is not None

    def run(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """What the work returns or raises. An interrupted wait, by Ctrl-C say, cancels it."""
        if os.getpid() != self._pid:  # before the lock, which another thread may have held as it forked
            raise RuntimeError("this client was made before the process forked; make one after it")
        if threading.current_thread() is self._thread:
            raise RuntimeError("a call without `await` from the client's own loop would wait for itself")
        with self._guard:  # so that whatever is asked for stands before the end of the loop
            loop = self._started()
            future = asyncio.run_coroutine_threadsafe(work(), loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            detail = "The client was closed while this call was under way; what it asked for may be done, or not."
            raise OutcomeUnknown(detail) from None
        except BaseException:
            future.cancel()  # does nothing to what has ended
            raise

    def close(self, timeout_s: float | None = None) -> None:
        """Ends it, for good; again does nothing."""
        if os.getpid() != self._pid:
            return
        with self._guard:
            self._is_closed = True
            thread, loop = self._thread, self._loop
        if thread is None or loop is None or not thread.is_alive() or loop.is_closed():
            return
        if threading.current_thread() is not thread:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout_s)
        else:  # collected as garbage on the loop itself
            loop.stop()

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._is_closed:
            raise RuntimeError("this client is closed")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            # The thread must not keep the owner alive: it knows the loop and what closes, and nothing else.
            self._thread = threading.Thread(
                target=_serve, args=(self._loop, self._on_close), name="kvstore client", daemon=True
            )
            self._thread.start()
            _at_exit.add(self)
        return self._loop


def _serve(loop: asyncio.AbstractEventLoop, on_close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        _cancel_all(loop)
        loop.run_until_complete(on_close())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    """Nobody who waits for a call in another thread may wait for ever."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))


_at_exit: weakref.WeakSet[BackgroundLoop] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for background in list(_at_exit):
        background.close(EXIT_S)
