"""Runs Locust as people do, in a process of its own: it patches the standard library, which no test shall meet."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.harness import clean_environment

ROOT = Path(__file__).parent.parent.parent
LOCUSTFILE = str(ROOT / "loadtests" / "locustfile.py")
ENDS_S_MAX = 120.0


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    verdict: dict[str, Any]

    def finding(self, check: str) -> dict[str, str]:
        """What came of that check."""
        return next(finding for finding in self.verdict["findings"] if finding["check"] == check)


def locust_command(url: str, folder: Path, *arguments: str) -> list[str]:
    """Locust without its web interface, against these nodes; the verdict goes into the folder."""
    options = ["--headless", "--only-summary", "--nodes", url, "--verdict", str(folder / "verdict.json")]
    return [sys.executable, "-m", "locust", "-f", LOCUSTFILE, *options, "--stop-timeout", "8", *arguments]


def run_locust(url: str, folder: Path, *arguments: str) -> Ended:
    """Waits for its end."""
    return ended(locust_command(url, folder, *arguments), folder)


def ended(command: list[str], folder: Path) -> Ended:
    """Runs any command that leaves a verdict in that folder."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=ENDS_S_MAX,
        check=False,
    )
    out = done.stdout + done.stderr
    print(out)
    verdict = folder / "verdict.json"
    return Ended(done.returncode, out, json.loads(verdict.read_text()) if verdict.exists() else {})
