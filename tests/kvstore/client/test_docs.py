"""The code of docs/client.md is run as it stands, block after block, against real nodes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import kvstore
from kvstore.client import locking, store
from tests.cluster.harness import ClusterHarness

PAGE = Path(__file__).parents[3] / "docs" / "client.md"
BLOCK = re.compile(r"^## (.*?)$|^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PORTS = ("7001", "7002", "7003")


def blocks() -> list[tuple[str, int, str]]:
    """Each block's heading, first line and code."""
    page, heading, found = PAGE.read_text("utf-8"), "", []
    for match in BLOCK.finditer(page):
        if match[1] is not None:
            heading = match[1]
        else:
            found.append((heading, page.count("\n", 0, match.start(2)), match[2]))
    return found


@pytest.mark.cluster
def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    with ClusterHarness(tmp_path / "nodes") as cluster:
        urls = dict(zip(PORTS, cluster.endpoints, strict=True))
        for _, line, code in blocks():
            here = re.sub(r"http://127\.0\.0\.1:(\d+)", lambda address: urls[address[1]], code)
            exec(compile("\n" * line + here, str(PAGE), "exec"), names)
        names["client"].close()


def test_every_topic_has_code() -> None:
    topics = {heading for heading, _, _ in blocks()}
    assert topics == {
        "First steps", "Levels and receipts", "Conditions and compare-and-set", "Errors", "Many keys", "Locks", "Votes",
        "Elections", "One machine, one file",
    }  # fmt: skip


def test_every_method_and_every_error_is_on_the_page() -> None:
    page = PAGE.read_text("utf-8")
    methods = {name for name, _ in inspect.getmembers(kvstore.Client, inspect.isfunction) if not name.startswith("_")}
    errors = {name for name in kvstore.__all__ if inspect.isclass(getattr(kvstore, name)) and _is_leaf(name)}
    assert [name for name in methods if f".{name}(" not in page] == []
    assert [name for name in errors if name not in page] == []


def test_times_are_those_of_the_code() -> None:
    page = PAGE.read_text("utf-8")
    assert f"timeout={store.TIMEOUT_S}" in page
    assert f"waits up to {store.WAIT_S_MAX / 60:g} minutes" in page
    assert inspect.signature(locking.AsyncHold).parameters["permits"].default == 1


def _is_leaf(name: str) -> bool:
    kind = getattr(kvstore, name)
    return issubclass(kind, kvstore.KvstoreError) and not kind.__subclasses__()
