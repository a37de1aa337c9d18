"""Load on nodes that lie: a load test that can't fail proves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.correctness.ledger import HOLDERS, INCREMENTS, READS
from loadtests.verdict import ExitCode
from tests.cluster.harness import ClusterHarness
from tests.cluster.ports import PortBlock
from tests.loadtests.locust_process import run_locust
from tests.verify.wrong_node import WrongNode

pytestmark = pytest.mark.cluster

SMALL = ("-u", "8", "-r", "8", "-t", "4s", "--keys", "3", "--counters", "1", "--locks", "1")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHarness]:
    """A single honest node: what is wrong with the others is wrong in front of it."""
    with ClusterHarness(tmp_path_factory.mktemp("honest"), 1, replicas=1) as cluster:
        yield cluster


@pytest.mark.parametrize(
    ("flaw", "user", "check"),
    [
        ("lost-write", "HotKeyUser", INCREMENTS),
        ("double-count", "HotKeyUser", INCREMENTS),
        ("stale-read", "ReadMostlyUser", READS),
        ("two-holders", "LockUser", HOLDERS),
    ],
)
def test_a_lie_is_a_violation(node: ClusterHarness, tmp_path: Path, flaw: str, user: str, check: str) -> None:
    with WrongNode(node.url("n1"), flaw) as wrong:
        ended = run_locust(wrong.url, tmp_path, *SMALL, user)
        assert wrong.lies

    assert ended.code == ExitCode.VIOLATED
    assert ended.finding(check)["verdict"] == "violated"


def test_holders_in_two_workers_are_seen_by_the_master(node: ClusterHarness, tmp_path: Path) -> None:
    ports = PortBlock()
    port = str(ports.base)
    distributed = ("--processes", "2", "--master-bind-host", "127.0.0.1")
    try:
        with WrongNode(node.url("n1"), "two-holders") as wrong:
            ended = run_locust(
                wrong.url, tmp_path, *SMALL, *distributed, "--master-bind-port", port, "--master-port", port, "LockUser"
            )
    finally:
        ports.release()

    assert ended.code == ExitCode.VIOLATED
    assert ended.finding(HOLDERS)["verdict"] == "violated"


def test_thresholds_that_cannot_be_met_are_told_and_decide(node: ClusterHarness, tmp_path: Path) -> None:
    thresholds = tmp_path / "thresholds.toml"
    thresholds.write_text("[any]\np95_ms = 0.000001")
    with WrongNode(node.url("n1"), "none") as honest:
        ended = run_locust(honest.url, tmp_path, *SMALL, "--thresholds", str(thresholds))

    assert ended.code == ExitCode.BREACHED
    assert "broken: p95_ms" in ended.out
    assert {finding["verdict"] for finding in ended.verdict["findings"]} == {"held"}
