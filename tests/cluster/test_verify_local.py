"""`kvstore verify --local`: a minute of faults on real processes, all workloads at once. It must end valid."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cli.errors import ExitCode
from kvstore.verify.faults.schedule import GROUPS
from kvstore.verify.load import WORKLOADS
from tests.cluster.cli_runner import Cli
from tests.cluster.harness import wait_until

FAULTS = "kill,pause,partition,clock"
SEED = "20261127"


@pytest.mark.timeout(300)
def test_a_minute_of_faults_ends_valid_and_every_fault_was_seen_to_act(tmp_path: Path) -> None:
    ended = Cli([])(
        *("verify", "--local", "--time", "60s", "--faults", FAULTS, "--seed", SEED, "--rate", "120"),
        *("--data", str(tmp_path), "-o", "json"),
    )
    assert ended.code == ExitCode.DONE, f"{ended.out.decode()}\n{ended.err}"
    said = ended.json()
    assert said["verdict"] == "valid"
    assert said["owed"] == said["not_seen_to_act"] == []
    acted = {fault["fault"] for fault in said["faults"] if fault["acted"]}
    assert acted == {"kill", "pause", *GROUPS["partition"], *GROUPS["clock"]}
    assert sum(fault["calls_failed"] for fault in said["faults"]), "no call failed: were there faults?"
    assert {row["workload"] for row in said["done"]} == set(WORKLOADS)
    assert all(row["ok"] for row in said["done"])
    assert Path(said["history"]).stat().st_size


def test_a_run_that_is_ended_leaves_no_process(tmp_path: Path) -> None:
    process = Cli([]).started("verify", "--local", "--time", "60s", "--data", str(tmp_path), "--faults", "none")
    wait_until(lambda: len(nodes_below(tmp_path)) == 3, "three nodes to run")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert not nodes_below(tmp_path)


def test_a_run_that_is_killed_takes_its_nodes_along(tmp_path: Path) -> None:
    process = Cli([]).started("verify", "--local", "--time", "60s", "--data", str(tmp_path), "--faults", "disk-full")
    wait_until(lambda: len(nodes_below(tmp_path)) >= 3, "three nodes to run")
    process.kill()
    process.communicate()
    wait_until(lambda: not nodes_below(tmp_path), "the nodes to be gone")


def nodes_below(folder: Path) -> list[int]:
    """The processes that have the folder in their command line, without the run's own."""
    found = []
    for entry in os.scandir("/proc"):
        try:
            words = Path(entry.path, "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if b"serve" in words and any(str(folder).encode() in word for word in words):
            found.append(int(entry.name))
    return found
