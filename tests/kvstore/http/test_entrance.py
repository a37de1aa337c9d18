"""The entrance: how many connections one turn of the loop lets in, and that nobody gets in once it is closed."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from kvstore.http.pressure import entrance
from kvstore.http.pressure.entrance import AT_ONCE, Entrance
from tests.kvstore.http.test_straight import until

BOTH_LOOPS = True
CLIENTS = 3 * AT_ONCE


class Guest(asyncio.Protocol):
    """Notes the turn of the loop in which it came in."""

    turn = 0
    came: list[int]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.came.append(Guest.turn)
        transport.close()


async def test_those_who_come_together_are_let_in_within_a_few_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guest, "came", [], raising=False)
    opened = await Entrance.open(Guest, "127.0.0.1", 0)
    clients = [socket.create_connection(("127.0.0.1", opened.port)) for _ in range(CLIENTS)]
    async with asyncio.timeout(30):
        while len(Guest.came) < CLIENTS:
            Guest.turn += 1
            await asyncio.sleep(0)
    assert len(set(Guest.came)) <= CLIENTS // AT_ONCE + 5
    opened.close()
    for client in clients:
        client.close()


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    return False


async def test_nobody_gets_in_once_it_is_closed() -> None:
    opened = await Entrance.open(asyncio.Protocol, "127.0.0.1", 0)
    port = opened.port
    opened.close()
    await until(lambda: is_refused(port))  # uvloop closes its handles in the next turn


async def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await Entrance.open(asyncio.Protocol, "127.0.0.1", taken.getsockname()[1])


async def test_where_a_handle_can_not_be_had_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    (await Entrance.open(asyncio.Protocol, "127.0.0.1", 0)).close()
    await asyncio.sleep(0)  # what a loop opens once, for itself, is open now
    before, made, dup = open_files(), 0, os.dup

    def fail_at_the_tenth(descriptor: int) -> int:
        nonlocal made
        made += 1
        if made == 10:
            raise OSError(errno.EMFILE, "too many open files")
        return dup(descriptor)

    monkeypatch.setattr(entrance.os, "dup", fail_at_the_tenth)
    with pytest.raises(OSError, match="too many"):
        await Entrance.open(asyncio.Protocol, "127.0.0.1", 0)
    await until(lambda: open_files() <= before)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
