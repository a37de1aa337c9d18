"""Runs a piece of asynchronous work with a client of the chosen nodes, or with the chosen nodes or file as a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import click

from cli.options import Choices

if TYPE_CHECKING:  # the client costs a fifth of a second, and `serve` and `--help` need none
    from kvstore.client.store import Store
    from kvstore.http_client import HttpClient

Result = TypeVar("Result")


def with_client(choices: Choices, work: Callable[[HttpClient], Awaitable[Result]], *, routing: bool = False) -> Result:
    """What `work` returns, run to its end on an event loop of its own. Raises what it raises.

    routing: for work of many requests, see HttpClient.
    """
    from kvstore.http_client import HttpClient  # noqa: PLC0415

    async def session() -> Result:
        try:
            client = HttpClient(choices.endpoints, routing=routing)
        except ValueError as error:
            raise click.UsageError(f"--endpoints: {error}") from error
        async with client:
            return await work(client)

    return asyncio.run(session())


def with_store(choices: Choices, work: Callable[[Store], Awaitable[Result]]) -> Result:
    """The same with what keeps locks and votes: the nodes, or the file that --file names."""

    async def session() -> Result:
        async with opened_store(choices) as store:
            return await work(store)

    return asyncio.run(session())


@asynccontextmanager
async def opened_store(choices: Choices) -> AsyncIterator[Store]:
    """The store of these choices, open. Raises UsageError."""
    store = _store(choices)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def _store(choices: Choices) -> Store:
    file = choices.chosen_file()
    try:
        if file is not None:
            from kvstore.embedded.file_store import FileStore  # noqa: PLC0415

            return FileStore(file)
        from kvstore.client.over_http.store import HttpStore  # noqa: PLC0415

        return HttpStore(choices.endpoints, routing=False)  # a handful of requests
    except ValueError as error:
        raise click.UsageError(f"{'--endpoints' if file is None else '--file'}: {error}") from error
