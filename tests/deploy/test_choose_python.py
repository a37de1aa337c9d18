"""Which interpreter the environment is made with: real ones, and programs that stand in their place."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "choose_python.py"
NAME = f"python{sys.version_info.major}.{sys.version_info.minor}"
KIND = f"{sysconfig.get_config_var('SOABI')} {sys.platform}"


def chosen(*folders: Path) -> tuple[str, str]:
    """What it prints, and what it says of it, with these folders in front of the PATH."""
    path = os.pathsep.join([*map(str, folders), os.environ["PATH"]])
    run = subprocess.run(
        [sys.executable, str(SCRIPT)], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    return run.stdout.strip(), run.stderr


def stand_in(folder: Path, says: str) -> Path:
    """A program in an interpreter's place."""
    folder.mkdir()
    program = folder / NAME
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    return program


def test_it_is_an_interpreter_of_the_same_version() -> None:
    """Packages are pinned for the version that was asked, and the rest of make goes by it."""
    python, _ = chosen()
    code = "import sysconfig; print(sysconfig.get_config_var('SOABI'))"
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == sysconfig.get_config_var("SOABI")


def test_one_that_is_clearly_faster_is_taken_and_said(tmp_path: Path) -> None:
    """Whoever wonders why another Python is used is told."""
    fast = stand_in(tmp_path / "fast", f"echo 0.0000001 {KIND}")
    python, said = chosen(tmp_path / "fast")
    assert python == str(fast)
    assert f"{fast} is" in said
    assert sys.executable in said


@pytest.mark.parametrize(
    "says",
    ["exit 127", "echo nonsense", f"echo 1e9 {KIND}", "echo 0.0000001 cpython-313t-elsewhere linux", ":"],
    ids=["fails", "noise", "slow", "other kind", "silent"],
)
def test_what_is_no_better_or_does_not_work_is_passed_over(tmp_path: Path, says: str) -> None:
    """Shims of version managers, other builds' interfaces."""
    bad = stand_in(tmp_path / "bad", says)
    assert chosen(tmp_path / "bad")[0] != str(bad)
