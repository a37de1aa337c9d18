"""An event loop for a whole cluster in one thread: time passes only when nobody has anything to do, and each piece of
work belongs to a process, which can be stopped for a while or killed between any two of them.

Whose work something is, its context says (contextvars): what a process does is done in contexts that bear its Life,
and whatever it schedules inherits them, timers and tasks alike. Killed means that nothing of it runs any more, no
`finally` either; paused, that all of it waits. So one loop does as many processes would, and in an order that depends
on nothing but what was scheduled: tasks and futures hash by the number of their creation, for asyncio keeps them in
sets.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from heapq import heappop, heappush
from itertools import count
from typing import Any

WALL_START_MS = 1_790_000_000_000
"""Unix time at which every simulation begins."""
SPIN_MAX = 1_000_000
"""Pieces of work at one moment; so many are an endless loop."""


class Life:
    """One run of one process."""

    __slots__ = ("context", "held", "is_alive", "is_paused", "loop", "name", "times_paused")

    def __init__(self, name: str, loop: SimulationLoop) -> None:
        self.name, self.loop = name, loop
        self.is_alive, self.is_paused, self.times_paused = True, False, 0
        self.held: list[Handle] = []
        self.context = Context()
        self.context.run(_LIFE.set, self)

    def pause(self) -> None:
        """As SIGSTOP: what is due waits."""
        self.is_paused = True
        self.times_paused += 1

    def resume(self) -> None:
        """As SIGCONT: all that became due meanwhile is done now."""
        self.is_paused = False
        self.loop.take_back(self.held)
        self.held = []

    def kill(self) -> None:
        """As SIGKILL: nothing of it runs any more."""
        self.is_alive = False
        self.loop.graveyard += self.held
        self.held = []


_LIFE: ContextVar[Life | None] = ContextVar("life", default=None)


class Handle:
    """Something that is to be done."""

    __slots__ = ("__weakref__", "arguments", "callback", "context", "is_cancelled", "life", "when_s")

    def __init__(self, callback: Callable[..., object], arguments: tuple[Any, ...], context: Context | None) -> None:
        self.callback, self.arguments = callback, arguments
        self.context = context if context is not None else copy_context()
        self.life = self.context.get(_LIFE)
        self.is_cancelled = False
        self.when_s = 0.0

    def cancel(self) -> None:
        """It is not to be done."""
        self.is_cancelled = True

    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.is_cancelled

    def when(self) -> float:
        """The moment of a timer."""
        return self.when_s


class CountedFuture(asyncio.Future[Any]):
    """Hashes by the number of its creation."""

    def __init__(self, *, loop: SimulationLoop) -> None:
        self._number = next(loop.numbers)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class CountedTask(asyncio.Task[Any]):
    """Hashes by the number of its creation."""

    def __init__(self, work: Coroutine[Any, Any, Any], *, loop: SimulationLoop, **more: Any) -> None:
        self._number = next(loop.numbers)
        super().__init__(work, loop=loop, **more)

    def __hash__(self) -> int:
        return self._number


class SimulationLoop(asyncio.AbstractEventLoop):
    """See above. Nothing real may be waited for on it: no socket, no thread."""

    def __init__(self) -> None:
        self.numbers = count(1)
        self._order = count()
        self._now_s = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self.graveyard: list[Handle] = []
        """What killed processes had still to do: kept, so that nothing of it is torn down at a moment of its own."""
        self.caught: list[str] = []
        """What callbacks raised that nobody caught."""
        self.steps = 0

    def time(self) -> float:
        return self._now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> CountedFuture:
        return CountedFuture(loop=self)

    def create_task(self, work: Any, *, name: Any = None, context: Context | None = None) -> CountedTask:
        return CountedTask(work, loop=self, name=name, context=context)

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        handle = Handle(callback, args, context)
        self._ready.append(handle)
        return handle

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Any:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> Any:
        handle = Handle(callback, args, context)
        handle.when_s = when
        heappush(self._timers, (when, next(self._order), handle))
        return handle

    def take_back(self, handles: list[Handle]) -> None:
        """What was held up is due now."""
        self._ready.extend(handles)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not context["message"].startswith("Task was destroyed"):
            self.caught.append(f"{context['message']}: {context.get('exception')!r}")

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs it to its end; gives or raises what it does."""
        asyncio._set_running_loop(self)
        try:
            main = self.create_task(work)
            self._run_until(main)
            return main.result()
        finally:
            self._end()
            asyncio._set_running_loop(None)

    def _run_until(self, main: asyncio.Task[Any]) -> None:
        ready, timers = self._ready, self._timers
        while not main.done():
            spins = 0
            while ready:
                self._do(ready.popleft())
                spins += 1
                if spins > SPIN_MAX:
                    raise RuntimeError(f"{SPIN_MAX} things were done at one moment, and there is no end")
            self.steps += spins
            if main.done():
                return
            if not timers:
                raise RuntimeError("everybody waits and no timer is set: this would hang for ever")
            self._now_s = max(self._now_s, timers[0][0])
            while timers and timers[0][0] <= self._now_s:
                ready.append(heappop(timers)[2])

    def _do(self, handle: Handle) -> None:
        if handle.is_cancelled:
            return
        life = handle.life
        if life is not None:
            if not life.is_alive:
                self.graveyard.append(handle)
                return
            if life.is_paused:
                life.held.append(handle)
                return
        try:
            handle.context.run(handle.callback, *handle.arguments)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.caught.append(f"{handle.callback!r} raised {error!r}")

    def _end(self) -> None:
        """Takes down what is left, of the dead too."""
        for handle in self.graveyard:
            handle.life = None
        self._ready.extend(self.graveyard)
        self.graveyard = []
        for task in asyncio.all_tasks(self):
            task.cancel()
        for _ in range(20):
            for _ in range(len(self._ready)):
                handle = self._ready.popleft()
                handle.life = None
                if isinstance(getattr(handle.callback, "__self__", None), asyncio.Task):
                    self._do(handle)
        self._ready.clear()
        self._timers.clear()


def own_life() -> Life | None:
    """The process whose work is being done; None for the world's own."""
    return _LIFE.get()
