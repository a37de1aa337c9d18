"""Locks are tested in virtual time; everything else here talks to real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.coordination.virtual_time import VirtualTimeLoop

VIRTUAL_TIME = {"test_locking.py"}


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop of each test."""
    return {"loop": VirtualTimeLoop if item.path.name in VIRTUAL_TIME else asyncio.SelectorEventLoop}
