"""As many seeds as there is time for: `python -m tests.simulation.campaign --seeds 10000 [--jobs 2] [--first 0]`.

Prints a bar while it runs and a table at the end. The exit code is 9 if anything was violated, as `kvstore verify` has
it; the seeds that did it are printed with what they violated and the command that repeats them.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context
from time import perf_counter

from tests.simulation.journal import Violation
from tests.simulation.options import draw
from tests.simulation.world import Report, run_seed

VIOLATED = 9
BAR = 30
SHOWN_MAX = 20


@dataclass
class Ended:
    """How one seed ended."""

    seed: int
    report: Report | None
    broken: str = ""


def one(seed: int) -> Ended:
    """Runs one seed; never raises."""
    try:
        return Ended(seed, run_seed(seed))
    except Violation as violation:
        return Ended(seed, None, f"{violation}\n" + "\n".join(violation.__notes__))
    except Exception as error:
        return Ended(seed, None, f"the simulator failed: {error!r}\n{traceback.format_exc()}")


@dataclass
class Totals:
    """What all seeds together were."""

    seeds: int = 0
    simulated_s: float = 0.0
    core_s: float = 0.0
    operations: int = 0
    frames: int = 0
    healed_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    happened: Counter[str] = field(default_factory=Counter)
    with_feature: Counter[str] = field(default_factory=Counter)
    broken: list[Ended] = field(default_factory=list)

    def add(self, ended: Ended) -> None:
        """One more seed."""
        self.seeds += 1
        if ended.report is None:
            self.broken.append(ended)
            return
        report = ended.report
        self.simulated_s += report.simulated_s
        self.core_s += report.core_s
        self.operations += report.operations
        self.frames += report.frames
        self.healed_s = max(self.healed_s, report.healed_s)
        self.outcomes.update(report.outcomes)
        self.happened.update(report.happened)
        self.with_feature.update(features(ended.seed))

    def table(self) -> str:
        """For people, and for docs/verification.md."""
        rows = [
            ("seeds", f"{self.seeds:,}"),
            ("violated", f"{len(self.broken):,}"),
            ("simulated time", f"{self.simulated_s / 3600:,.1f} h"),
            ("simulated seconds per second of one core", f"{self.simulated_s / max(self.core_s, 0.001):,.0f}"),
            ("operations", f"{self.operations:,}"),
            ("  of which " + ", ".join(f"{name} {count:,}" for name, count in sorted(self.outcomes.items())), ""),
            ("frames delivered", f"{self.frames:,}"),
            ("longest until all was well again", f"{self.healed_s:.1f} s"),
        ]
        rows += [(f"seeds with {name}", f"{count:,}") for name, count in sorted(self.with_feature.items())]
        rows += [(f"times {name}", f"{count:,}") for name, count in sorted(self.happened.items())]
        return "\n".join(["| | |", "|---|---|", *(f"| {name.strip()} | {value} |" for name, value in rows)])


def features(seed: int) -> list[str]:
    """What the seed's options have that others leave out."""
    options = draw(seed)
    named = {
        "five nodes": options.nodes == 5,
        "weak or eventual writes": options.weak_writes or options.eventual_writes,
        "values that expire": options.expiring,
        "locks": options.lockers,
        "fenced writes": options.lockers and options.fenced,
        "votes": options.voters,
        "bursts of writes to one key": options.bursts,
        "batches": options.batches,
        "listings": options.listings,
        "deletions purged": options.hasty_floors,
        "lost, doubled or overtaking frames": options.lost or options.doubled or options.overtaking,
        "clocks that are apart": options.skew_s or options.drift or options.jumps_rate,
    }
    return [name for name, is_on in named.items() if is_on]


def run(seeds: range, jobs: int) -> Iterator[Ended]:
    """The seeds, in as many processes."""
    if jobs == 1:
        yield from map(one, seeds)
        return
    with get_context("spawn").Pool(jobs, maxtasksperchild=200) as pool:
        yield from pool.imap_unordered(one, seeds, chunksize=4)


def campaign(first: int, seeds: int, jobs: int) -> Totals:
    """Runs them all with a bar on stderr."""
    totals, began_s = Totals(), perf_counter()
    for ended in run(range(first, first + seeds), jobs):
        totals.add(ended)
        if ended.broken:
            _clear()
            if len(totals.broken) <= SHOWN_MAX:
                print(f"{ended.broken}\n", flush=True)
        if totals.seeds % 5 == 0 or totals.seeds == seeds:
            _bar(totals, seeds, perf_counter() - began_s)
    _clear()
    return totals


def _bar(totals: Totals, seeds: int, took_s: float) -> None:
    done = totals.seeds / seeds
    left_s = took_s / done - took_s
    full = "#" * int(done * BAR)
    text = f"[{full:<{BAR}}] {totals.seeds}/{seeds} seeds, {len(totals.broken)} violated, {left_s / 60:.0f} min left"
    if sys.stderr.isatty():
        print(f"\r{text}", end="", file=sys.stderr, flush=True)
    elif totals.seeds % max(5, seeds // 20 // 5 * 5) == 0:
        print(text, file=sys.stderr, flush=True)


def _clear() -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.campaign", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many (1,000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (1)")
    arguments = parser.parse_args()
    totals = campaign(arguments.first, arguments.seeds, arguments.jobs)
    print(totals.table())
    if totals.broken:
        print(f"\nviolated by the seeds {', '.join(str(ended.seed) for ended in totals.broken)}")
        return VIOLATED
    return 0


if __name__ == "__main__":
    sys.exit(main())
