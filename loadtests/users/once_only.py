"""Connections on which a request is sent once, whatever becomes of it.

Locust's client quietly sends a PUT or DELETE again when the connection ends before the answer: by the letter of HTTP
they may be repeated. A compare-and-set may not: the second finds what the first has done, and is refused, and an
increment that was applied would be counted as one that was not.
"""

from __future__ import annotations

from typing import Any

from geventhttpclient.client import HTTPClient, HTTPClientPool

NO_MORE = -1
"""The client tries as often as its pool has places, and once more."""


class OnceOnlyPool(HTTPClientPool):
    """A pool of clients that never repeat a request."""

    def get_client(self, url: Any) -> HTTPClient:
        """The client for that node."""
        client = super().get_client(url)
        client._connection_pool.size = NO_MORE  # its places were counted out when it was made
        return client
