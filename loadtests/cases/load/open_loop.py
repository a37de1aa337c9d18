"""Starts the generator of fixed arrival rates, in a process of its own, and takes what came of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import msgspec

from loadtests.cases.load.generator import Order, Outcome

LATE_S = 30
"""After the time that it was given."""


class NoOutcome(Exception):
    """The generator ended without one; why stands in the message."""


def open_loop(order: Order, when_it_begins: Callable[[float], None] = lambda _: None) -> Outcome:
    """Carries the order out. Raises NoOutcome.

    when_it_begins: called with the first request's second on time.monotonic(), while the generator goes on.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "loadtests.cases.load.generator"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(order))
        process.stdin.close()
        process.stdin = None
        began = process.stdout.readline()
        if began:
            when_it_begins(float(began))
        said, complaint = process.communicate(timeout=order.seconds + order.patience_s + LATE_S)
        if process.returncode or not said:
            raise NoOutcome(complaint.decode(errors="replace")[-1000:] or "it said nothing")
        return msgspec.json.decode(said, type=Outcome)
    except subprocess.TimeoutExpired as error:
        raise NoOutcome("it did not come to an end") from error
    finally:
        process.kill()
        process.wait()
