"""`make bench-cases` in short: real nodes, real clients, and the files that people read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.cases.results import ETCD, KVSTORE, read_results
from tests.cluster.ports import PortBlock

pytestmark = pytest.mark.cluster
SIDES = [KVSTORE, *([ETCD] if shutil.which("etcd") else [])]


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
def test_groups_are_measured_kept_and_shown(tmp_path: Path) -> None:
    ports = PortBlock()
    files = ["--json", str(tmp_path / "cases.json"), "--page", str(tmp_path / "cases.md"), "--plots", str(tmp_path)]
    command = [sys.executable, "-m", "loadtests.cases", "--quick", "--only", "compare-and-set,batch"]
    done = subprocess.run(
        [*command, *files, "--base-port", str(ports.base)], capture_output=True, text=True, timeout=150, check=False
    )
    ports.release()

    assert done.returncode == 0, done.stderr
    groups = read_results(tmp_path / "cases.json").groups
    assert list(groups) == ["compare-and-set", "batch"]
    for group in groups.values():
        for side in SIDES:
            found = [one for one in group.figures if one.side == side]
            assert found
            assert all(one.per_s > 0 and one.wrong == 0 for one in found), found
            assert all(0 < one.p50_ms <= one.p99_ms <= one.p999_ms for one in found), found
    assert "compare-and-set, 8 writers" in (tmp_path / "cases.md").read_text()
    assert {path.name for path in tmp_path.glob("*.svg")} == {"compare-and-set.svg", "batch.svg"}
