"""`verify`: does what clients saw keep the promises? Of a history in a file, or of one that is made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from cli.errors import CommandFailed, ExitCode
from cli.options import Choices, Duration, endpoints_option, option, output_option_saying
from cli.verdicts import judge_aloud, show_judgement
from cli.verification.options import running_options
from kvstore.verify.formats import FORMATS, INITIAL, guess_format, read_as
from kvstore.verify.history import HistoryError

TIME_LIMIT = "5m"


@click.command("verify")
@option(
    "--history",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Judge this history.",
)
@option("--format", "form", type=click.Choice(list(FORMATS)), help="Of the history; by its first line when absent.")
@option(
    "--timeline",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to draw a violation of --history, as a page; a new folder for temporary files when absent.",
)
@option("--time-limit", type=Duration(), default=TIME_LIMIT, show_default=True, help="Then the rest is undecided.")
@running_options
@endpoints_option
@output_option_saying("Words (table), or JSON; words when absent, in a pipe too.")
@click.pass_obj
def verify_command(
    choices: Choices,
    /,
    *,
    history: Path | None,
    form: str | None,
    timeline: Path | None,
    time_limit: float,
    local: bool,
    **wishes: Any,
) -> int:
    """Say whether a history, or a cluster, keeps the promises: valid, violated or undecided.

    Judges a history (--history), or makes one: with --endpoints it loads nodes that run already, for a time and at a
    rate, and touches nothing but keys, locks and votes of its own; with --local it starts a cluster, kills, pauses and
    parts its nodes while it loads them, and sees that it heals.

    The first line on stdout is the verdict. A violation is explained by the fewest operations that show it, in words
    and as a timeline. Exit codes: 0 valid, 9 violated, 1 undecided, or the file is no history, or a fault was not seen
    to act.
    """
    is_told_nodes = choices.endpoints_from is ParameterSource.COMMANDLINE
    if (history is not None) + local + is_told_nodes > 1:
        raise click.UsageError("give one of --history FILE, --endpoints LIST and --local")
    if history is not None:
        return verify_history(history, form, timeline, time_limit, choices.output)
    if not local and choices.endpoints_from is ParameterSource.DEFAULT:
        raise click.UsageError("say what to verify: --history FILE, --endpoints LIST or --local")
    return verify_running(choices, local, **wishes)


def verify_running(choices: Choices, local: bool, *, nodes: str, workload: tuple[str, ...], **wishes: Any) -> int:
    """Makes a history, of the chosen nodes or of a cluster of our own, and judges it. The exit code."""
    from cli.verification.runs import Wishes, verify_local, verify_nodes  # noqa: PLC0415 - the client costs time

    wish = Wishes(nodes=int(nodes), workloads=workload, output=choices.output, **wishes)
    return verify_local(wish) if local else verify_nodes(choices.endpoints, wish)


def verify_history(path: Path, form: str | None, timeline: Path | None, time_limit_s: float, output: str | None) -> int:
    """Judges the history in a file. The exit code."""
    form = form or guess_format(path)
    try:
        history = read_as(path, form)
    except HistoryError as error:
        raise CommandFailed(f"this is no history in the format {form}: {error}", ExitCode.UNEXPECTED) from None
    judgement = judge_aloud(history, initial=INITIAL[form], time_limit_s=time_limit_s)
    return show_judgement(judgement, history, output=output, timeline=timeline)
