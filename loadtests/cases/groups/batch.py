"""A hundred keys in one request, against a hundred requests, and against etcd's transactions of a hundred."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec.structs
from matplotlib.figure import Figure as Canvas

from loadtests.cases.bench import BOTH, Bench, Closed, Settings
from loadtests.cases.groups.group import CaseGroup, Plot
from loadtests.cases.report.charts import rate_bars
from loadtests.cases.report.words import sentence, times, versus
from loadtests.cases.results import ETCD, KVSTORE, Group, Round, ratio

OPERATIONS = ("put", "get")
BATCHED, SINGLE = "in batches of 100", "one by one"
MANY, ONE = "many clients", "one client"


def case_of(operation: str, way: str, clients: str) -> str:
    """Its name."""
    return f"{operation} {way}, {clients}"


def measure(bench: Bench) -> None:
    """Each with one client, who waits for each answer, and with as many as bring most: fewer for batches."""
    scale = bench.scale
    cases = []
    for clients in (MANY, ONE):
        for operation in OPERATIONS:
            batches, singles = (scale.batch_connections, scale.connections) if clients == MANY else (1, 1)
            by_side: dict[str, Settings] = {side: {"OP": operation, "EACH": scale.batch} for side in BOTH}
            batched, single = (case_of(operation, way, clients) for way in (BATCHED, SINGLE))
            cases.append(
                Closed(batched, "batch", batches, by_side, unit="keys", each=scale.batch, read=without_refused)
            )
            cases.append(Closed(single, operation, singles, unit="keys"))
    with bench.sides() as sides:
        bench.fill(sides)
        bench.compare(sides, cases)


def without_refused(found: Round, report: Mapping[str, Any]) -> tuple[Round, dict[str, float]]:
    """An operation that was refused within its batch is no key done."""
    refused = report["refused"]
    per_s = max(0.0, found.per_s - refused / found.seconds)
    return msgspec.structs.replace(found, per_s=round(per_s, 1), wrong=found.wrong + refused), {}


def draw(group: Group, canvas: Canvas) -> None:
    """Keys a second, with many clients and with one."""
    for axes, clients in zip(canvas.subplots(1, 2), (MANY, ONE), strict=True):
        cases = {
            case_of(operation, way, clients): f"{operation}\n{way}"
            for operation in OPERATIONS
            for way in (BATCHED, SINGLE)
        }
        rate_bars(axes, group, cases, "keys per second")
        axes.set_title(clients)
        axes.tick_params(axis="x", labelsize=8.5)


def how(group: Group) -> str:
    """How many clients many are."""
    batches, singles, keys, size = (
        group.settings.get(name, 0.0) for name in ("batch_connections", "connections", "keys", "value_bytes")
    )
    return (
        f"POST /v1/batch and etcd's transactions; many clients: {batches:.0f} send batches, {singles:.0f} send single "
        f"requests; {keys:,.0f} keys, values of {size:.0f} bytes"
    )


def words(group: Group) -> list[str]:
    """Against single requests, and against etcd."""
    said = []
    for operation in OPERATIONS:
        for clients in (MANY, ONE):
            batched, single = (case_of(operation, way, clients) for way in (BATCHED, SINGLE))
            gains = []
            for side in (KVSTORE, ETCD):
                gain = ratio(group.figure(batched, side), group.figure(single, side))
                if gain is not None:
                    gains.append(f"{times(gain)} as many keys for {side}")
            what = (
                f"{operation}, {clients}: 100 in a request are {' and '.join(gains)} as 100 requests" if gains else ""
            )
            said += sentence(what, versus(group, batched, "batches") if gains else "")
    return said


GROUP = CaseGroup(
    "batch",
    "POST /v1/batch",
    measure,
    (Plot("batch", "100 keys in one request against 100 requests", draw, how, words, (11.0, 4.2)),),
)
