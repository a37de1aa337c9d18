"""Reads every counter in the end, strongly, through each node that answers."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence

PATIENCE_S = 30.0
"""A node that was killed a moment ago is back within that; nobody answering for so long leaves a check undecided."""
REQUEST_TIMEOUT_S = 6.0
AGAIN_AFTER_S = 0.5


def final_counts(nodes: Sequence[str], counters: Iterable[str]) -> dict[str, list[int]]:
    """What each counter is, by each node that answers; tries again until at least one does, or PATIENCE_S is over."""
    until_s = time.monotonic() + PATIENCE_S
    return {counter: _reads(nodes, counter, until_s) for counter in counters}


def _reads(nodes: Sequence[str], counter: str, until_s: float) -> list[int]:
    while True:
        answers = [_read(node, counter) for node in nodes]
        if told := [answer for answer in answers if answer is not None]:
            return told
        if time.monotonic() > until_s:
            return []
        time.sleep(AGAIN_AFTER_S)


def _read(node: str, counter: str) -> int | None:
    """0 for one that is not there; None without an answer that counts."""
    try:
        with urllib.request.urlopen(f"{node}/v1/kv/{counter}?consistency=strong", timeout=REQUEST_TIMEOUT_S) as answer:
            return int(answer.read())
    except urllib.error.HTTPError as error:
        return 0 if error.code == 404 else None
    except (OSError, ValueError):
        return None
