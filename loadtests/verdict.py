"""What a load test came to: thresholds, checks, the exit code, and the tables that people read."""

from __future__ import annotations

import sys
from enum import IntEnum
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtests.correctness.ledger import Finding
from loadtests.thresholds import Row

WIDTH = 120
"""Where no terminal says how wide it is."""


class ExitCode(IntEnum):
    """What the exit of a load test says; a violation outweighs all else. 9 as for `kvstore verify`."""

    KEPT = 0
    BREACHED = 1
    """A threshold was broken, or a check could not be decided."""
    VIOLATED = 9


class Verdict(Struct, frozen=True):
    """All that decides."""

    profile: str
    rows: list[Row]
    findings: list[Finding]
    troubles: list[str] = []
    """What went wrong with the test itself: it proves nothing then."""

    @property
    def exit_code(self) -> ExitCode:
        """Which of the three it is."""
        verdicts = {finding.verdict for finding in self.findings}
        if "violated" in verdicts:
            return ExitCode.VIOLATED
        if "undecided" in verdicts or self.troubles or any(row.broken for row in self.rows):
            return ExitCode.BREACHED
        return ExitCode.KEPT

    def write(self, path: Path) -> None:
        """As JSON, with the exit code beside it."""
        plain = msgspec.to_builtins(self) | {"exit_code": int(self.exit_code)}
        path.write_bytes(msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n")


def read_verdict(path: Path) -> Verdict:
    """What write() wrote. Raises OSError where there is none."""
    return msgspec.json.decode(path.read_bytes(), type=Verdict)


def show(verdict: Verdict) -> None:
    """The tables, on stdout: each threshold beside what was measured, and the checks."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(_thresholds_table(verdict))
    console.print(_checks_table(verdict))
    for trouble in verdict.troubles:
        console.print(Text(trouble, style="bold red"))


def _thresholds_table(verdict: Verdict) -> Table:
    table = Table(title=f"thresholds, profile {verdict.profile or 'none'}: measured / limit", title_justify="left")
    table.add_column("request", overflow="fold")
    for column in ("requests", "failed %", "p95 ms", "p99 ms"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold")
    for row in sorted(verdict.rows, key=lambda row: row.measured.name):
        one, limits = row.measured, row.limits
        failures_max = None if limits.failures_max is None else 100 * limits.failures_max
        cells = [
            _cell(f"{one.requests:,}", limits.requests_min, "requests_min" in row.broken),
            _cell(f"{100 * one.failure_share:.2f}", failures_max, "failures_max" in row.broken),
            _cell(f"{one.p95_ms:,.0f}", limits.p95_ms, "p95_ms" in row.broken),
            _cell(f"{one.p99_ms:,.0f}", limits.p99_ms, "p99_ms" in row.broken),
        ]
        said = Text(f"broken: {', '.join(row.broken)}", style="bold red") if row.broken else Text("kept", style="green")
        table.add_row(Text(one.name), *cells, said)
    return table


def _cell(measured: str, limit: float | None, is_broken: bool) -> Text:
    return Text(measured if limit is None else f"{measured} / {limit:,g}", style="bold red" if is_broken else "")


def _checks_table(verdict: Verdict) -> Table:
    style = {"held": "green", "violated": "bold red", "undecided": "bold yellow"}
    table = Table(title="correctness under load", title_justify="left")
    table.add_column("check", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("of what", overflow="fold")
    for finding in verdict.findings:
        said = Text(finding.verdict, style=style[finding.verdict])
        table.add_row(finding.check, said, Text(finding.words))
    return table
