"""`repair`: compare replicas now rather than when their turn comes, and bring them together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from cli.connection import with_client
from cli.errors import ExitCode
from cli.options import Choices, choices_options, option
from cli.output import note, show_fields
from cli.progress import Progress, progress_of
from kvstore.client_errors import Problem

if TYPE_CHECKING:
    from kvstore.http_client import HttpClient

AT_ONCE = 4
"""Partitions under way at a time: enough to keep the nodes busy, few enough to leave room for applications."""
PARTITION_TIMEOUT = "60s"
ANSWER_TIMEOUT_S = 70.0
"""A node keeps to the timeout it was given; this is for one that does not answer at all."""

Report = Mapping[str, Any]


@click.command("repair")
@option("--partition", type=click.IntRange(min=0), metavar="P", help="Only this partition; all when absent.")
@choices_options
@click.pass_obj
def repair_command(choices: Choices, *, partition: int | None) -> int:
    """Compare the replicas of every partition, and bring them together.

    Nodes do this by themselves every few seconds; this does it now and says what differed. Exit code 5 when some
    replica could not be asked, or keys still differ.
    """
    progress = progress_of("repair", "partitions")

    async def work(client: HttpClient) -> list[Report]:
        if partition is not None:
            return await _repair_all(client, [partition], progress)
        overview = (await client.request("GET", "/v1/cluster")).json()
        return await _repair_all(client, range(int(overview["partitions"])), progress)

    with progress:
        reports = with_client(choices, work)
    summary = _summary(reports)
    show_fields(summary, choices.output)
    for name in summary["unreachable"]:
        note(f"repair: {name} could not be asked; it is compared when it returns")
    return ExitCode.NOT_APPLIED if any(map(summary.get, ("left", "unreachable", "failed"))) else ExitCode.DONE


async def _repair_all(client: HttpClient, partitions: Sequence[int], progress: Progress) -> list[Report]:
    progress.start(len(partitions))
    room = asyncio.Semaphore(AT_ONCE)

    async def one(partition: int) -> Report:
        async with room:
            query = {"partition": str(partition), "timeout": PARTITION_TIMEOUT}
            try:
                answer = await client.request(
                    "POST", "/v1/repair", query=query, timeout_s=ANSWER_TIMEOUT_S, idempotent=True
                )
                report: Report = answer.json()
            except Problem as problem:
                if problem.code == "bad-parameter":  # there is no such partition
                    raise
                progress.say(f"repair: partition {partition}: {problem.detail}")
                report = {"partition": partition, "failed": problem.detail}
        progress.advance()
        return report

    return list(await asyncio.gather(*map(one, partitions)))


def _summary(reports: Sequence[Report]) -> dict[str, Any]:
    done = [report for report in reports if "failed" not in report]
    counts = ("differed", "fetched", "sent", "left", "bytes_moved")
    return {
        "partitions": len(done),
        "failed": len(reports) - len(done),
        **{name: sum(report[name] for report in done) for name in counts},
        "unreachable": sorted({name for report in done for name in report["unreachable"]}),
        "differing_partitions": [report["partition"] for report in done if report["differed"]],
    }
