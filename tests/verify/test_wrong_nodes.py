"""`kvstore verify --endpoints` against nodes that lie: a verification that can't fail proves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.errors import ExitCode
from tests.cluster.cli_runner import Cli, Ended
from tests.cluster.harness import ClusterHarness
from tests.verify.wrong_node import WrongNode

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterHarness]:
    """A single honest node: what is wrong with the others is wrong in front of it."""
    with ClusterHarness(tmp_path_factory.mktemp("honest"), 1, replicas=1) as cluster:
        yield cluster


def verify(url: str, folder: Path, workload: str, time: str = "4s", *more: str) -> Ended:
    """Runs the command against that one address."""
    return Cli([url])(
        *("verify", "--endpoints", url, "--workload", workload, "--time", time, "--seed", "7"),
        *("--data", str(folder), "-o", "json", "--rate", "200", *more),
    )


@pytest.mark.parametrize(
    ("flaw", "workload", "check"),
    [
        ("lost-write", "register", "linearizability"),
        ("stale-read", "register", "linearizability"),
        ("stale-read", "mixed", "linearizability"),
        ("lost-element", "set", "set"),
        ("two-winners", "vote", "vote"),
        ("two-holders", "lock", "lock"),
        ("double-count", "counter", "counter"),
    ],
)
def test_a_lie_is_noticed(node: ClusterHarness, tmp_path: Path, flaw: str, workload: str, check: str) -> None:
    with WrongNode(node.url("n1"), flaw) as wrong:
        ended = verify(wrong.url, tmp_path, workload)
        assert wrong.lies
    said = ended.json()
    assert ended.code == ExitCode.VIOLATION, ended.err
    assert said["verdict"] == "violated"
    assert check in {finding["check"] for finding in said["findings"]}
    assert Path(said["history"]).read_bytes()
    assert "<html" in Path(said["timeline"]).read_text()


def test_who_tells_the_truth_is_valid_and_nothing_of_the_run_is_left(node: ClusterHarness, tmp_path: Path) -> None:
    with WrongNode(node.url("n1"), "none") as honest:
        ended = verify(honest.url, tmp_path, "all")
    said = ended.json()
    assert ended.code == ExitCode.DONE, ended.err
    assert said["verdict"] == "valid"
    assert all(row["ok"] for row in said["done"])
    listed = Cli(node.endpoints)("list", f"verify/{said['run']}/", "-o", "json").json()
    assert not listed["keys"]
    assert any("votes" in line for line in said["told"])


def test_keep_keeps_the_keys(node: ClusterHarness, tmp_path: Path) -> None:
    ended = verify(node.url("n1"), tmp_path, "register", "1s", "--keep")
    listed = Cli(node.endpoints)("list", f"verify/{ended.json()['run']}/", "-o", "json").json()
    assert listed["keys"]


def test_other_keys_are_left_alone(node: ClusterHarness, tmp_path: Path) -> None:
    cli = Cli(node.endpoints)
    assert cli("put", "verify", "mine").code == ExitCode.DONE
    assert cli("put", "verify/mine", "mine").code == ExitCode.DONE
    verify(node.url("n1"), tmp_path, "all", "1s")
    assert cli("get", "verify").out == b"mine"
    assert cli("get", "verify/mine").out == b"mine"


def test_nobody_at_home(tmp_path: Path) -> None:
    ended = verify("http://127.0.0.1:1", tmp_path, "all", "1s")
    assert ended.code == ExitCode.UNREACHABLE
