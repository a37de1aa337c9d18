"""The command under `lock run`: starting it, passing signals on to it, ending it with all that it has started.

Whose is Ctrl-C? A terminal sends its signals to one process group, the one in its foreground, and lets only that one
read. So at a terminal the command stays in our group, as it would with `env` or `nice` in front of it: Ctrl-C and
Ctrl-Z reach it as ever, a script around us ends with it, and it can read what is typed. It gets such a signal from
the terminal itself and must not get it from us a second time. Anywhere else the command has a group of its own, which
is signalled whole, and which no signal meant for our caller's group reaches unless we pass it on.

At a terminal "all that it has started" can't be our group, which may hold the script that called us and the other
ends of our pipes. There it is our descendants; the kernel hands us those whose parent ended before them.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from kvstore.node_process import dying_with

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""What shells exit with when a command can't be started."""
POLL_EVERY_S = 0.02
"""Nobody tells us when the last of a group is gone; a look costs microseconds."""
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class CommandProcess:
    """The command, from its start to its end."""

    def __init__(self, process: asyncio.subprocess.Process, own_group: bool) -> None:
        self._process = process
        self.own_group = own_group
        """Whether it stands in a process group of its own; if not, the terminal's signals reach it without us."""

    @classmethod
    async def start(
        cls, command: Sequence[str], environment: Mapping[str, str], blocked: Iterable[signal.Signals]
    ) -> CommandProcess:
        """Starts the command on our stdin, stdout and stderr. Dies with us. Raises CannotStart.

        blocked: the signals that we keep from ourselves, and that it shall not inherit so.
        """
        own_group = not in_a_terminals_foreground()
        if not own_group:
            _adopt_orphans()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                close_fds=False,  # what our caller opened for it is the command's, too; what we open is never inherited
                process_group=0 if own_group else None,
                preexec_fn=_in_the_child(blocked),
            )
        except OSError as error:
            raise CannotStart(command[0], error) from error
        return cls(process, own_group)

    async def ended(self) -> int:
        """Waits for the end: the exit code as a shell has it, 128 + the number of the signal that ended it."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    def send(self, number: signal.Signals) -> None:
        """Sends the signal to the command and all that it has started."""
        with suppress(ProcessLookupError):
            if self.own_group:
                os.killpg(self._process.pid, number)
                return
        if not self.own_group:
            for pid in self._descendants():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    async def end(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL for whoever is left when the grace is over."""
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)  # one that is stopped could not heed it
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._process.wait()
                while self._is_anyone_left():  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(POLL_EVERY_S)
        self.send(signal.SIGKILL)
        await self._process.wait()

    def _is_anyone_left(self) -> bool:
        if not self.own_group:
            return bool(self._descendants())
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's, whom our signals don't reach either
            return False
        return True

    def _descendants(self) -> list[int]:
        if sys.platform == "linux":
            return descendants(os.getpid())
        return [self._process.pid] if self._process.returncode is None else []


class CannotStart(Exception):
    """The command can't be started."""

    def __init__(self, name: str, error: OSError) -> None:
        super().__init__(f"{name!r} can't be started: {error.strerror}")
        self.exit_code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        """What a shell would exit with."""


def refuse_what_is_missing(name: str) -> None:
    """Raises CannotStart for a command that is nowhere: nobody should stand in line first, to learn that then."""
    if shutil.which(name, os.F_OK) is None and not Path(name).is_dir():
        raise CannotStart(name, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))


def in_a_terminals_foreground() -> bool:
    """Whether a terminal's keys send their signals to our process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def descendants(ancestor: int) -> list[int]:
    """The processes below this one that run, by what /proc tells; parents before their children."""
    children: dict[int, list[int]] = {}
    ended = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):  # gone meanwhile
            continue
        children.setdefault(int(parent), []).append(int(entry.name))
        if state in "ZX":
            ended.add(int(entry.name))
    found, unseen = [], [ancestor]
    while unseen:
        below = children.get(unseen.pop(0), [])
        found += below
        unseen += below
    return [pid for pid in found if pid not in ended]


def _adopt_orphans() -> None:
    """Makes us, not init, the parent of descendants whose own parent has ended."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - nobody else needs it

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _in_the_child(blocked: Iterable[signal.Signals]) -> Callable[[], None]:
    """For preexec_fn: what the command must not inherit, and that it dies with us."""
    bind_life = dying_with(os.getpid())

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
        if bind_life is not None:
            bind_life()

    return prepare
