"""Runs that make a history: against running nodes, or against a cluster of our own. Then they are judged and told."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cli.errors import CommandFailed, ExitCode
from cli.output import note
from cli.verification.options import DEFAULT_TIME_S
from cli.verification.report import exit_code, fault_rows, operation_rows, show_table
from cli.verification.watching import Watching

if TYPE_CHECKING:
    from kvstore.verify.faults.schedule import Acting
    from kvstore.verify.history import History
    from kvstore.verify.verdict import Judgement

ASK_WITHIN_S = 5.0
"""A node that is to be verified answers who it is within this time."""
SHOW_EVERY_S = 0.2
NEEDS_COPIES = "convergence"

Result = TypeVar("Result")


@dataclass(frozen=True)
class Wishes:
    """What the person asked for."""

    workloads: Sequence[str]
    time_s: float | None
    rate: int
    concurrency: int
    seed: int | None
    keep: bool
    data: Path | None
    nodes: int = 3
    faults: str = "all"
    output: str | None = None


@dataclass
class Outcome:
    """What a run came to."""

    run_id: str
    seed: int
    folder: Path
    history: History
    actings: Sequence[Acting] = ()
    unseen: Sequence[str] = ()
    owed: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)


def verify_nodes(endpoints: Sequence[str], wishes: Wishes) -> ExitCode:
    """Loads nodes that run already, and judges what their clients saw."""
    with Watching() as watching:
        outcome = _run(_against(endpoints, wishes, watching))
    return _conclude(outcome, wishes)


def verify_local(wishes: Wishes) -> ExitCode:
    """Starts a cluster, hurts it while it is loaded, and judges what its clients saw."""
    with Watching() as watching:
        outcome = _run(_on_our_own(wishes, watching))
    return _conclude(outcome, wishes)


async def _against(endpoints: Sequence[str], wishes: Wishes, watching: Watching) -> Outcome:
    from kvstore.verify.load import Load, LoadPlan  # noqa: PLC0415 - `verify --help` needs no client

    nodes, copies = await _asked(endpoints)
    run_id, seed, folder = _beginning(wishes)
    time_s = wishes.time_s or DEFAULT_TIME_S[False]
    workloads = [name for name in wishes.workloads if copies > 1 or name != NEEDS_COPIES]
    if len(workloads) < len(wishes.workloads):
        watching.say(f"{NEEDS_COPIES} is left out: each key has one replica here, which is always equal to itself")
    plan = LoadPlan(nodes, run_id, workloads, seed, wishes.rate, wishes.concurrency)
    watching.say(f"{len(nodes)} nodes, {time_s:g} s, seed {seed}; all names begin with {plan.prefix}")
    notes: list[str] = []
    with _history(folder).open("wb") as file:
        async with Load(plan, file) as load:
            over = asyncio.Event()
            end_s = time.monotonic() + time_s
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(load.run(over))
                    while (left_s := end_s - time.monotonic()) > 0:
                        watching.show(load, (), left_s)
                        await asyncio.sleep(min(left_s, SHOW_EVERY_S))
                    over.set()
                watching.say("the final reads")
                notes += await load.finish()
            finally:
                if wishes.keep:
                    notes.append(f"the keys under {plan.prefix} stay, as --keep wishes")
                else:
                    notes.append(await load.clean())
            return Outcome(run_id, seed, folder, load.history(), notes=notes)


async def _on_our_own(wishes: Wishes, watching: Watching) -> Outcome:
    from kvstore.verify.faults.cluster import ClusterFailed  # noqa: PLC0415
    from kvstore.verify.faults.schedule import chosen_kinds  # noqa: PLC0415
    from kvstore.verify.local_run import LocalPlan, run_local  # noqa: PLC0415

    try:
        faults = chosen_kinds(wishes.faults)
    except ValueError as error:
        raise CommandFailed(f"--faults: {error}", ExitCode.USAGE) from None
    run_id, seed, folder = _beginning(wishes)
    nodes = folder / "nodes"
    nodes.mkdir()
    time_s = wishes.time_s or DEFAULT_TIME_S[True]
    plan = LocalPlan(
        folder=nodes,
        history=_history(folder),
        serve=[sys.executable, "-P", "-m", "cli", "serve"],
        run_id=run_id,
        nodes=wishes.nodes,
        workloads=wishes.workloads,
        faults=faults,
        time_s=time_s,
        seed=seed,
        rate=wishes.rate,
        concurrency=wishes.concurrency,
    )
    watching.say(f"a cluster of {wishes.nodes} nodes of our own, {time_s:g} s, seed {seed}, in {folder}")
    try:
        result = await run_local(plan, watching)
    except ClusterFailed as failed:
        raise CommandFailed(f"the cluster did not come about: {failed}; its logs are in {nodes}") from failed
    if not wishes.keep and not result.owed:
        shutil.rmtree(nodes, ignore_errors=True)
    notes = [result.skipped] if result.skipped else []
    return Outcome(run_id, seed, folder, result.history, result.actings, result.unseen, result.owed, notes)


async def _asked(endpoints: Sequence[str]) -> tuple[dict[str, str], int]:
    """Each node's own name and its address, and how many replicas a key has.

    Nodes that do not answer go by their address, and are told.
    """
    from kvstore.client_errors import ClientError, NoNodeReachable  # noqa: PLC0415
    from kvstore.http_client import HttpClient  # noqa: PLC0415

    named: dict[str, str] = {}
    failed, copies = [], 0
    async with HttpClient(endpoints) as client:
        for url in client.endpoints:
            try:
                answer = await client.request("GET", "/v1/cluster", only=url, timeout_s=ASK_WITHIN_S)
                page = answer.json()
                named[str(page["node"])] = url
                copies = max(copies, int(page["n"]))
            except (ClientError, ValueError, KeyError, TypeError) as error:
                failed.append(str(error))
                named[url] = url
    if len(failed) == len(endpoints):
        raise NoNodeReachable("; ".join(failed))
    for reason in failed:
        note(f"kvstore verify: {reason}")
    return named, copies


def _beginning(wishes: Wishes) -> tuple[str, int, Path]:
    """The run's id, its seed, and the folder for what it leaves."""
    run_id = secrets.token_hex(4)
    seed = secrets.randbelow(2**32) if wishes.seed is None else wishes.seed
    try:
        if wishes.data is None:
            return run_id, seed, Path(tempfile.mkdtemp(prefix="kvstore-verify-"))
        folder = wishes.data.absolute() / run_id
        folder.mkdir(parents=True)
    except OSError as error:
        raise CommandFailed(f"no folder can be made for the history: {error}") from error
    return run_id, seed, folder


