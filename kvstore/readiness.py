"""Asks one node whether it is ready, with the standard library alone: cheap enough for a process that only waits."""

from __future__ import annotations

import http.client
import json

PROBE_TIMEOUT_S = 1.0
"""A node on this machine answers a health check within milliseconds, even when it is busy."""


def unready_because(host: str, port: int, timeout_s: float = PROBE_TIMEOUT_S) -> str | None:
    """None when the node at that HTTP address is ready, else its reason in words."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer yet ({error or type(error).__name__})"
    finally:
        connection.close()
    return None if answer.status == 200 else _reason(answer.status, body)


def _reason(status: int, body: bytes) -> str:
    try:
        fields = json.loads(body)
    except ValueError:
        return f"answers {status}"
    reasons = fields.get("reasons") or fields.get("detail") if isinstance(fields, dict) else None
    if isinstance(reasons, list):
        return "; ".join(str(reason) for reason in reasons)
    return str(reasons or f"answers {status}")
