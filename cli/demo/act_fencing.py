"""Last act: a lock holder is paused past its lease, wakes up and writes; the store refuses it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cli.demo.stage import Stage, nodes_environment
from cli.demo.story import NotSeen, Story
from kvstore.node_process import dying_with

if TYPE_CHECKING:
    from kvstore.client.values import Value

LOCK, KEY = "report", "report"
TTL_S = 2.0
"""The lease: short, because the story waits for its end."""
TAKE_OVER_S = 30.0
"""How long the successor waits in line."""
ANSWER_S = 20.0
"""For one line from the holder."""
LAST_WORDS_CHARACTERS = 1000


async def fencing(stage: Stage, story: Story) -> None:
    """A real process holds a lock, is stopped by the system, and goes on as if no time had passed."""
    from kvstore.client.values import Fence  # noqa: PLC0415

    story.chapter("A paused lock holder")
    story.tell(
        f"Process A, a program of its own, takes the lock {LOCK!r} for {TTL_S:g} s and is about to write. Then the "
        "system stops it (SIGSTOP), as a long pause or an overloaded machine would. It can't notice."
    )
    async with Holder(stage) as holder:
        first = await holder.told("holds")
        await holder.stop(story)
        story.tell(f"A holds it with fence {first['fence']} and is stopped now. Process B asks for the same lock.")
        asked = story.seconds
        lock = stage.everyone.lock(LOCK, ttl=TTL_S * 10, wait=TAKE_OVER_S, owner="process B")
        await lock.acquire()
        try:
            written = await stage.everyone.put(KEY, "written by B", fence=Fence(LOCK, lock.fence))
            story.see(
                "taken-over",
                lock.fence > first["fence"] and holder.is_stopped,
                f"B has it after {story.seconds - asked:.1f} s, under the higher fence {lock.fence}, and writes",
            )
            story.tell("A goes on (SIGCONT). By its own account it still holds the lock, and it writes.")
            last = await holder.wake_up()
            story.see(
                "fenced",
                (last.get("status"), last.get("code"), last.get("outcome")) == (412, "fenced", "not-applied"),
                f"A writes with fence {first['fence']}: {in_words(last)}",
            )
            read: Value | None = await stage.everyone.get(KEY, consistency="strong")
            story.see(
                "kept",
                read is not None and (read.text, read.version) == ("written by B", written.version),
                f"a strong read shows {read.text if read is not None else None!r}",
            )
        finally:
            await lock.release()


class Holder:
    """The process that holds the lock (see paused_holder.py). An async context manager; it does not outlive it."""

    def __init__(self, stage: Stage) -> None:
        self._endpoints = ",".join(stage.url(name) for name in stage.names)
        self._log = stage.folder / "process-a.log"
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Holder:
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "cli.demo.paused_holder"),
                *(self._endpoints, LOCK, KEY, str(TTL_S)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=nodes_environment(os.environ),
                process_group=0,  # Ctrl-C is ours to heed
                preexec_fn=dying_with(os.getpid()),
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def told(self, event: str) -> dict[str, Any]:
        """The next line that it writes. Raises NotSeen when it is not of that event, or does not come."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(ANSWER_S):
                line = await self._process.stdout.readline()
        except TimeoutError as error:
            raise NotSeen(f"process A said nothing for {ANSWER_S:g} s") from error
        told = json.loads(line) if line else {"event": "its end"}
        if told["event"] != event:
            last_words = self._log.read_text(errors="replace")[-LAST_WORDS_CHARACTERS:]
            raise NotSeen(f"process A was to tell {event!r} and told {told}\n{last_words}")
        return dict(told)

    @property
    def is_stopped(self) -> bool:
        """Whether the system has stopped it, by the word of the system."""
        found = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
        return found is not None and found.si_status == signal.SIGSTOP

    async def stop(self, story: Story) -> None:
        """SIGSTOP, and waits until it has taken effect."""
        self._process.send_signal(signal.SIGSTOP)

        async def stopped() -> bool | None:
            return self.is_stopped or None

        await story.until(stopped, "process A to be stopped")

    async def wake_up(self) -> dict[str, Any]:
        """SIGCONT, the word to write, and what it says of that write."""
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.write(b"write\n")
        await self._process.stdin.drain()
        return await self.told("wrote")


def in_words(told: dict[str, Any]) -> str:
    """What became of the write, for people."""
    if told.get("status") is None:
        return f"taken, version {told.get('version')}"
    return f"{told['status']} {told['code']}, outcome: {told['outcome']}; the key has seen fence {told.get('fence')}"