def _history(folder: Path) -> Path:
    return folder / "history.jsonl"


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs it; SIGTERM and SIGHUP end it as Ctrl-C does, so that no node and no key is left."""

    async def ended_by_signals() -> Result:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(ended_by_signals())
    except asyncio.CancelledError:
        raise CommandFailed("ended before its end; nothing was judged", ExitCode.INTERRUPTED) from None


def _conclude(outcome: Outcome, wishes: Wishes) -> ExitCode:
    """Judges, tells, and says with which code to exit."""
    from cli.verdicts import as_fields, draw, judge_aloud, show_judgement  # noqa: PLC0415
    from kvstore.verify.history import History  # noqa: PLC0415

    path, page = _history(outcome.folder), outcome.folder / "timeline.html"
    history = History(outcome.history, str(path))
    note(f"kvstore verify: judging {len(history):,} operations")
    judgement = judge_aloud(history)
    code = exit_code(judgement, outcome.owed, outcome.unseen)
    if wishes.output == "json":
        drawn = draw(judgement, history, page)
        print(json.dumps({**as_fields(judgement), **_as_data(outcome, drawn, code)}, ensure_ascii=False))
    else:
        show_judgement(judgement, history, timeline=page)
        print()
        show_table("What was done", operation_rows(history))
        show_table("Faults", fault_rows(outcome.actings))
    for line in (*outcome.owed, *outcome.notes):
        note(f"kvstore verify: {line}")
    if outcome.unseen:
        note(f"kvstore verify: inconclusive, for these faults were not seen to act: {', '.join(outcome.unseen)}")
    note(f"kvstore verify: {_in_a_word(judgement, outcome)}; seed {outcome.seed}, history in {path}")
    return code


def _in_a_word(judgement: Judgement, outcome: Outcome) -> str:
    if judgement.verdict == "violated":
        return "VIOLATED: a promise was broken"
    if outcome.owed:
        return "VIOLATED: the healed cluster does not do all it should"
    if judgement.verdict == "undecided":
        return "undecided"
    return "inconclusive: nothing was broken, but not all faults acted" if outcome.unseen else "valid"


def _as_data(outcome: Outcome, timeline: Path | None, code: ExitCode) -> dict[str, Any]:
    return {
        "exit_code": int(code),
        "run": outcome.run_id,
        "seed": outcome.seed,
        "history": os.fspath(_history(outcome.folder)),
        "timeline": None if timeline is None else os.fspath(timeline),
        "done": operation_rows(outcome.history),
        "faults": fault_rows(outcome.actings),
        "not_seen_to_act": list(outcome.unseen),
        "owed": list(outcome.owed),
        "told": outcome.notes,
    }
