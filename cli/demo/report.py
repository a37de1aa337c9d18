"""The last page of the demo: every claim, and whether it was seen."""

from __future__ import annotations

import sys
from typing import TextIO

from cli.demo.claims import Finding, Verdict
from cli.output import visible


def show_verdict(verdict: Verdict, seconds: float, to: TextIO = sys.stdout) -> None:
    """A table at a terminal, plain lines elsewhere, and one sentence below."""
    print(file=to)
    if to.isatty():
        _show_table(verdict.findings, to)
    else:
        width = max(len(finding.mark) for finding in verdict.findings)
        for finding in verdict.findings:
            print(f"{finding.mark:{width}}  {finding.claim.text}", file=to)
    print(f"\n{conclusion(verdict, seconds)}", file=to, flush=True)


def conclusion(verdict: Verdict, seconds: float) -> str:
    """The sentence below."""
    count = len(verdict.findings)
    if not verdict.missing:
        return f"All {count} claims were seen, in {seconds:.0f} s."
    missing = ", ".join(finding.claim.name for finding in verdict.missing)
    return f"{len(verdict.missing)} of {count} claims were not seen: {missing}."


def as_json(verdict: Verdict, seconds: float) -> dict[str, object]:
    """The same for programs."""
    return {
        "all_seen": not verdict.missing,
        "seconds": round(seconds, 1),
        "claims": [
            {
                "name": finding.claim.name,
                "claim": finding.claim.text,
                "seen": bool(finding.seen),
                "reached": finding.seen is not None,
                "evidence": finding.evidence or None,
            }
            for finding in verdict.findings
        ],
    }


def _show_table(findings: list[Finding], to: TextIO) -> None:
    from rich.console import Console  # noqa: PLC0415 - only a terminal pays for it
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("what was claimed", overflow="fold")
    table.add_column("seen?", no_wrap=True)
    for finding in findings:
        table.add_row(visible(finding.claim.text), Text(finding.mark, "green" if finding.seen else "bold red"))
    Console(file=to, markup=False, highlight=False).print(table)
