"""`verify`: does what clients saw keep the promises? Of a history in a file."""

from __future__ import annotations

from pathlib import Path

import click

from cli.errors import CommandFailed, ExitCode
from cli.options import Choices, Duration, option, output_option_saying
from cli.verdicts import judge_aloud, show_judgement
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
    help="Where to draw a violation, as a page for a browser; beside the history when absent.",
)
@option("--time-limit", type=Duration(), default=TIME_LIMIT, show_default=True, help="Then the rest is undecided.")
@output_option_saying("Words (table), or JSON; words when absent, in a pipe too.")
@click.pass_obj
def verify_command(
    choices: Choices, *, history: Path | None, form: str | None, timeline: Path | None, time_limit: float
) -> int:
    """Say whether a history keeps the promises: valid, violated or undecided.

    The first line on stdout is the verdict. A violation is explained by the fewest operations that show it, in words
    and as a timeline. Exit codes: 0 valid, 9 violated, 1 undecided, or the file is no history.
    """
    if history is None:
        raise click.UsageError("say what to judge: --history FILE")
    return verify_history(history, form, timeline, time_limit, choices.output)


def verify_history(path: Path, form: str | None, timeline: Path | None, time_limit_s: float, output: str | None) -> int:
    """Judges the history in a file. The exit code."""
    form = form or guess_format(path)
    try:
        history = read_as(path, form)
    except HistoryError as error:
        raise CommandFailed(f"this is no history in the format {form}: {error}", ExitCode.UNEXPECTED) from None
    judgement = judge_aloud(history, initial=INITIAL[form], time_limit_s=time_limit_s)
    return show_judgement(judgement, history, output=output, timeline=timeline)
