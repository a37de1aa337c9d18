"""The machine a figure belongs to, and the versions that made it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import psutil

from loadtests.cases.results import Machine

NOT_THERE = "not installed"


def this_machine() -> Machine:
    """As it is now."""
    return Machine(
        cpu=_cpu(),
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        etcd=_version("etcd", "--version", r"etcd Version: (\S+)"),
        wrk=_version("wrk", "-v", r"wrk (\S+)"),
    )


def this_revision() -> str:
    """The commit that is measured, with a + where files differ from it; `unknown` outside a repository."""
    folder = Path(__file__).parent
    try:
        commit = _said(["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]).strip()
        changed = _said(["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"]).strip()
    except OSError:
        return "unknown"
    return f"{commit}{'+' if changed else ''}" if commit else "unknown"


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _version(program: str, flag: str, pattern: str) -> str:
    if not shutil.which(program):
        return NOT_THERE
    found = re.search(pattern, _said([program, flag]))
    return found[1] if found else "unknown"


def _said(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + (done.stderr if command[0] == "wrk" else "")
