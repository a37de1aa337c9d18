"""docs/cases.md: made from the results, every word of it, so that no figure on it is older than the table."""

from __future__ import annotations

import os
from pathlib import Path

from loadtests.cases.groups import GROUPS
from loadtests.cases.groups.group import CaseGroup, Plot
from loadtests.cases.report import style
from loadtests.cases.report.table import markdown, rows
from loadtests.cases.report.words import number
from loadtests.cases.results import ETCD, KVSTORE, Group, Machine, Results

HERE = Path(__file__).parent


def write_page(results: Results, page: Path, plots: Path) -> None:
    """The page, and a picture per plot in that folder."""
    measured = [(cases, results.groups[cases.name]) for cases in GROUPS if cases.name in results.groups]
    for cases, group in measured:
        for plot in cases.plots:
            draw(plot, group, plots / f"{plot.name}.svg")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(_lines(measured, os.path.relpath(plots, page.parent))) + "\n", "utf-8")


def draw(plot: Plot, group: Group, path: Path) -> None:
    """One picture, with its caption."""
    canvas = style.new_canvas(plot.size)
    plot.draw(group, canvas)
    style.save(canvas, plot.title, plot.how(group), caption(group), path)


def caption(group: Group) -> str:
    """When, where and with what."""
    machine = group.machine
    versions = [f"Python {machine.python}", f"SQLite {machine.sqlite}", f"etcd {machine.etcd}"]
    quick = "; quick run" if group.is_quick else ""
    return f"{group.date}; {_place(machine)}; {', '.join(versions)}; commit {group.revision}{quick}"


def _place(machine: Machine) -> str:
    cores = f"{machine.cores} core{'' if machine.cores == 1 else 's'}"
    return f"{cores} of {machine.cpu}, {machine.memory_gib:.0f} GiB, {machine.kernel}"


def _lines(measured: list[tuple[CaseGroup, Group]], folder: str) -> list[str]:
    lines = [_prose("introduction"), *_when(measured)]
    lines += ["## The table", "", *markdown((cases.title, rows(cases, group)) for cases, group in measured), ""]
    for cases, group in measured:
        lines += [f"## {cases.title}", ""]
        for plot in cases.plots:
            lines += [f"![{plot.title}]({folder}/{plot.name}.svg)", "", " ".join(plot.words(group)), ""]
        lines += _faults(group)
    return [*lines, _prose("method"), *_shares(measured)]


def _prose(name: str) -> str:
    return (HERE / f"{name}.md").read_text("utf-8")


def _when(measured: list[tuple[CaseGroup, Group]]) -> list[str]:
    """One paragraph for each run that figures come from."""
    runs: dict[tuple[str, str, str], list[tuple[CaseGroup, Group]]] = {}
    for cases, group in measured:
        runs.setdefault((group.date, group.command, group.revision), []).append((cases, group))
    lines = []
    for found in runs.values():
        first = found[0][1]
        which = "All figures" if len(runs) == 1 else ", ".join(cases.title for cases, _ in found)
        quick = " A quick run: short rounds and few of them, so take the figures as a sketch." if first.is_quick else ""
        minutes = sum(group.took_s for _, group in found) / 60
        lines += [f"{which}: `{first.command}`, {number(minutes)} minutes; {caption(first)}.{quick}", ""]
        for name, what in _missing(first.machine):
            lines += [f"**{name} is not installed there**: {what}.", ""]
    return lines


def _missing(machine: Machine) -> list[tuple[str, str]]:
    found = []
    if machine.etcd == "not installed":
        found.append(("etcd", "kvstore was measured alone"))
    if machine.wrk == "not installed":
        found.append(
            ("wrk", "closed loops are those of an asyncio client, which takes more of the machine, without etcd")
        )
    return found


def _faults(group: Group) -> list[str]:
    if not group.faults:
        return []
    return [
        "What the members themselves counted or logged as refused or gone wrong:",
        "",
        *(f"- {fault}" for fault in group.faults),
        "",
    ]


def _shares(measured: list[tuple[CaseGroup, Group]]) -> list[str]:
    """What the client and the idle side took: whether they were in the way."""
    rounds = [(figure.side, one) for _, group in measured for figure in group.figures for one in figure.rounds]
    if not rounds:
        return []
    client = max(one.client_cores for _, one in rounds)
    idle = {
        side: max((one.idle_cores for measured_side, one in rounds if measured_side != side), default=0.0)
        for side in (KVSTORE, ETCD)
    }
    return [
        f"The load generator took {number(client)} cores at most; kvstore, while etcd was measured, "
        f"{number(idle[KVSTORE])}, and etcd, while kvstore was measured, {number(idle[ETCD])}."
    ]
