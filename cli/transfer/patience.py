"""Tries again what is safe to try again, for as long as the person is willing to wait.

Only for reads, and for writes that may be applied twice: an import puts the same bytes at the same key whatever
became of the first attempt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cli.errors import CommandFailed, exit_code_of
from kvstore.client_errors import AnswerLost, ClientError, NoNodeReachable, Problem

FIRST_PAUSE_S = 0.1
"""A cluster that lost a node routes around it within a second or so; the first tries are close together."""
LONGEST_PAUSE_S = 2.0
"""A cluster that comes back should not wait for us, nor be hammered while it is away."""
SAY_EVERY_S = 5.0
"""A person wants to know why nothing happens, once in a while."""
PASSING_STATUSES = frozenset({429, 503, 504, 507})
"""Overloaded, too few replicas, no answer in time, no room: all of these end by themselves."""

Result = TypeVar("Result")


class Patience:
    """One command's patience: how long each request is tried, and what the person is told meanwhile."""

    def __init__(self, give_up_after_s: float, say: Callable[[str], None]) -> None:
        self._give_up_after_s = give_up_after_s
        self._say = say
        self._said_at = 0.0

    async def keep_trying(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """What `attempt` returns once it succeeds.

        Errors that won't pass are raised as they are; CommandFailed when passing ones did not pass in time.
        """
        began = time.monotonic()
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await attempt()
            except ClientError as error:
                if not _may_pass(error):
                    raise
                if time.monotonic() - began + pause_s > self._give_up_after_s:
                    raise self._given_up(error) from error
                self._explain_waiting(error)
                await asyncio.sleep(max(pause_s, _asked_to_wait_s(error)))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    def _given_up(self, error: ClientError) -> CommandFailed:
        return CommandFailed(
            f"gave up after {self._give_up_after_s:g} s: {error}. The same command carries on from here",
            exit_code_of(error),
        )

    def _explain_waiting(self, error: ClientError) -> None:
        now = time.monotonic()
        if now - self._said_at >= SAY_EVERY_S:
            self._said_at = now
            self._say(f"trying again: {error}")


def _may_pass(error: ClientError) -> bool:
    return isinstance(error, NoNodeReachable | AnswerLost) or (
        isinstance(error, Problem) and error.status in PASSING_STATUSES
    )


def _asked_to_wait_s(error: ClientError) -> float:
    """The node's own Retry-After, within reason."""
    text = error.headers.get("Retry-After", "") if isinstance(error, Problem) else ""
    return min(float(text), LONGEST_PAUSE_S) if text.isascii() and text.isdigit() else 0.0
