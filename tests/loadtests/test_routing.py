"""Users of a load test write where their keys' primaries are, by what the nodes themselves count."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.verdict import ExitCode
from tests.cluster.harness import ClusterHarness
from tests.cluster.test_routing import STRAYS_MAX, handed_over
from tests.loadtests.locust_process import run_locust

pytestmark = pytest.mark.cluster

SMALL = ("-u", "6", "-r", "6", "-t", "4s", "--counters", "50")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHarness]:
    with ClusterHarness(tmp_path_factory.mktemp("routed")) as started:
        yield started


@pytest.mark.parametrize(("flags", "is_routed"), [((), True), (("--no-routing",), False)])
def test_strong_writes_go_to_their_primaries_unless_told_not_to(
    cluster: ClusterHarness, tmp_path: Path, flags: tuple[str, ...], is_routed: bool
) -> None:
    before = handed_over(cluster)
    users = (
        "--csv",
        str(tmp_path / "stats"),
        *flags,
        "HotKeyUser",
    )  # others mix levels, and what settles that counts, too
    ended = run_locust(",".join(cluster.endpoints), tmp_path, *SMALL, *users)
    handed = handed_over(cluster) - before

    rows = list(csv.DictReader((tmp_path / "stats_stats.csv").open()))
    named = [row for row in rows if "[strong]" in row["Name"] and row["Type"] in ("PUT", "DELETE")]
    writes = sum(int(row["Request Count"]) for row in named)
    assert writes > 20
    assert (handed <= writes * STRAYS_MAX) == is_routed
    assert {finding["verdict"] for finding in ended.verdict["findings"]} == {"held"}
    assert ended.code in (ExitCode.KEPT, ExitCode.BREACHED)  # how fast it was decides nothing here
