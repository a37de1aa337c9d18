"""status and replicas against real nodes, and what the exit codes say when nodes are gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cli_runner import Cli
from tests.cluster.harness import ClusterHarness, wait_until


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ClusterHarness]:
    with ClusterHarness(tmp_path, zones=["east", "west", "west"]) as cluster:
        yield cluster


def test_status_and_replicas_tell_who_is_there_and_who_is_not(cluster: ClusterHarness) -> None:
    cli = Cli([cluster.url("n2")])  # the others are found through it
    status = cli("status")
    assert status.code == 0, status.err
    members = {member["name"]: member for member in status.json()["members"]}
    assert {name: (member["zone"], member["ready"]) for name, member in members.items()} == {
        "n1": ("east", "yes"),
        "n2": ("west", "yes"),
        "n3": ("west", "yes"),
    }
    version = cli("put", "where", "here", "-w", "all").json()["version"]
    placement = cli("replicas", "where").json()
    assert {replica["name"]: replica["version"] for replica in placement["replicas"]} == dict.fromkeys(members, version)
    assert [replica["name"] for replica in placement["replicas"] if replica["role"] == "primary"] == [
        placement["primary"]
    ]

    cluster.kill("n3")
    wait_until(lambda: "down" in cli("status", "-o", "table").out.decode(), "n3 to be seen as down")
    status = cli("status")
    assert status.code == 0
    assert {member["name"]: member["ready"] for member in status.json()["members"]}["n3"] == "no answer"
    silent = Cli(cluster.endpoints)("status")
    assert silent.code == 0
    assert f"{cluster.url('n3')} does not answer" in silent.err
    assert silent.json()["unanswered"] == [cluster.url("n3")]
    held = {replica["name"]: replica["version"] for replica in cli("replicas", "where").json()["replicas"]}
    assert held == {"n1": version, "n2": version, "n3": "unreachable"}


def test_no_node_at_all_is_exit_code_8(cluster: ClusterHarness) -> None:
    for name in cluster.names:
        cluster.kill(name)
    cli = Cli(cluster.endpoints)
    assert [cli(*command).code for command in (("status",), ("replicas", "k"), ("list",), ("put", "k", "v"))] == [8] * 4


def test_a_lost_majority_is_exit_code_5_and_a_silent_node_6(cluster: ClusterHarness) -> None:
    alone = Cli([cluster.url("n1")])
    assert alone("put", "k", "before").code == 0
    cluster.stop("n2")
    cluster.stop("n3")
    wait_until(lambda: alone("put", "k", "during", "--timeout", "500ms").code == 5, "n1 to know that it is alone")
    assert alone("get", "k", "--timeout", "500ms").code in {5, 6}
    assert alone("get", "k", "--consistency", "weak").code == 0

    cluster.stop("n1")  # it takes the connection and never answers
    silent = alone("put", "k", "never", "--timeout", "250ms")
    assert silent.code == 6
    assert "may be applied" in silent.err
    for name in cluster.names:
        cluster.cont(name)
