"""Runs `kvstore dev` and looks at it from outside, as a person would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.cluster.cli_runner import Cli
from tests.cluster.harness import clean_environment, is_running, kvstore_command, wait_until


class Dev:
    """One `kvstore dev` and what can be seen of it."""

    def __init__(self, folder: Path, base_port: int) -> None:
        self.folder = folder
        self.base_port = base_port
        self.out = folder.with_suffix(".out")
        self.err = folder.with_suffix(".err")
        self._seen: set[int] = set()
        self.process: subprocess.Popen[bytes]

    def start(self, *arguments: str) -> None:
        """Starts it and waits until cluster.json is there."""
        self.spawn(*arguments)
        began = time.monotonic()
        wait_until(lambda: self._stands() or self.process.poll() is not None, "cluster.json")
        assert self.process.poll() is None, self.err.read_text()
        print(f"dev was ready after {time.monotonic() - began:.2f} s")

    def spawn(self, *arguments: str) -> None:
        """Starts it and does not wait."""
        ports = ("--base-port", str(self.base_port))
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                kvstore_command("dev", "--data", str(self.folder), *ports, *arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=clean_environment(),
            )

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What cluster.json says of each node."""
        nodes = json.loads((self.folder / "cluster.json").read_text())["nodes"]
        self._seen |= {node["pid"] for node in nodes if node["pid"]}
        return {node["name"]: node for node in nodes}

    def cli(self) -> Cli:
        """The command line for this cluster."""
        return Cli([node["http"] for node in self.nodes().values()])

    def end(self, number: signal.Signals) -> int:
        """Sends the signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        """Leaves nothing behind, however the test went."""
        self.process.kill()
        self.process.wait()
        for pid in filter(is_running, self._seen):
            os.kill(pid, signal.SIGKILL)

    def _stands(self) -> bool:
        return (self.folder / "cluster.json").exists()
