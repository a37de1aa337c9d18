"""Exit codes, and which of them an error becomes.

A script that calls `kvstore` learns from the code alone whether its write surely did not happen (5), may have
happened (6), or lost against its condition (4).
"""

from __future__ import annotations

from enum import IntEnum

from kvstore import errors
from kvstore.client_errors import AnswerLost, ClientError, NoNodeReachable, Problem


class ExitCode(IntEnum):
    """What the program's exit says."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONDITION_FAILED = 4
    NOT_APPLIED = 5
    """Too few replicas, or no room: surely not applied."""
    UNKNOWN = 6
    """May be applied, now or later; or a read that got no answer in time."""
    NOT_ALLOWED = 7
    UNREACHABLE = 8
    VIOLATION = 9
    INTERRUPTED = 130
    """128 + SIGINT, as shells have it."""
    READER_GONE = 141
    """128 + SIGPIPE: whoever read stdout has gone, as `head` does; other tools die of the signal itself."""


CODE_OF_STATUS = {
    400: ExitCode.USAGE,
    401: ExitCode.NOT_ALLOWED,
    403: ExitCode.NOT_ALLOWED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONDITION_FAILED,
    410: ExitCode.CONDITION_FAILED,
    412: ExitCode.CONDITION_FAILED,
    413: ExitCode.USAGE,
    414: ExitCode.USAGE,
    415: ExitCode.USAGE,
    429: ExitCode.NOT_APPLIED,
    431: ExitCode.USAGE,
    503: ExitCode.NOT_APPLIED,
    504: ExitCode.UNKNOWN,
    507: ExitCode.NOT_APPLIED,
}


class CommandFailed(Exception):
    """A command ends with this message and exit code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.UNEXPECTED) -> None:
        super().__init__(message)
        self.code = code


CODE_OF_ERROR: tuple[tuple[type[errors.KvstoreError], ExitCode], ...] = (
    (errors.NoNodeReachable, ExitCode.UNREACHABLE),
    (errors.BadRequest, ExitCode.USAGE),
    (errors.NotAllowed, ExitCode.NOT_ALLOWED),
    (errors.Unavailable, ExitCode.NOT_APPLIED),
    (errors.ConditionFailed, ExitCode.CONDITION_FAILED),
    (errors.LockHeld, ExitCode.CONDITION_FAILED),
    (errors.LockLost, ExitCode.CONDITION_FAILED),
    (errors.OutcomeUnknown, ExitCode.UNKNOWN),
    (errors.ReadFailed, ExitCode.UNKNOWN),
)
"""Of the errors that applications are told (kvstore/errors.py); each stands for those below it in the tree."""


def exit_code_of(error: ClientError | errors.KvstoreError) -> ExitCode:
    """The exit code that an error of the client becomes."""
    match error:
        case errors.KvstoreError():
            return _exit_code_of(error)
        case NoNodeReachable():
            return ExitCode.UNREACHABLE
        case AnswerLost() | Problem(outcome="unknown"):
            return ExitCode.UNKNOWN
        case Problem(status=status):
            return CODE_OF_STATUS.get(status, ExitCode.UNEXPECTED)
    return ExitCode.UNEXPECTED


def _exit_code_of(error: errors.KvstoreError) -> ExitCode:
    """By the error's class or, where no class of the tree fits its status, by the status."""
    for kind, code in CODE_OF_ERROR:
        if isinstance(error, kind):
            return code
    return CODE_OF_STATUS.get(error.status or 0, ExitCode.UNEXPECTED)
