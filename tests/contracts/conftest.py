"""An engine of each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage import Engine
from tests.contracts.folders import Folders


@pytest.fixture(params=["sqlite", "memory"])
async def folders(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Folders]:
    made = Folders(request.param, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def engine(folders: Folders) -> Engine:
    return await folders.opened()
