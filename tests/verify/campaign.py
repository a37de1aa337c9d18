"""The matrix: every workload under every fault, on real processes, and a table at the end.

    python -m tests.verify.campaign                     each fault alone for 20 s, all workloads at once
    python -m tests.verify.campaign --time 30 --apart   each fault with each workload by itself
    python -m tests.verify.campaign --faults kill,wipe --nodes 5 --markdown matrix.md

Exit code 9 if a promise was broken, 1 if a fault was not seen to act or something is undecided, else 0. The histories
of runs that were not valid are kept, and named.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cli.errors import ExitCode
from kvstore.verify.faults.cluster import ClusterFailed
from kvstore.verify.faults.schedule import Acting, chosen_kinds
from kvstore.verify.history import History
from kvstore.verify.judge import judge
from kvstore.verify.load import WORKLOADS, Load
from kvstore.verify.local_run import LocalPlan, LocalResult, run_local

TIME_S = 20.0
MINUTES = 120.0
TOGETHER_S = 6.0
"""For each fault where all act in one run, at least."""
MARKS = {"valid": "valid", "violated": "**VIOLATED**", "undecided": "undecided", "": "-"}
WORST = ("violated", "undecided", "valid", "")
TOGETHER = "all at once"

Say = Callable[[str], None]


@dataclass
class Row:
    """What came of one fault."""

    fault: str
    verdicts: dict[str, str] = field(default_factory=dict)
    """Workload -> verdict."""
    operations: int = 0
    unknown: int = 0
    failed: int = 0
    slowed: int = 0
    seen: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    """Faults that were not seen to act."""
    owed: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Folders of runs that somebody should look at."""
    was_run: bool = True
    """False where the time was over before its end."""

    def worse(self, workload: str, verdict: str) -> None:
        """Notes a verdict; the worst counts."""
        self.verdicts[workload] = min(verdict, self.verdicts.get(workload, ""), key=WORST.index)


class Silent:
    """A Watcher who says only what went wrong."""

    def say(self, text: str) -> None:
        """Nothing: the table tells."""

    def show(self, load: Load, acting: Sequence[Acting], left_s: float) -> None:
        """Nothing either."""


def verdicts_of(history: History, workloads: Sequence[str]) -> dict[str, str]:
    """Each workload judged by itself."""
    told = {}
    for workload in workloads:
        mine = History(operation for operation in history if operation.more.get("workload") == workload)
        told[workload] = str(judge(mine).verdict)
    return told


async def run_one(options: argparse.Namespace, faults: Sequence[str], workloads: Sequence[str], row: Row) -> None:
    """One run of one cluster, noted in its row."""
    folder = Path(tempfile.mkdtemp(prefix="kvstore-campaign-"))
    nodes = folder / "nodes"
    nodes.mkdir()
    plan = LocalPlan(
        folder=nodes,
        history=folder / "history.jsonl",
        serve=[sys.executable, "-P", "-m", "cli", "serve"],
        run_id=secrets.token_hex(4),
        nodes=options.nodes,
        workloads=workloads,
        faults=faults,
        time_s=max(options.time, TOGETHER_S * len(faults)),
        seed=options.seed,
        rate=options.rate,
    )
    try:
        result = await run_local(plan, Silent())
    except ClusterFailed as failed:
        row.owed.append(f"the cluster did not come about: {failed}")
        row.kept.append(str(folder))
        return
    verdicts = verdicts_of(result.history, workloads)
    for workload, verdict in verdicts.items():
        row.worse(workload, verdict)
    note(result, row)
    if set(verdicts.values()) == {"valid"} and not result.owed:
        shutil.rmtree(folder)
    else:
        row.kept.append(str(folder))


def note(result: LocalResult, row: Row) -> None:
    """What was done and felt."""
    row.operations += len(result.history)
    row.unknown += sum(operation.outcome == "unknown" for operation in result.history)
    row.failed += sum(acting.failed for acting in result.actings)
    row.slowed += sum(acting.slowed for acting in result.actings)
    row.missed += result.unseen
    row.owed += result.owed
    row.seen += [result.skipped] if result.skipped else []
    row.seen += [acting.seen or acting.why_not or "nothing" for acting in result.actings]


