"""Where the nodes of a development cluster stand: names, ports, folders, and the files that say so.

A folder that holds a cluster already belongs to its members at their addresses, so the layout is written down
(dev.json) when the folder is made, and later starts take it from there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cli.errors import CommandFailed, ExitCode
from kvstore.free_ports import is_free
from kvstore.node_process import NodePlan

HOST = "127.0.0.1"
PEER_PORT_OFFSET = 100
"""Peers talk this far above HTTP, which leaves room for as many nodes."""
NODES_MAX = 16
"""Beyond this a single machine shows nothing more."""
BASE_PORT_MAX = 65_535 - PEER_PORT_OFFSET - NODES_MAX
DRAIN_TIMEOUT_S = 3
"""At a desk, nobody waits longer for a stop."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A development cluster's shape."""

    nodes: int = 3
    base_port: int = 7001
    replicas: int = 3
    zones: tuple[str, ...] = ()
    """Dealt out to the nodes in turn; none when empty."""

    def names(self) -> list[str]:
        """n1, n2, and so on."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    def http_port(self, index: int) -> int:
        """Where applications reach the node at that place in names()."""
        return self.base_port + index

    def peer_port(self, index: int) -> int:
        """Where other nodes reach it."""
        return self.base_port + PEER_PORT_OFFSET + index

    def ports(self) -> list[int]:
        """All ports that the cluster listens on."""
        places = range(self.nodes)
        return [self.http_port(index) for index in places] + [self.peer_port(index) for index in places]

    def members(self) -> str:
        """The value of --members."""
        return ",".join(
            f"{name}={HOST}:{self.peer_port(index)}{'@' + zone if (zone := self._zone(index)) else ''}"
            for index, name in enumerate(self.names())
        )

    def plans(self, folder: Path) -> list[NodePlan]:
        """How to start each node, with its data below `folder`."""
        return [
            NodePlan(name, HOST, self.http_port(index), folder / name, self._command(index, folder / name))
            for index, name in enumerate(self.names())
        ]

    def _zone(self, index: int) -> str:
        return self.zones[index % len(self.zones)] if self.zones else ""

    def _command(self, index: int, folder: Path) -> list[str]:
        flags = {
            "--name": self.names()[index],
            "--data": str(folder),
            "--http": f"{HOST}:{self.http_port(index)}",
            "--peer": f"{HOST}:{self.peer_port(index)}",
            "--members": self.members(),
            "--replicas": str(self.replicas),
            "--zone": self._zone(index),
            "--drain-timeout-s": str(DRAIN_TIMEOUT_S),
        }
        # -P: a folder called `cli` where the person stands must not be taken for ours.
        command = [sys.executable, "-P", "-m", "cli", "serve"]
        return command + [part for flag, value in flags.items() if value for part in (flag, value)]


def settled_layout(folder: Path, wishes: Mapping[str, Any]) -> Layout:
    """The layout that the folder remembers, or that the person wishes for; None is no wish.

    Raises CommandFailed when the two differ: members that are written down can't be moved by a flag.
    """
    wished = {name: wish for name, wish in wishes.items() if wish is not None}
    try:
        remembered = json.loads((folder / "dev.json").read_text())
    except FileNotFoundError:
        return replace(Layout(), **wished)
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{folder / 'dev.json'} can't be read: {error}") from error
    layout = Layout(**{**remembered, "zones": tuple(remembered["zones"])})
    differing = [name for name, wish in wished.items() if getattr(layout, name) != wish]
    if differing:
        was = ", ".join(f"--{name.replace('_', '-')} {getattr(layout, name)}" for name in differing)
        raise CommandFailed(
            f"{folder} holds a cluster that was made with {was}, which can't be changed here: "
            "leave the option out, or choose another folder with --data",
            ExitCode.USAGE,
        )
    return layout


def remember_layout(folder: Path, layout: Layout) -> None:
    """Writes the layout down for later starts."""
    write_json(folder / "dev.json", asdict(layout))


def busy_ports(layout: Layout) -> list[int]:
    """Those of the cluster's ports that something listens on already."""
    return [port for port in layout.ports() if not is_free(HOST, port)]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the file so that a reader sees all of it or the one before."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    beside.replace(path)
