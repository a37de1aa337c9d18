"""What is tried again, what is not, and when it ends."""

from __future__ import annotations

import pytest

from cli.errors import CommandFailed, ExitCode
from cli.transfer.patience import Patience
from kvstore.client_errors import AnswerLost, ClientError, NoNodeReachable, Problem


class Attempts:
    """Fails with each of the errors in turn, then succeeds."""

    def __init__(self, *errors: ClientError) -> None:
        self.left = list(errors)
        self.made = 0

    async def __call__(self) -> str:
        """One attempt."""
        self.made += 1
        if self.left:
            raise self.left.pop(0)
        return "done"


def problem(status: int) -> Problem:
    return Problem(status, {"detail": "no"}, {})


@pytest.mark.parametrize(
    "error", [NoNodeReachable("x"), AnswerLost("x"), problem(429), problem(503), problem(504), problem(507)]
)
async def test_what_passes_is_tried_again(error: ClientError) -> None:
    said: list[str] = []
    patience = Patience(60.0, said.append)
    attempts = Attempts(error)
    assert await patience.keep_trying(attempts) == "done"
    assert attempts.made == 2
    assert said == [f"trying again: {error}"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 412, 413, 500])
async def test_what_does_not_pass_is_told_at_once(status: int) -> None:
    attempts = Attempts(problem(status))
    with pytest.raises(Problem):
        await Patience(60.0, print).keep_trying(attempts)
    assert attempts.made == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoNodeReachable("x"), ExitCode.UNREACHABLE),
        (AnswerLost("x"), ExitCode.UNKNOWN),
        (problem(503), ExitCode.NOT_APPLIED),
        (problem(504), ExitCode.UNKNOWN),
    ],
)
async def test_patience_ends_with_the_code_of_the_last_error(error: ClientError, code: ExitCode) -> None:
    with pytest.raises(CommandFailed, match="gave up after 0 s") as caught:
        await Patience(0.0, print).keep_trying(Attempts(error))
    assert caught.value.code == code
