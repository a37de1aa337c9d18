"""Statements over many rows at once, in a few fixed sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Statement = tuple[str, Sequence[Any]]

SIZES = (64, 32, 16, 8, 4, 2, 1)
"""Rows per statement: a few sizes, so that every statement stays prepared. 64 hints are 896 parameters, below the 999
that SQLite once allowed, and more would be no faster."""


def in_sizes(statement: Callable[[int], str]) -> dict[int, str]:
    """The statement for each size, the largest first."""
    return {size: statement(size) for size in SIZES}


def many(sizes: Mapping[int, str], rows: Sequence[Sequence[Any]]) -> Iterator[Statement]:
    """The rows in as few statements as the sizes allow."""
    start = 0
    for size, sql in sizes.items():
        while len(rows) - start >= size:
            yield sql, [field for row in rows[start : start + size] for field in row]
            start += size
