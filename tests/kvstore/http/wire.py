"""Bytes on a socket: for what no well-behaved client sends."""

from __future__ import annotations

import asyncio


async def exchange(port: int, data: bytes, timeout_s: float = 10.0) -> bytes:
    """Sends the bytes and returns everything that comes back until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        await writer.drain()
        async with asyncio.timeout(timeout_s):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def first_head(reader: asyncio.StreamReader, timeout_s: float = 10.0) -> bytes:
    """One answer's head, without its body."""
    async with asyncio.timeout(timeout_s):
        return await reader.readuntil(b"\r\n\r\n")


def status_of(answer: bytes) -> int:
    """The status of an answer's first line."""
    return int(answer.split(b" ", 2)[1])
