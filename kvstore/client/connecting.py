"""connect(): a client of a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from kvstore.client.asynchronous import AsyncClient
from kvstore.client.facade import Client
from kvstore.client.over_http.store import HttpStore
from kvstore.client.store import TIMEOUT_S
from kvstore.client.values import Consistency


def connect(
    endpoints: str | Sequence[str],
    *,
    timeout: float = TIMEOUT_S,
    consistency: Consistency | None = None,
    routing: bool = True,
) -> Client:
    """A client of the cluster whose nodes, or some of them, are at these addresses: `http://HOST:PORT`, or HOST:PORT.

    Usable at once and without `await`; `with` closes it. `async with kvstore.connect(...) as client` gives an
    AsyncClient. timeout: the deadline in seconds of calls that name none; consistency: their level, the cluster's
    default if None; routing: whether a call begins at the node that spares the others work (docs/client.md), once the
    client knows which that is, rather than at the first that answers. Raises ValueError for an address that is none.
    Nothing is sent yet.
    """
    return Client(HttpStore(_listed(endpoints), timeout_s=timeout, routing=routing), consistency=consistency)


def connect_async(
    endpoints: str | Sequence[str],
    *,
    timeout: float = TIMEOUT_S,
    consistency: Consistency | None = None,
    routing: bool = True,
) -> AsyncClient:
    """The same for code that awaits: to be used on one event loop, and closed with `async with` or close()."""
    return AsyncClient(HttpStore(_listed(endpoints), timeout_s=timeout, routing=routing), consistency=consistency)


def _listed(endpoints: str | Sequence[str]) -> Sequence[str]:
    return [one for one in endpoints.split(",") if one.strip()] if isinstance(endpoints, str) else endpoints