async def matrix(options: argparse.Namespace, say: Say) -> list[Row]:
    """Runs all of it, or as much as there is time for."""
    kinds = chosen_kinds(options.faults)
    cells: list[tuple[str, list[str]]] = [("none", []), *((kind, [kind]) for kind in kinds), (TOGETHER, kinds)]
    rows = []
    end_s = asyncio.get_running_loop().time() + options.minutes * 60
    for name, faults in cells:
        row = Row(name)
        try:
            async with asyncio.timeout_at(end_s):
                for workloads in [[one] for one in options.workloads] if options.apart else [list(options.workloads)]:
                    await run_one(options, faults, workloads, row)
        except TimeoutError:
            if asyncio.get_running_loop().time() < end_s:
                raise
            row.was_run = False
        rows.append(row)
        say(f"{name}: {', '.join(f'{one} {verdict}' for one, verdict in row.verdicts.items())}; {told(row)}")
    return rows


def told(row: Row) -> str:
    """What was seen of the fault, and what was owed."""
    if not row.was_run:
        seen = "NOT RUN TO ITS END: the time was over"
    elif row.fault == "none":
        seen = "no fault"
    elif row.fault == TOGETHER:
        seen = f"NOT SEEN TO ACT: {', '.join(row.missed)}" if row.missed else "all were seen to act"
    else:
        first = row.seen[0] if row.seen else "nothing"
        seen = f"NOT SEEN TO ACT: {first}" if row.missed else first
    return "; ".join([seen, *row.owed])


def cells_of(row: Row, workloads: Sequence[str]) -> Iterator[str]:
    """A row of the table."""
    yield row.fault
    yield from (MARKS[row.verdicts.get(one, "")] for one in workloads)
    yield from (f"{number:,}" for number in (row.operations, row.unknown, row.failed, row.slowed))
    yield told(row)


def columns(workloads: Sequence[str]) -> list[str]:
    """The table's head."""
    return ["fault", *workloads, "calls", "unknown", "failed", "slowed", "seen"]


def markdown(rows: Sequence[Row], options: argparse.Namespace, line: str) -> str:
    """The table for people who read it later."""
    head = columns(options.workloads)
    lines = [f"{line}.", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in cells_of(row, options.workloads))} |" for row in rows]
    return "\n".join(lines) + "\n"


def line_of(options: argparse.Namespace) -> str:
    """What is run, and when: taken before it begins, for a commit may follow meanwhile."""
    when = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    how = "each workload alone" if options.apart else "all workloads at once"
    where = f"commit {commit.stdout.strip() or 'unknown'}"
    return f"{when}, {where}: {options.nodes} nodes, {options.time:g} s for each fault, {how}, seed {options.seed}"


def show(rows: Sequence[Row], options: argparse.Namespace, line: str) -> None:
    """The table at a terminal."""
    table = Table(title=line, title_justify="left", box=None, pad_edge=False)
    for name in columns(options.workloads):
        table.add_column(name, justify="right" if name in {"calls", "unknown", "failed", "slowed"} else "left")
    for row in rows:
        table.add_row(*(cell.replace("*", "") for cell in cells_of(row, options.workloads)))
    width = None if sys.stdout.isatty() else 240
    Console(width=width, markup=False, highlight=False).print(table)


def code_of(rows: Sequence[Row]) -> ExitCode:
    """How it ended."""
    verdicts = {verdict for row in rows for verdict in row.verdicts.values()}
    if "violated" in verdicts or any(row.owed for row in rows):
        return ExitCode.VIOLATION
    all_acted = all(row.was_run and not row.missed for row in rows)
    return ExitCode.DONE if verdicts == {"valid"} and all_acted else ExitCode.UNEXPECTED


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """What the person wants."""
    parser = argparse.ArgumentParser(prog="python -m tests.verify.campaign", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--time", type=float, default=TIME_S, help="seconds for each fault")
    parser.add_argument("--faults", default="all")
    parser.add_argument("--workloads", type=lambda text: text.split(","), default=list(WORKLOADS))
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all of it; what is not run then is told")
    parser.add_argument("--apart", action="store_true", help="each workload alone")
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    return parser.parse_args(arguments)


def main() -> int:
    """Runs the matrix; the exit code."""
    options = parsed()
    line = line_of(options)
    rows = asyncio.run(matrix(options, lambda text: print(text, file=sys.stderr, flush=True)))
    show(rows, options, line)
    if options.markdown is not None:
        options.markdown.write_text(markdown(rows, options, line))
    for row in rows:
        for folder in row.kept:
            print(f"{row.fault}: look at {folder} (kvstore verify --history {folder}/history.jsonl)", file=sys.stderr)
    return code_of(rows)


if __name__ == "__main__":
    sys.exit(main())
