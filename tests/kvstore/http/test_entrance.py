"""The entrance: how many connections one turn of the loop lets in, and that nobody gets in once it is closed."""

from __future__ import annotations

import asyncio
import socket

import pytest

from kvstore.http.pressure.entrance import AT_ONCE, Entrance

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
    entrance = await Entrance.open(Guest, "127.0.0.1", 0)
    clients = [socket.create_connection(("127.0.0.1", entrance.port)) for _ in range(CLIENTS)]
    async with asyncio.timeout(30):
        while len(Guest.came) < CLIENTS:
            Guest.turn += 1
            await asyncio.sleep(0)
    assert len(set(Guest.came)) <= CLIENTS // AT_ONCE + 5
    entrance.close()
    for client in clients:
        client.close()


async def test_nobody_gets_in_once_it_is_closed() -> None:
    entrance = await Entrance.open(asyncio.Protocol, "127.0.0.1", 0)
    port = entrance.port
    entrance.close()
    await asyncio.sleep(0.01)  # uvloop closes its handles in the next turn
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_port_that_is_taken_is_told_and_nothing_is_left_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await Entrance.open(asyncio.Protocol, "127.0.0.1", taken.getsockname()[1])
