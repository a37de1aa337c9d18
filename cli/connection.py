"""Runs a piece of asynchronous work with a client of the chosen nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

from cli.options import Choices

if TYPE_CHECKING:  # the client costs a fifth of a second, and `serve` and `--help` need none
    from kvstore.http_client import HttpClient

Result = TypeVar("Result")


def with_client(choices: Choices, work: Callable[[HttpClient], Awaitable[Result]]) -> Result:
    """What `work` returns, run to its end on an event loop of its own. Raises what it raises."""
    from kvstore.http_client import HttpClient  # noqa: PLC0415

    async def session() -> Result:
        try:
            client = HttpClient(choices.endpoints)
        except ValueError as error:
            raise click.UsageError(f"--endpoints: {error}") from error
        async with client:
            return await work(client)

    return asyncio.run(session())
