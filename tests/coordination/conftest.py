"""The tests of this folder run in virtual time, except where a module talks to real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.coordination.virtual_time import VirtualTimeLoop

REAL_TIME = {"test_link.py"}


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop of each test."""
    return {"loop": asyncio.SelectorEventLoop if item.path.name in REAL_TIME else VirtualTimeLoop}


@pytest.fixture(autouse=True)
async def faults() -> AsyncIterator[list[dict[str, Any]]]:
    """What the event loop had to catch. A callback that fails is a bug of somebody, whatever else the test shows."""
    caught: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: caught.append(context))
    yield caught
    assert caught == []
