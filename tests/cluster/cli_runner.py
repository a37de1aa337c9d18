"""Runs the command line as a person or a script would: a process with arguments, pipes and an exit code."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.cluster.harness import clean_environment, kvstore_command

COMMAND_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it wrote."""

    code: int
    out: bytes
    err: str

    def json(self) -> Any:
        """What it wrote to stdout."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Cli:
    """The program, told which nodes to ask."""

    endpoints: Sequence[str]

    def __call__(self, *arguments: str | bytes, stdin: bytes = b"", **variables: str) -> Ended:
        """Runs one command to its end."""
        done = subprocess.run(
            [*kvstore_command(), *arguments],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=COMMAND_TIMEOUT_S,
            env=self.environment(**variables),
        )
        return Ended(done.returncode, done.stdout, done.stderr.decode())

    def started(self, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
        """Starts one command and does not wait for it."""
        return subprocess.Popen(
            [*kvstore_command(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment(**variables),
            preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - the tests have no threads at this moment
        )

    def environment(self, **variables: str) -> dict[str, str]:
        """What the command finds in its environment."""
        return clean_environment(**{"KVSTORE_ENDPOINTS": ",".join(self.endpoints), **variables})


def _heed_ctrl_c() -> None:
    """A shell's background job, such as `make test &`, hands down that SIGINT is ignored; a person's does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
