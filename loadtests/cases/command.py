"""`make bench-cases`, `python -m loadtests.cases`: measures, keeps the figures, and makes the page of them."""

from __future__ import annotations

import signal
import sys
import time
from datetime import date
from pathlib import Path

import click

from loadtests.cases.bench import Bench
from loadtests.cases.groups import GROUPS
from loadtests.cases.groups.group import CaseGroup
from loadtests.cases.load.filling import NotFilled
from loadtests.cases.load.open_loop import NoOutcome
from loadtests.cases.load.wrk import NoWrk
from loadtests.cases.machine import this_machine, this_revision
from loadtests.cases.progress import RunProgress
from loadtests.cases.report.page import write_page
from loadtests.cases.results import Group, Results, read_results
from loadtests.cases.scales import FULL, QUICK, Scale
from loadtests.cases.sides.ports import free_base_port
from loadtests.runner.cluster import NoCluster

DOCS = Path("docs")
NAMES = [cases.name for cases in GROUPS]


@click.command(context_settings={"show_default": True})
@click.option("--quick", is_flag=True, help="All cases in about four minutes, with short rounds and few keys.")
@click.option(
    "--only", default="", metavar="NAME,...", help=f"Some of {', '.join(NAMES)}; the others stay as they are."
)
@click.option("--replot", is_flag=True, help="Measure nothing; make the page and the plots from the figures again.")
@click.option("--json", "results_file", type=click.Path(path_type=Path, dir_okay=False),
              default=DOCS / "plots" / "cases.json", help="The figures.")  # fmt: skip
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), default=DOCS / "cases.md", help="The page.")
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False), default=DOCS / "plots", help="The plots.")
@click.option("--base-port", type=click.IntRange(1024, 60_000), help="Of the first node. [default: a free one]")
def main(
    *, quick: bool, only: str, replot: bool, results_file: Path, page: Path, plots: Path, base_port: int | None
) -> None:
    """Measure the cases behind the headline, kvstore and etcd side by side, each on fresh clusters.

    Takes about twenty minutes on two cores. Figures are kept after each group of cases, so that an interrupted run
    loses only the group it was at. Exit code 1: a group could not be measured.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that all is ended in order
    results = read_results(results_file)
    failed = []
    if not replot:
        failed = _measure(_chosen(only), QUICK if quick else FULL, results, results_file, base_port)
    write_page(results, page, plots)
    click.echo(f"{page}, {plots}/*.svg, {results_file}")
    sys.exit(1 if failed else 0)


def _chosen(only: str) -> list[CaseGroup]:
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in NAMES]:
        raise click.BadParameter(f"there is no {', '.join(unknown)}; there are {', '.join(NAMES)}", param_hint="--only")
    return [cases for cases in GROUPS if not wanted or cases.name in wanted]


def _measure(
    chosen: list[CaseGroup], scale: Scale, results: Results, results_file: Path, base_port: int | None
) -> list[str]:
    """Returns the names of those that could not be measured."""
    failed, today, machine, revision = [], date.today().isoformat(), this_machine(), this_revision()
    command = f"python -m loadtests.cases{' --quick' if scale.is_quick else ''}"
    if len(chosen) < len(GROUPS):
        command += f" --only {','.join(cases.name for cases in chosen)}"
    with RunProgress(len(chosen)) as progress:
        for cases in chosen:
            bench, began_s = Bench(scale, base_port or free_base_port(), progress), time.monotonic()
            try:
                with progress.group(cases.title):
                    cases.measure(bench)
            except (NoCluster, NotFilled, NoWrk, NoOutcome, RuntimeError, OSError) as error:
                progress.say(f"{cases.title} was not measured: {type(error).__name__}: {error}")
                failed.append(cases.name)
                continue
            for fault in bench.book.faults:
                progress.say(f"  {fault}")
            book = bench.book
            results.groups[cases.name] = Group(
                name=cases.name,
                date=today,
                command=command,
                revision=revision,
                is_quick=scale.is_quick,
                took_s=round(time.monotonic() - began_s, 1),
                machine=machine,
                settings=scale.numbers(),
                figures=book.figures,
                timelines=book.timelines,
                fillings=book.fillings,
                footprints=book.footprints,
                faults=book.faults,
            )
            results.write(results_file)
    return failed


if __name__ == "__main__":
    main()
