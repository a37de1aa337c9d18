"""`kvstore lock run`: holds a lock while a command runs, and ends the command when the lock is lost.

The lease is renewed in the background. When no renewal has come through and less of the lease is left than the grace,
the command is asked to end, so that it is gone, killed if need be, before anybody else may hold the lock. Should the
lock be taken from us all the same, the fence stops what the command still writes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.connection import opened_store
from cli.errors import CommandFailed, ExitCode
from cli.locking.command_process import CannotStart, CommandProcess, refuse_what_is_missing
from cli.locking.held_lock import HeldLock, Wish
from cli.locking.names import default_owner, lease_options, name_argument, permits_option
from cli.locking.signals import take_signals
from cli.options import Choices, option, store_options, variable_of
from cli.output import note, visible

if TYPE_CHECKING:
    pass

_OWN_OPTIONS = ("--ttl", "--wait", "--owner", "--permits")


@click.command("run")
@name_argument
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@lease_options
@option("--owner", help="Who holds it, for others to see. [default: user@host:pid of this process]")
@permits_option
@store_options
@click.pass_obj
def run_command(
    choices: Choices,
    *,
    name: str,
    command: tuple[str, ...],
    ttl: float,
    wait: float,
    owner: str | None,
    permits: int,
) -> int:
    """Hold the lock NAME while COMMAND runs: kvstore lock run NAME -- COMMAND...

    The lock is renewed meanwhile, and released at the end. The command finds its fence in KVSTORE_FENCE (not with
    --permits, where several hold it rightly) and the lock's name in KVSTORE_LOCK: `kvstore get`, `put` and `delete`
    under it carry the fence by themselves. Signals are passed on. When the lock is lost the command gets SIGTERM, and
    SIGKILL after 2 s. Exit code: the command's, 128 + the signal that ended it, 127 or 126 if it can't be started; 4
    when the lock is held by others, or lost.
    """
    who = default_owner(os.getpid()) if owner is None else owner
    logging.getLogger("kvstore.client").setLevel(logging.ERROR)  # what it would warn of is told here
    run = LockRun(choices, Wish(name, who, ttl, wait, permits, command))
    try:
        refuse_what_is_missing(command[0])
        return asyncio.run(run.to_its_end())
    except CannotStart as error:
        note(f"kvstore: {error}")
        return error.exit_code
    except asyncio.CancelledError:
        return 128 + (run.interrupted_by or signal.SIGINT)


class LockRun:
    """One run, from the wish for the lock to its release."""

    def __init__(self, choices: Choices, wish: Wish) -> None:
        self._choices, self._wish = choices, wish
        self._process: CommandProcess | None = None
        self._is_over = False
        self._task: asyncio.Task[object] | None = None
        """Ours, for as long as a signal may cancel it: until the command is being started."""
        self._early: list[signal.Signals] = []
        """Signals that came while the command was being started, for it to get as soon as it is."""
        self.interrupted_by: signal.Signals | None = None
        """The signal that came before that."""

    async def to_its_end(self) -> int:
        """The exit code. Raises CannotStart, CommandFailed, KvstoreError; CancelledError when a signal came first."""
        self._task = asyncio.current_task()
        taken = take_signals(self._heed)
        async with opened_store(self._choices) as store:
            held_lock = await HeldLock.acquired(store, self._wish)
            try:
                code = await self._run_command(held_lock, taken)
            except BaseException:
                await held_lock.give_back()
                raise
            if not await held_lock.give_back():
                raise self._lost(f"the command ended with exit code {code}, but others may have held it before that")
            return code

    async def _run_command(self, held_lock: HeldLock, taken: Sequence[signal.Signals]) -> int:
        """Starts the command and waits for its end, or brings it about."""
        wish, loop = self._wish, asyncio.get_running_loop()
        environment = environment_of(os.environ, self._choices, wish, held_lock.fence)
        self._task = None
        self._process = process = await CommandProcess.start(wish.command, environment, taken)
        for number in self._early:
            process.send(number)
        ended = loop.create_task(process.ended())
        lost = loop.create_task(held_lock.until_lost(wish.grace_s))
        try:
            await asyncio.wait([ended, lost], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                note(f"kvstore: {held_lock.why_lost} The command is being ended.")
                await process.end(wish.grace_s)
                raise self._lost(f"the command was ended, with exit code {await ended}")
            return ended.result()
        finally:
            self._process, self._is_over = None, True
            lost.cancel()

    def _heed(self, number: signal.Signals, from_terminal: bool) -> None:
        """Passes a signal on. One that comes before the command ends the wait, one after it changes nothing."""
        if self._process is not None:
            if self._process.own_group or not from_terminal:
                self._process.send(number)
        elif self._task is not None:
            self.interrupted_by = number
            self._task.cancel()
        elif not self._is_over:
            self._early.append(number)

    def _lost(self, what: str) -> CommandFailed:
        return CommandFailed(f"the lock {visible(self._wish.name)!r} was lost: {what}", ExitCode.CONDITION_FAILED)


def environment_of(ours: Mapping[str, str], choices: Choices, wish: Wish, fence: int) -> dict[str, str]:
    """What the command finds: ours without the options of this command, and where the lock is, and which.

    A lease in KVSTORE_TTL, say, would be taken by `kvstore put` for the time after which its value expires.
    """
    dropped = {variable_of(flag) for flag in _OWN_OPTIONS} | {"KVSTORE_FENCE", "KVSTORE_FILE", "KVSTORE_ENDPOINTS"}
    environment = {name: value for name, value in ours.items() if name not in dropped}
    file = choices.chosen_file()
    if file is None:
        environment["KVSTORE_ENDPOINTS"] = ",".join(choices.endpoints)
    else:
        environment["KVSTORE_FILE"] = str(Path(file).absolute())
    if wish.permits == 1:
        environment["KVSTORE_FENCE"] = str(fence)
    return {**environment, "KVSTORE_LOCK": wish.name}
