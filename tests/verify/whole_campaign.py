"""All that looks for violations, one after the other, within a time, and one table at the end: `make campaign`.

    python -m tests.verify.whole_campaign --seeds 200 --seconds 5 --faults kill --minutes 15

* Simulated seeds (tests/simulation/campaign.py).
* The proof that the simulator can fail (tests/simulation/faults.py): one rule of the code is left out at a time, and a
  seed must notice. The page's own table is left alone.
* Every workload under every fault on real processes (campaign.py, beside this).

Exit code 9 if a promise was broken, 1 if the proof failed, something is undecided, was not seen to act or was not
reached within the time, else 0. Each part may use what the ones before it left of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import TimeoutError as NotInTime
from multiprocessing import get_context
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from cli.errors import ExitCode
from kvstore.verify.load import WORKLOADS
from tests.simulation import faults
from tests.simulation.campaign import SHOWN_MAX, Totals, one
from tests.verify import campaign

SEEDS, MINUTES = 10_000, 240.0
SEEDS_PER_PROCESS = 200
"""Then a new one takes over: what the simulator leaves behind in a process does not add up."""
TOLD_MAX = 20
"""How often it is told how many seeds are done."""
WIDE = 200

Given = TypeVar("Given")
Got = TypeVar("Got")


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    part: str
    what: str
    result: str
    in_numbers: str
    code: ExitCode = ExitCode.DONE


class Clock:
    """The time that is left for all."""

    def __init__(self, minutes: float) -> None:
        self._end_s = time.monotonic() + minutes * 60

    def left_s(self) -> float:
        """Seconds, 0 at least."""
        return max(self._end_s - time.monotonic(), 0.0)


def say(text: str) -> None:
    """How it goes, on stderr: stdout has the table."""
    print(text, file=sys.stderr, flush=True)


def each(work: Callable[[Given], Got], given: Iterable[Given], jobs: int, clock: Clock) -> Iterator[Got]:
    """The results, from so many processes, as they come; it ends when the time is over, whatever is under way."""
    with get_context("spawn").Pool(jobs, maxtasksperchild=SEEDS_PER_PROCESS) as pool:
        results = pool.imap_unordered(work, given)
        while True:
            try:
                yield results.next(timeout=clock.left_s())
            except (StopIteration, NotInTime):
                return


def simulated(options: argparse.Namespace, clock: Clock) -> Line:
    """The seeds."""
    totals = Totals()
    every = max(options.seeds // TOLD_MAX, 1)
    for ended in each(one, range(options.first, options.first + options.seeds), options.jobs, clock):
        totals.add(ended)
        if ended.broken and len(totals.broken) <= SHOWN_MAX:
            say(f"{ended.broken}\n")
        if totals.seeds % every == 0:
            say(f"{totals.seeds:,} of {options.seeds:,} seeds, {len(totals.broken)} violated")
    result, code = "valid", ExitCode.DONE
    if totals.seeds < options.seeds:
        result, code = f"NOT ALL: {totals.seeds:,} when the time was over", ExitCode.UNEXPECTED
    if totals.broken:
        seeds = ", ".join(str(ended.seed) for ended in totals.broken[:SHOWN_MAX])
        result, code = f"VIOLATED by {len(totals.broken):,}: {seeds}", ExitCode.VIOLATION
    numbers = (
        f"{totals.simulated_s / 3600:,.1f} h simulated, {totals.operations:,} operations, {totals.frames:,} frames"
    )
    return Line("simulator", f"seeds {options.first:,} to {options.first + options.seeds - 1:,}", result, numbers, code)


def caught(name: str) -> tuple[str, faults.Caught | None]:
    """Whether a seed notices that fault; in a process of its own."""
    return name, faults.catch(faults.BY_NAME[name])


def provoked(names: Sequence[str], jobs: int, clock: Clock, catch: Callable[[str], Any] = caught) -> list[Line]:
    """The faults of the code, each of which must be noticed."""
    found: dict[str, faults.Caught | None] = {}
    for name, by in each(catch, names, jobs, clock):
        found[name] = by
        say(f"{name}: {by.what[:100] if by is not None else 'NOT CAUGHT'}")
    return [_proof(name, found) for name in names]


def _proof(name: str, found: dict[str, faults.Caught | None]) -> Line:
    by = found.get(name)
    if by is not None:
        return Line("proof", name, "caught", f"by seed {by.seeds - 1}, after {by.seconds:.0f} s")
    result = f"NOT CAUGHT within {faults.SEEDS_MAX} seeds" if name in found else "NOT RUN TO ITS END: the time was over"
    return Line("proof", name, result, "", ExitCode.UNEXPECTED)


def on_processes(options: argparse.Namespace, clock: Clock) -> list[Line]:
    """The matrix."""
    arguments = ["--faults", options.faults, "--time", str(options.seconds), "--minutes", str(clock.left_s() / 60)]
    arguments += [
        "--workloads",
        ",".join(options.workloads),
        "--seed",
        str(options.seed),
        "--nodes",
        str(options.nodes),
    ]
    rows = asyncio.run(campaign.matrix(campaign.parsed(arguments), say))
    for row in rows:
        for folder in row.kept:
            say(f"{row.fault}: look at {folder} (kvstore verify --history {folder}/history.jsonl)")
    return [_cell(row) for row in rows]


def _cell(row: campaign.Row) -> Line:
    by_verdict: dict[str, list[str]] = {}
    for workload, verdict in row.verdicts.items():
        by_verdict.setdefault(verdict, []).append(workload)
    if set(by_verdict) == {"valid"}:
        result = f"valid ({len(row.verdicts)} workloads)"
    else:
        result = "; ".join(f"{verdict}: {', '.join(which)}" for verdict, which in sorted(by_verdict.items()))
    numbers = f"{row.operations:,} calls, {row.unknown:,} unknown; {campaign.told(row)}"
    return Line("processes", row.fault, result or "nothing", numbers, campaign.code_of([row]))


def code_of(lines: Iterable[Line]) -> ExitCode:
    """The worst: a violation before what is only not known."""
    codes = {line.code for line in lines}
    return next((code for code in (ExitCode.VIOLATION, ExitCode.UNEXPECTED) if code in codes), ExitCode.DONE)


def show(lines: Sequence[Line], title: str) -> None:
    """The table."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("part", "what", "result", "in numbers"):
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(line.part, line.what, line.result, line.in_numbers)
    Console(width=None if sys.stdout.isatty() else WIDE, markup=False, highlight=False).print(table)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the person wants."""
    parser = argparse.ArgumentParser(prog="python -m tests.verify.whole_campaign", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", type=int, default=SEEDS, help="simulated")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=2, help="simulators at a time")
    parser.add_argument("--faults", default="all", help="of the matrix, as `kvstore verify --faults` has them")
    parser.add_argument("--seconds", type=float, default=campaign.TIME_S, help="of the matrix, for each fault")
    parser.add_argument("--workloads", type=lambda text: text.split(","), default=list(WORKLOADS))
    parser.add_argument("--nodes", type=int, default=3, help="of the matrix")
    parser.add_argument("--seed", type=int, default=1, help="of the matrix")
    parser.add_argument("--proofs", type=lambda text: text.split(","), default=list(faults.BY_NAME), metavar="LIST",
                        help="rules to leave out of the code; all when absent")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all of it together")
    return parser.parse_args(arguments)


def main() -> int:
    """The whole; the exit code."""
    options = parsed()
    title = campaign.line_of(argparse.Namespace(**vars(options), time=options.seconds, apart=False))
    clock = Clock(options.minutes)
    lines = [simulated(options, clock)]
    lines += provoked(options.proofs, options.jobs, clock)
    lines += on_processes(options, clock)
    show(lines, title)
    code = code_of(lines)
    took_s = options.minutes * 60 - clock.left_s()
    words = {ExitCode.DONE: "all is as it should be", ExitCode.VIOLATION: "VIOLATED: a promise was broken"}
    print(f"\n{words.get(code, 'not all is known')}; it took {took_s / 60:.0f} min of {options.minutes:g} at most")
    return code


if __name__ == "__main__":
    sys.exit(main())
