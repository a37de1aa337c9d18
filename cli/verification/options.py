"""The options of `kvstore verify` where it makes its own history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli.options import DURATION, option, together

WORKLOADS = ("register", "set", "counter", "lock", "vote", "convergence", "mixed")
"""As kvstore/verify/load.py has them; written here, too, because --help must not pay for a client."""
RATE_MAX, CONCURRENCY_MAX, SEED_MAX = 5_000, 50, 2**32
DEFAULT_TIME_S = {False: 30.0, True: 60.0}
"""Of a run against other nodes, and against a cluster of our own."""


class Workloads(click.ParamType[tuple[str, ...]]):
    """A list of workloads, or all."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Their names. Fails as a usage error for others."""
        if isinstance(value, tuple):
            return value
        names = [word.strip() for word in str(value).split(",") if word.strip()]
        for name in names:
            if name not in {*WORKLOADS, "all"}:
                self.fail(f"{name!r} is no workload; there are {', '.join(WORKLOADS)}, all", param, ctx)
        return WORKLOADS if "all" in names else tuple(name for name in WORKLOADS if name in names)


running_options = together(
    [
        option("--local", is_flag=True, help="Against a cluster of its own, hurt by faults meanwhile."),
        option("--workload", type=Workloads(), metavar="LIST", default="all", show_default=True,
               help=f"{', '.join(WORKLOADS)}."),
        option("--time", "time_s", type=DURATION, help="How long. [default: 30s, 60s with --local]"),
        option("--rate", type=click.IntRange(1, RATE_MAX), default=150, show_default=True,
               help="Steps a second at most, of all clients together."),
        option("--concurrency", type=click.IntRange(1, CONCURRENCY_MAX), default=3, show_default=True,
               help="Clients of each workload."),
        option("--seed", type=click.IntRange(0, SEED_MAX), help="Draws calls and faults; another one each time."),
        option("--keep", is_flag=True, help="Leave the run's keys, and with --local the nodes' folders."),
        option("--data", type=click.Path(path_type=Path, file_okay=False),
               help="Folder for what the run leaves. [default: a new one below the folder for temporary files]"),
        option("--nodes", type=click.Choice(["3", "5"]), default="3", show_default=True, help="Of --local."),
        option("--faults", metavar="LIST", default="all", show_default=True,
               help="Of --local: kill, pause, restart, wipe, partition (isolate, halves, bridge, one-way), slow, "
                    "lossy, duplicate, reorder, clock (clock-jump, clock-drift), disk (disk-full, disk-fails), all, "
                    "none."),
    ]
)  # fmt: skip
