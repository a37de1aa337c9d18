"""open(): a client of a file."""

from __future__ import annotations

import os

from kvstore.client.asynchronous import AsyncClient
from kvstore.client.facade import Client
from kvstore.client.store import TIMEOUT_S
from kvstore.client.values import Consistency
from kvstore.embedded.file_store import FileStore


def open(path: str | os.PathLike[str], *, timeout: float = TIMEOUT_S, consistency: Consistency | None = None) -> Client:
    """A client of the file at this path, which is made by the first call if it is not there.

    Any number of processes of this host may have it open. Usable at once and without `await`; `with` closes it;
    `async with kvstore.open(...) as db` gives an AsyncClient. timeout: the deadline in seconds of calls that name
    none; consistency: their level, strong if None, though all levels promise the same here.
    """
    return Client(FileStore(path, timeout_s=timeout), consistency=consistency)


def open_async(
    path: str | os.PathLike[str], *, timeout: float = TIMEOUT_S, consistency: Consistency | None = None
) -> AsyncClient:
    """The same for code that awaits: to be used on one event loop, and closed with `async with` or close()."""
    return AsyncClient(FileStore(path, timeout_s=timeout), consistency=consistency)
