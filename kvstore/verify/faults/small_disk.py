"""A disk of a few megabytes for one node, without rights: a tmpfs in a user namespace of its own.

A process that does nothing holds the namespaces, so that the disk outlives the node that is killed on it. The node
enters them; we reach its files through /proc/PID/root. It needs Linux with user namespaces, and unshare, nsenter and
setpriv of util-linux.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
from pathlib import Path

from kvstore.node_process import dying_with

DISK_BYTES = 48 << 20
READY = b"mounted\n"
TOOLS = ("unshare", "nsenter", "setpriv", "mount", "sh")


class NoSmallDisk(Exception):
    """It can't be had here; says why."""


class SmallDisk:
    """A disk that a node may have as its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where it is mounted, for who is inside."""
        self._keeper: asyncio.subprocess.Process | None = None

    async def mount(self) -> None:
        """Raises NoSmallDisk."""
        if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
            raise NoSmallDisk(f"there is no {missing[0]} here")
        self.folder.mkdir(parents=True, exist_ok=True)
        script = 'mount -t tmpfs -o size="$1" kvstore "$2" && echo mounted && exec setpriv --pdeathsig KILL sleep inf'
        self._keeper = await asyncio.create_subprocess_exec(
            *("unshare", "--user", "--map-root-user", "--mount"),
            *("sh", "-c", script, "sh", str(DISK_BYTES), str(self.folder)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            preexec_fn=dying_with(os.getpid()),
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stderr is not None
        if await self._keeper.stdout.readline() != READY:
            said = (await self._keeper.stderr.read()).decode(errors="replace").strip()
            raise NoSmallDisk(f"a disk can't be mounted in a user namespace here: {said}")

    def inside(self, command: list[str]) -> list[str]:
        """The command, run where the disk is mounted; it dies with us all the same."""
        assert self._keeper is not None
        enter = ["nsenter", "--preserve-credentials", "--user", "--mount", "--target", str(self._keeper.pid), "--"]
        return [*enter, "setpriv", "--pdeathsig", "KILL", "--", *command]

    @property
    def outside(self) -> Path:
        """The folder as we reach it."""
        assert self._keeper is not None
        return Path(f"/proc/{self._keeper.pid}/root{self.folder}")

    def fill(self, leave: int = 256 << 10) -> None:
        """Fills it but for about so many bytes. Raises OSError for anything but a disk that is full."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT)
        try:
            free = os.statvfs(self.outside)
            try:
                os.posix_fallocate(descriptor, 0, max(free.f_bavail * free.f_bsize - leave, 1))
            except OSError as error:
                if error.errno != errno.ENOSPC:  # the node was quicker
                    raise
        finally:
            os.close(descriptor)

    def empty(self) -> None:
        """There is room again."""
        self._ballast.unlink(missing_ok=True)

    async def close(self) -> None:
        """It is gone, with all that is on it."""
        if self._keeper is not None and self._keeper.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._keeper.kill()
            await self._keeper.wait()

    @property
    def _ballast(self) -> Path:
        return self.outside / "ballast"
