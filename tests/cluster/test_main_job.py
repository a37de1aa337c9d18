"""The main job, end to end, as the README promises it: a real folder goes in while a node is killed, and comes back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sysconfig
import urllib.request
from pathlib import Path

import pytest

from cli.transfer.source_folder import SourceFile, files_below
from tests.cluster.cli_runner import Cli
from tests.cluster.dev_runner import Dev
from tests.cluster.harness import is_running, wait_until


@pytest.fixture(scope="module")
def standard_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of Python's own library: its source files, without what was compiled or installed later."""
    folder = tmp_path_factory.mktemp("library")
    for source in Path(sysconfig.get_path("stdlib")).rglob("*.py"):
        path = source.relative_to(sysconfig.get_path("stdlib"))
        if not {"site-packages", "dist-packages", "__pycache__"}.intersection(path.parts) and not source.is_symlink():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / path)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def has_arrived(http: str, key: str) -> bool:
    with urllib.request.urlopen(f"{http}/v1/kv?prefix={key}&limit=1&consistency=weak", timeout=10) as answer:
        return bool(json.load(answer)["keys"])


@pytest.mark.timeout(600)  # two thousand files on a machine that other tests share
def test_the_standard_library_survives_the_death_of_a_node(dev: Dev, standard_library: Path, tmp_path: Path) -> None:
    before = contents(standard_library)
    assert len(before) > 500
    halfway = [file.path for file in files_below(standard_library, "") if isinstance(file, SourceFile)][
        len(before) // 2
    ]
    dev.start("--restart-after", "1s")
    nodes = dev.nodes()

    importing = dev.cli().started("import", str(standard_library), "--consistency", "strong")
    wait_until(lambda: has_arrived(nodes["n1"]["http"], halfway), "half of the files to arrive")
    os.kill(nodes["n2"]["pid"], signal.SIGKILL)
    assert importing.poll() is None, "the import was over too soon to show anything"
    out, err = importing.communicate(timeout=300)
    assert importing.returncode == 0, err.decode()
    assert json.loads(out) == {"stored": len(before), "unchanged": 0, "failed": []}

    wait_until(lambda: dev.nodes()["n2"]["pid"] != nodes["n2"]["pid"], "n2 to be started again")
    assert is_running(dev.nodes()["n2"]["pid"])
    target = tmp_path / "target"
    exported = Cli([nodes["n3"]["http"]])("export", str(target), "--consistency", "strong")
    assert exported.code == 0, exported.err
    assert contents(target) == before
