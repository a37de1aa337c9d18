"""Fixtures of the tests with real node processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.client import Client
from tests.cluster.dev_runner import Dev
from tests.cluster.harness import ClusterHarness
from tests.cluster.ports import PortBlock


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/cluster/" in item.path.as_posix():
            item.add_marker(pytest.mark.cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Adds the nodes' last log lines to a failed test's report."""
    report: Any = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, ClusterHarness):
                report.sections.append(("node logs", value.logs()))
    return report


@pytest.fixture(scope="module")
def cluster3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHarness]:
    """Three nodes, shared by the tests of a module: leave all of them running and ready."""
    with ClusterHarness(tmp_path_factory.mktemp("cluster3")) as cluster:
        yield cluster


@pytest.fixture
def clients(cluster3: ClusterHarness) -> Iterator[dict[str, Client]]:
    """A client for each node, by its name."""
    opened = {name: Client(cluster3.http_address(name)) for name in cluster3.names}
    yield opened
    for client in opened.values():
        client.close()


@pytest.fixture
def ports() -> Iterator[PortBlock]:
    """A block of ports for a test that starts its own processes."""
    block = PortBlock()
    yield block
    block.release()


@pytest.fixture
def dev(tmp_path: Path, ports: PortBlock) -> Iterator[Dev]:
    """A `kvstore dev` that the test starts itself; nothing of it outlives the test."""
    dev = Dev(tmp_path / "data", ports.base)
    yield dev
    dev.close()
