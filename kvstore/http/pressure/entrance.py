"""The entrance: where connections are accepted, several in one turn of the event loop.

libuv accepts one connection per listening handle and turn, since most that come are alone. Under load turns are long
and connections come by the hundred: clients that find all of theirs waiting open more. One a turn, they would wait
longer than anyone has patience, and be dropped once the backlog is full, whatever becomes of the requests in them. So
several handles listen on one socket, and each accepts one.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

AT_ONCE = 32
"""Accepted per turn at most. All handles wake for the first one that comes, some microseconds of calls in vain."""
BACKLOG = 4_096
"""Sockets that wait to be accepted while the loop is busy: a burst of clients that start together. Systems have limits
of their own, such as net.core.somaxconn."""


class Entrance:
    """Listens from open() to close()."""

    def __init__(self, servers: list[asyncio.Server]) -> None:
        """servers: the first has the port, the others are further handles of its sockets."""
        self._servers = servers

    @classmethod
    async def open(cls, make: Callable[[], asyncio.Protocol], host: str, port: int) -> Entrance:
        """make: asyncio's protocol factory. Raises OSError when the address can't be had."""
        loop = asyncio.get_running_loop()
        entrance = cls([await loop.create_server(make, host, port, backlog=BACKLOG, reuse_address=True)])
        try:
            for bound in list(entrance._servers[0].sockets):
                for _ in range(AT_ONCE - 1):
                    again = socket.socket(fileno=os.dup(bound.fileno()))
                    entrance._servers.append(await loop.create_server(make, sock=again, backlog=BACKLOG))
        except BaseException:
            entrance.close()
            raise
        return entrance

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._servers[0].sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        """Lets nobody in any more; those who are in stay."""
        for server in self._servers:
            server.close()
