"""`make loadtest` in short: real nodes, real Locust with workers, and the files that people read."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

from loadtests.verdict import ExitCode
from tests.cluster.ports import PortBlock
from tests.loadtests.locust_process import Ended, ended

pytestmark = pytest.mark.cluster

ROOMY = '[any]\nfailures_max = 0.5\n[requests."GET /v1/kv [strong]"]\nrequests_min = 1\n'
"""Other tests share the machine, and time never decides a test."""


def run(folder: Path, profile: str, time: str) -> Ended:
    ports, thresholds = PortBlock(), folder / "thresholds.toml"
    thresholds.write_text(ROOMY)
    options = ("--profile", profile, "--time", time, "--users", "12", "--base-port", str(ports.base))
    try:
        return ended(
            [sys.executable, "-m", "loadtests", *options, "--report", str(folder), "--thresholds", str(thresholds)],
            folder,
        )
    finally:
        ports.release()


def test_a_short_run_keeps_its_promises_and_reports_by_level(tmp_path: Path) -> None:
    done = run(tmp_path, "steps", "10s")

    assert done.code == ExitCode.KEPT
    assert {finding["verdict"] for finding in done.verdict["findings"]} == {"held"}
    assert str(tmp_path / "report.html") in done.out
    html = (tmp_path / "report.html").read_text()
    rows = {(row["Type"], row["Name"]) for row in csv.DictReader((tmp_path / "stats_stats.csv").open())}
    for level in ("strong", "weak", "eventual"):
        assert ("GET", f"/v1/kv [{level}]") in rows
        assert f"/v1/kv [{level}]" in html
    assert ("CHECK", "no lost increment") in rows


def test_chaos_kills_nodes_and_promises_hold(tmp_path: Path) -> None:
    done = run(tmp_path, "chaos", "10s")

    assert "is killed (SIGKILL" in done.out
    assert "is back" in done.out
    assert {finding["verdict"] for finding in done.verdict["findings"]} == {"held"}
    assert done.code == ExitCode.KEPT
