"""The router is tested in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.coordination.virtual_time import VirtualTimeLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop of each test."""
    return {"loop": VirtualTimeLoop}
