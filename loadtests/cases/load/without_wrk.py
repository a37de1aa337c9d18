"""Closed loops where wrk is not installed: the project's own asyncio client, against kvstore alone.

It takes more of the machine than wrk, so its figures are lower, and the table says which client it was.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from random import Random

from loadtests.cases.load.work import Operation, batch_of, key_text, random_requests
from loadtests.cases.results import KVSTORE, Round
from loadtests.cases.sides.side import Member, addresses
from loadtests.http_load import load


class NotWithout(Exception):
    """This script needs wrk."""


def closed_loop(
    script: str, members: list[Member], connections: int, seconds: float, settings: Mapping[str, str | int]
) -> Round:
    """What wrk.closed_loop() does of those scripts that need no answers' contents. Raises NotWithout."""
    make, used_s = _requests(script, settings), time.process_time()
    result = load(addresses(members), make, connections, seconds)
    latencies = result.latencies
    return Round(
        requests=len(latencies),
        seconds=seconds,
        per_s=round(result.rate, 1),
        p50_ms=round(latencies.percentile_ms(0.5), 3),
        p99_ms=round(latencies.percentile_ms(0.99), 3),
        p999_ms=round(latencies.percentile_ms(0.999), 3),
        max_ms=round(latencies.percentile_ms(1.0), 3),
        wrong=result.wrong,
        client_cores=round((time.process_time() - used_s) / seconds, 3),
    )


def _requests(script: str, settings: Mapping[str, str | int]) -> Callable[[], bytes]:
    keys, value_bytes, query = int(settings["KEYS"]), int(settings["VALUE_BYTES"]), str(settings.get("QUERY", ""))
    if script == "put" and settings.get("COLD"):
        numbers, prefix = itertools.count(), str(settings["PREFIX"])
        head = f"{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {value_bytes}\r\n\r\n".encode()
        tail = head + b"x" * value_bytes
        return lambda: b"PUT /v1/kv/" + key_text(next(numbers), prefix).encode() + tail
    if script in ("put", "get"):
        return random_requests(KVSTORE, "put" if script == "put" else "get", keys, value_bytes, query=query)
    if script == "batch":
        random, each = Random(1), int(settings["EACH"])
        operation: Operation = "get" if settings.get("OP") == "get" else "put"
        return lambda: batch_of(KVSTORE, operation, random.randrange(keys - each + 1), each, value_bytes)
    raise NotWithout(f"{script}: this case needs wrk, which is not installed")
