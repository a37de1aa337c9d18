"""Compose, of either generation, on a project of its own whose ports nobody else uses."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.harness import clean_environment, wait_until
from tests.cluster.ports import PortBlock
from tests.docker.files import ROOT

NODES = ("n1", "n2", "n3")
PROFILES = ("loadtest", "observability")
COMMAND_TIMEOUT_S = 900.0
"""A build installs everything, on a machine that others use."""
HEALTHY_TIMEOUT_S = 120.0
PORTS = ("N1_PORT", "N2_PORT", "N3_PORT", "LOCUST_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")


def run(command: Sequence[str], **variables: str) -> str:
    """What the command writes to stdout. Raises AssertionError with all that it wrote where it fails."""
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert ended.returncode == 0, f"{' '.join(command)}: exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def answers(*command: str) -> bool:
    """Whether the command is there and ends well."""
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
    except OSError:
        return False


@dataclass
class Compose:
    """One project. Images are called kvstore:test and kvstore-loadtest:test and stay, as a cache."""

    command: Sequence[str]
    ports: PortBlock = field(default_factory=PortBlock)
    variables: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.project = f"kvstore-test-{os.getpid()}"
        self.variables |= {name: str(self.ports.base + number) for number, name in enumerate(PORTS)}
        self.variables |= {"KVSTORE_IMAGE": "kvstore:test", "KVSTORE_LOADTEST_IMAGE": "kvstore-loadtest:test"}

    def __call__(self, *arguments: str) -> str:
        """Runs Compose with all profiles; which services are meant stands in the arguments."""
        profiles = [part for profile in PROFILES for part in ("--profile", profile)]
        return run([*self.command, "-p", self.project, *profiles, *arguments], **self.variables)

    def down(self) -> None:
        """Takes everything away, volumes too."""
        self("down", "-v", "--remove-orphans", "-t", "20")

    def url(self, port: str) -> str:
        """Where that port is on this machine."""
        return f"http://127.0.0.1:{self.variables[port]}"

    def endpoint(self, node: str) -> str:
        """A node's address on this machine."""
        return self.url(f"{node.upper()}_PORT")

    def containers(self, service: str = "") -> list[str]:
        """Ids of the service's containers, or all, running or not."""
        return run(["docker", "ps", "-aq", *self._filters(service)]).split()

    def leftovers(self) -> list[str]:
        """Containers, volumes and networks of the project that are still there."""
        filters = self._filters()
        return [
            *self.containers(),
            *run(["docker", "volume", "ls", "-q", *filters]).split(),
            *run(["docker", "network", "ls", "-q", *filters]).split(),
        ]

    def _filters(self, service: str = "") -> list[str]:
        labels = {"project": self.project, **({"service": service} if service else {})}
        return [
            part for name, value in labels.items() for part in ("--filter", f"label=com.docker.compose.{name}={value}")
        ]

    def inspect(self, service: str) -> dict[str, Any]:
        """What the engine says of the service's only container."""
        (container,) = self.containers(service)
        found: dict[str, Any] = json.loads(run(["docker", "inspect", container]))[0]
        return found

    def health(self, service: str) -> str:
        """What its health check came to."""
        state = self.inspect(service)["State"]
        return str(state.get("Health", {}).get("Status", "")) if state["Running"] else "not running"

    def wait_healthy(self, *nodes: str) -> None:
        """Waits until these nodes, or all, are healthy."""
        for node in nodes or NODES:
            wait_until(
                lambda node=node: self.health(node) == "healthy", f"{node} to be healthy", HEALTHY_TIMEOUT_S, 0.3
            )  # type: ignore[misc]
