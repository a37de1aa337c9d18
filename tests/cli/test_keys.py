"""What `put`, `get` and `list` make of their options."""

from __future__ import annotations

import pytest

from cli.data.keys import query_of


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250ms"), (2.0, "2s"), (90.0, "90s"), (1.5, "1500ms"), (0.0, "0s"), (315_360_000.0, "315360000s")],
)
def test_durations_are_written_as_nodes_read_them(seconds: float, text: str) -> None:
    """Ten years in milliseconds have more digits than a node takes."""
    assert query_of(ttl=seconds, timeout=None, w="all") == {"ttl": text, "w": "all"}
