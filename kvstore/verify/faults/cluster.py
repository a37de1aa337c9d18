"""A cluster of real processes for faults to act on: free ports, a proxy before each peer address, clocks to bend.

HTTP       base + i          applications, and our own looks at the nodes
peer       base + 20 + i     where the others dial: the proxy (links.py)
behind     base + 40 + i     where the node itself listens for them
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvstore.addresses import Address
from kvstore.client_errors import ClientError
from kvstore.free_ports import is_free
from kvstore.http_client import HttpClient
from kvstore.node_process import NodePlan, NodeProcess
from kvstore.verify.faults.links import Links, Post
from kvstore.verify.faults.small_disk import SmallDisk

HOST = "127.0.0.1"
BASES = range(10_000, 13_800, 200)
"""Below the ports that systems deal out, above well-known ones."""
PEER, CLAIM, BEHIND = 20, 50, 40
"""From the first port on. A socket at CLAIM keeps two runs from choosing the same."""
NODES_MAX = 9
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 15.0
LOOK_TIMEOUT_S = 1.0
POLL_S = 0.05
TEST_CLOCK = "KVSTORE_TEST_CLOCK"


class ClusterFailed(Exception):
    """The cluster does not come about, or does not come back; says who and why."""


class LocalCluster:
    """Nodes n1, n2, ... An async context manager that leaves no process behind; the folder stays."""

    def __init__(
        self,
        folder: Path,
        nodes: int,
        serve: Sequence[str],
        *,
        dice: random.Random,
        small_disk: SmallDisk | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """serve: the command that runs a node, without its options. small_disk: of the last node."""
        self.folder, self.names = folder, [f"n{number}" for number in range(1, nodes + 1)]
        self._serve, self._flags, self.small_disk = list(serve), list(flags), small_disk
        self._base, self._claim = free_ports(nodes, dice)
        posts = {name: Post(self._address(PEER, name), self._address(BEHIND, name)) for name in self.names}
        self.links = Links(posts, dice)
        ours = os.environ if environment is None else environment
        self._environment = {name: value for name, value in ours.items() if not name.startswith("KVSTORE_")}
        self.processes = {name: self._process(name) for name in self.names}
        self._http = HttpClient(list(self.urls.values()))

    @property
    def urls(self) -> dict[str, str]:
        """Where applications reach each node."""
        return {name: f"http://{self._address(0, name)}" for name in self.names}

    def others(self, *names: str) -> list[str]:
        """All nodes but these."""
        return [name for name in self.names if name not in names]

    async def __aenter__(self) -> LocalCluster:
        self._http.open()
        try:
            await self.links.start()
            for name in self.names:
                await self.start(name)
            await self.wait_ready()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Kills the nodes and gives the ports back."""
        for name in self.names:
            await self.kill(name)
        await self.links.close()
        await self._http.close()
        if self.small_disk is not None:
            await self.small_disk.close()
        self._claim.close()

    # -- what happens to nodes -------------------------------------------------------------------------------------

    async def start(self, name: str) -> None:
        """Starts a node on what it has left, if it does not run. Does not wait for it."""
        if self.processes[name].pid is None:
            await self.processes[name].start()

    async def kill(self, name: str) -> None:
        """SIGKILL: what a power cut is to a process."""
        process = self.processes[name]
        if process.pid is not None:
            process.send(signal.SIGKILL)
            await process.ended()

    async def terminate(self, name: str) -> str:
        """SIGTERM, and how it ended. Raises ClusterFailed when it does not."""
        process = self.processes[name]
        process.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                return await process.ended()
        except TimeoutError:
            raise ClusterFailed(f"{name} did not stop within {STOP_WITHIN_S:.0f} s of SIGTERM") from None

    def bend(self, name: str, offset_ms: int) -> None:
        """Sets the node's wall clock that far ahead, from one moment to the next."""
        new = self._clock_file(name).with_suffix(".new")
        new.write_text(str(offset_ms))
        new.replace(self._clock_file(name))

    def lose_folder(self, name: str) -> None:
        """All that the node had on disk is gone. It must not run."""
        shutil.rmtree(self.data(name))

    def data(self, name: str) -> Path:
        """The node's data folder, as this process reaches it."""
        if self.is_on_small_disk(name):
            assert self.small_disk is not None
            return self.small_disk.outside
        return self.folder / name / "data"

    def is_on_small_disk(self, name: str) -> bool:
        """Whether its folder is a disk of its own."""
        return self.small_disk is not None and name == self.names[-1]

    async def heal(self) -> None:
        """Everything as it should be: links, clocks, disks, and every process running. Does not wait."""
        self.links.heal()
        if self.small_disk is not None:
            self.small_disk.empty()
        for name in self.names:
            self.bend(name, 0)
            self.processes[name].send(signal.SIGCONT)
            await self.start(name)

    # -- what is seen of nodes -------------------------------------------------------------------------------------

    async def wait_ready(self, names: Sequence[str] | None = None, within_s: float = READY_WITHIN_S) -> None:
        """Waits until these nodes, or all, are ready. Raises ClusterFailed, saying who is not, and why."""
        end_s = time.monotonic() + within_s
        for name in names or self.names:
            while (reason := await self.unready(name)) is not None:
                process = self.processes[name]
                if process.pid is None:
                    raise ClusterFailed(f"{name} ended by itself: {await process.ended()}{process.last_words()}")
                if time.monotonic() > end_s:
                    raise ClusterFailed(f"{name} was not ready within {within_s:.0f} s: {reason}")
                await asyncio.sleep(POLL_S)

    async def unready(self, name: str) -> str | None:
        """None when the node is ready, else why not."""
        return await self.processes[name].unready_because()

    async def state(self, observer: str, name: str) -> str | None:
        """What one node believes of another: alive, suspect or down. None when it does not answer."""
        page = await self._get(observer, "/v1/cluster")
        members = page["members"] if page is not None else ()
        return next((str(member["state"]) for member in members if member["name"] == name), None)

    async def incarnation(self, name: str) -> str | None:
        """Of the folder that the node works on."""
        page = await self._get(name, "/v1/cluster")
        members = page["members"] if page is not None else ()
        return next((member["incarnation"] for member in members if member["name"] == name), None)

    async def metric(self, name: str, series: str) -> float | None:
        """The value of one series; None when the node does not answer."""
        try:
            answer = await self._http.request("GET", "/metrics", only=self.urls[name], timeout_s=LOOK_TIMEOUT_S)
        except ClientError:
            return None
        lines = answer.body.decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(series + " ")), None)

    async def _get(self, name: str, path: str) -> Any:
        try:
            return (await self._http.request("GET", path, only=self.urls[name], timeout_s=LOOK_TIMEOUT_S)).json()
        except ClientError:
            return None

    # -- where things are ------------------------------------------------------------------------------------------

    def _address(self, offset: int, name: str) -> Address:
        return Address(HOST, self._base + offset + self.names.index(name))

    def _clock_file(self, name: str) -> Path:
        return self.folder / f"{name}.clock"

    def _process(self, name: str) -> NodeProcess:
        folder = self.folder / name
        options = {
            "--name": name,
            "--data": str(folder / "data"),
            "--http": str(self._address(0, name)),
            "--peer": str(self._address(PEER, name)),
            "--peer-listen": str(self._address(BEHIND, name)),
            "--members": ",".join(f"{member}={self._address(PEER, member)}" for member in self.names),
            "--drain-timeout-s": "3",
        }
        command = [*self._serve, *(part for pair in options.items() for part in pair), *self._flags]
        if self.is_on_small_disk(name):
            assert self.small_disk is not None
            command = self.small_disk.inside(command)
        plan = NodePlan(name, HOST, self._address(0, name).port, folder, command)
        return NodeProcess(plan, {**self._environment, TEST_CLOCK: str(self._clock_file(name))})


def free_ports(nodes: int, dice: random.Random) -> tuple[int, socket.socket]:
    """The first of the ports, and the socket that holds the claim on them. Raises ClusterFailed."""
    assert nodes <= NODES_MAX
    offsets = [part + place for part in (0, PEER, BEHIND) for place in range(nodes)]
    for base in random.SystemRandom().sample(BASES, len(BASES)):  # not from the seed: two runs of it may meet
        try:
            claim = socket.create_server((HOST, base + CLAIM))
        except OSError:
            continue
        if all(is_free(HOST, base + offset) for offset in offsets):
            return base, claim
        claim.close()
    raise ClusterFailed(f"no free ports were found from {BASES.start} to {BASES.stop}")


async def until(condition: Callable[[], Any], within_s: float) -> bool:
    """Waits until the awaited condition is true; False when it did not become so in time."""
    end_s = time.monotonic() + within_s
    while not await condition():
        if time.monotonic() > end_s:
            return False
        await asyncio.sleep(POLL_S)
    return True
