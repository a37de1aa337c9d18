"""`kvstore demo` as a person runs it: all is seen, or it says what was not; nothing is left, however it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.demo.claims import CLAIMS
from tests.cluster.cli_runner import Cli
from tests.cluster.harness import is_running, wait_until

A_MINUTE_S = 60.0


class Demo:
    """One run, in a folder of its own for what is temporary."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cli = Cli([])
        self.process: subprocess.Popen[bytes]
        self.told = ""

    def start(self, *arguments: str) -> None:
        """Starts it and does not wait."""
        self.process = self._cli.started("demo", *arguments, TMPDIR=str(self.folder))

    def wait_for(self, text: str) -> None:
        """Reads what it tells until a line has this text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.told += line.decode()
            if text in line.decode():
                return
        raise AssertionError(f"it ended before it told {text!r}:\n{self.told}")

    def end(self) -> tuple[int, str]:
        """Waits for its end: the exit code, and all that it wrote to stderr."""
        out, err = self.process.communicate(timeout=A_MINUTE_S)
        self.told += out.decode()
        return self.process.returncode, err.decode()

    def processes(self) -> list[int]:
        """Those that run below our folder: nodes, and the lock holder once it is there."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and is_running(int(entry.name)) and int(entry.name) != self.process.pid:
                try:
                    words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                except OSError:
                    continue
                if str(self.folder).encode() in words:
                    found.append(int(entry.name))
        return found

    def leaves_nothing(self) -> bool:
        """Whether neither a process nor a file is left."""
        return not self.processes() and not list(self.folder.iterdir())

    def close(self) -> None:
        """Leaves nothing behind, however the test went."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    yield demo
    demo.close()


def test_everything_is_seen_within_a_minute_and_nothing_is_left(demo: Demo) -> None:
    began = time.monotonic()
    demo.start()
    code, err = demo.end()
    assert code == 0, demo.told + err
    assert time.monotonic() - began < A_MINUTE_S
    assert err == ""
    lines = demo.told.splitlines()
    for claim in CLAIMS:
        assert f"seen  {claim.text}" in lines
    assert lines[-1].startswith(f"All {len(CLAIMS)} claims were seen, in ")
    assert "412 fenced" in demo.told
    assert "needed=2, got=1" in demo.told
    assert demo.leaves_nothing()


def test_nodes_that_are_killed_from_outside_are_missed(demo: Demo) -> None:
    demo.start("-o", "json")
    err = io.StringIO()
    assert demo.process.stderr is not None
    for line in demo.process.stderr:
        err.write(line.decode())
        if "3. A vote" in line.decode():
            break
    nodes = demo.processes()
    assert len(nodes) == 3
    for pid in nodes:
        os.kill(pid, signal.SIGKILL)
    code, rest = demo.end()
    err.write(rest)
    assert code == 9, err.getvalue()
    assert "the story can't go on" in err.getvalue()
    verdict = json.loads(demo.told)
    assert verdict["all_seen"] is False
    seen = {claim["name"] for claim in verdict["claims"] if claim["seen"]}
    assert {"cluster", "strong", "weak", "eventual"} <= seen
    assert not seen & {"node-lost", "refused", "healed", "converged", "fenced"}
    assert demo.leaves_nothing()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_can_be_ended_at_any_time_and_leaves_nothing(demo: Demo, number: signal.Signals, code: int) -> None:
    demo.start()
    demo.wait_for("1. A cluster" if number == signal.SIGINT else "4. A node dies")
    wait_until(demo.processes, "the nodes to be started")
    demo.process.send_signal(number)
    ended, err = demo.end()
    assert ended == code, err
    assert "Traceback" not in err
    assert demo.leaves_nothing()


def test_the_folder_is_kept_if_wished(demo: Demo) -> None:
    demo.start("--keep")
    demo.wait_for("2. Each request")
    demo.process.send_signal(signal.SIGTERM)
    code, err = demo.end()
    assert code == 143
    (folder,) = demo.folder.iterdir()
    assert f"the nodes' folders and logs are in {folder}" in err
    assert {path.name for path in folder.iterdir()} == {"n1", "n2", "n3"}
    assert not demo.processes()
