"""The demo's cluster: three real node processes on free ports, in a folder that goes with them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import CommandFailed
from cli.local.layout import HOST, Layout, busy_ports
from cli.local.supervisor import Supervisor
from cli.output import note
from kvstore.node_process import NodeProcess

if TYPE_CHECKING:  # imported when the story begins: `demo --help` needs no client
    from kvstore.client.asynchronous import AsyncClient
    from kvstore.http_client import HttpClient

PORTS = range(10_000, 13_800, 200)
"""Where three times two free ports are looked for: below those that the system deals out, above well-known ones."""
CLAIM_OFFSET = 50
"""From the first port to the one that is held as a claim on the others; the nodes use none near it."""
REQUEST_TIMEOUT_S = 5.0


class Stage:
    """Three nodes, and a client of each. An async context manager; it leaves nothing running and no folder."""

    def __init__(self, keep_folder: bool) -> None:
        """keep_folder: the folder stays, and a note says where."""
        self._keep_folder = keep_folder
        self._place = Place(random.Random())
        self._layout = self._place.layout
        self.folder = Path(tempfile.mkdtemp(prefix="kvstore-demo-"))
        self._supervisor = Supervisor(
            self._layout.plans(self.folder), nodes_environment(os.environ), restart_after_s=None, say=note
        )
        self._nodes = {node.plan.name: node for node in self._supervisor.nodes}
        self.names = list(self._nodes)
        self.clients: dict[str, AsyncClient] = {}
        """One client for each node, by its name, that asks this node only."""
        self.everyone: AsyncClient
        """A client that goes on with another node when one is away, as applications have it."""
        self.http: HttpClient
        """For what is not about keys: asks the node that it is told to."""

    async def __aenter__(self) -> Stage:
        import kvstore  # noqa: PLC0415
        from kvstore.http_client import HttpClient  # noqa: PLC0415

        self.clients = {name: kvstore.connect_async([self.url(name)], timeout=REQUEST_TIMEOUT_S) for name in self.names}
        self.everyone = kvstore.connect_async([self.url(name) for name in self.names], timeout=REQUEST_TIMEOUT_S)
        self.http = HttpClient([self.url(name) for name in self.names])
        await self.http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            for client in (*self.clients.values(), self.everyone):
                await client.close()
            await self.http.__aexit__(None, None, None)
        finally:
            await self._supervisor.stop()
            self._place.release()
            if self._keep_folder:
                note(f"the nodes' folders and logs are in {self.folder}")
            else:
                shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def ports(self) -> list[int]:
        """Where the nodes speak HTTP."""
        return [self._layout.http_port(index) for index in range(self._layout.nodes)]

    def url(self, name: str) -> str:
        """The node's HTTP address."""
        return f"http://{HOST}:{self._nodes[name].plan.http_port}"

    def others(self, *names: str) -> list[str]:
        """All nodes but these."""
        return [name for name in self.names if name not in names]

    async def start(self) -> None:
        """Starts all nodes and waits until they are ready. Raises CommandFailed."""
        await self._supervisor.start()

    async def kill(self, name: str) -> int:
        """SIGKILL, as a power cut has it: the node can't prepare for it. The process id that is gone."""
        node = self._nodes[name]
        pid = node.pid
        if pid is None:
            raise CommandFailed(f"{name} had ended already: {await node.ended()}{node.last_words()}")
        node.send(signal.SIGKILL)
        await node.ended()
        return pid

    async def start_again(self, name: str) -> None:
        """Starts a node that was killed, on the folder that it left."""
        await self._nodes[name].start()

    async def is_ready(self, name: str) -> bool | None:
        """True once the node is ready, None before. Raises CommandFailed when it has ended."""
        node: NodeProcess = self._nodes[name]
        if node.pid is None:
            raise CommandFailed(f"{name} ended before it was ready: {await node.ended()}{node.last_words()}")
        return True if await node.unready_because() is None else None


class Place:
    """Ports that nothing listens on, ours until release(): two demos at the same moment must not choose the same."""

    def __init__(self, dice: random.Random) -> None:
        """Raises CommandFailed when there is none."""
        for base in dice.sample(PORTS, len(PORTS)):
            self.layout = Layout(base_port=base)
            try:
                self._claim = socket.create_server((HOST, base + CLAIM_OFFSET))
            except OSError:
                continue
            if not busy_ports(self.layout):
                return
            self._claim.close()
        raise CommandFailed(f"no free ports were found from {PORTS.start} to {PORTS.stop}; nothing was started")

    def release(self) -> None:
        """Gives them back."""
        self._claim.close()


def nodes_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Ours without settings that a node would read: the demo's nodes are as they come, whatever is set here."""
    return {name: value for name, value in ours.items() if not name.startswith("KVSTORE_")}
