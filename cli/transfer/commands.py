"""`import` and `export`: a folder's files as keys, and back."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from cli.connection import with_client
from cli.errors import ExitCode
from cli.options import DURATION, KEY, LEVELS, Choices, choices_options, option, together
from cli.output import note, show_fields, visible, wants_json
from cli.progress import Progress, progress_of
from cli.transfer.exporting import Exporter, ExportReport
from cli.transfer.importing import Importer, ImportReport
from cli.transfer.patience import Patience
from cli.transfer.target_folder import TargetFolder

if TYPE_CHECKING:
    from kvstore.http_client import HttpClient

CONCURRENCY = 16
"""Enough to fill the commits of three nodes, little enough to leave them room for others."""
CONCURRENCY_MAX = 64
"""The client's connections."""
Report = TypeVar("Report", ImportReport, ExportReport)

_options = together(
    [
        option("--prefix", type=KEY, default="", help="What keys have in front of the path, as it is: docs/"),
        option("--consistency", type=click.Choice(LEVELS), default="strong", show_default=True, help="The level."),
        option(
            "--concurrency",
            type=click.IntRange(1, CONCURRENCY_MAX),
            default=CONCURRENCY,
            show_default=True,
            help="Requests at a time.",
        ),
        option(
            "--give-up-after", type=DURATION, default="60s", show_default=True, help="How long to retry one request."
        ),
        option(
            "--routing/--no-routing",
            default=True,
            show_default=True,
            help="Ask the nodes that hold the keys, rather than the first that answers.",
        ),
        choices_options,
    ]
)


@click.command("import")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@_options
@click.pass_obj
def import_command(
    choices: Choices,
    *,
    folder: Path,
    prefix: str,
    consistency: str,
    concurrency: int,
    give_up_after: float,
    routing: bool,
) -> int:
    """Put every file below DIR into the store, its path being the key.

    Run again after an interruption, it leaves alone what the store already has. Exit code 1 when files were left
    out: symbolic links, what is no file, names that are not UTF-8, what is too large.
    """

    async def work(client: HttpClient, patience: Patience, progress: Progress) -> ImportReport:
        importer = Importer(client, folder, prefix, consistency=consistency, patience=patience, progress=progress)
        return await importer.run(concurrency)

    return _concluded("import", _transferred("import", choices, give_up_after, routing, work), choices)


@click.command("export")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@_options
@click.pass_obj
def export_command(
    choices: Choices,
    *,
    folder: Path,
    prefix: str,
    consistency: str,
    concurrency: int,
    give_up_after: float,
    routing: bool,
) -> int:
    """Write every key as a file below DIR.

    Run again after an interruption, it leaves alone what already is as it should be. Exit code 1 when keys can't be
    files: those with .. or empty parts, or that are a folder to others.
    """

    async def work(client: HttpClient, patience: Patience, progress: Progress) -> ExportReport:
        exporter = Exporter(client, target, prefix, consistency=consistency, patience=patience, progress=progress)
        return await exporter.run(concurrency)

    with TargetFolder(folder) as target:
        report = _transferred("export", choices, give_up_after, routing, work)
    return _concluded("export", report, choices)


def _transferred(
    verb: str,
    choices: Choices,
    give_up_after_s: float,
    routing: bool,
    work: Callable[[HttpClient, Patience, Progress], Awaitable[Report]],
) -> Report:
    """The report of the work, with progress shown; SIGTERM ends it as SIGINT does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    progress = progress_of(verb)
    patience = Patience(give_up_after_s, progress.say)
    try:
        with progress:
            return with_client(choices, lambda client: work(client, patience, progress), routing=routing)
    except KeyboardInterrupt:
        note(f"{verb}: stopped after {progress.done} of {progress.total} files; the same command carries on from here")
        raise


def _concluded(verb: str, report: ImportReport | ExportReport, choices: Choices) -> ExitCode:
    """Shows the report and says how the command ends."""
    for trouble in report.failed:
        note(f"{verb}: left out {visible(trouble.path)}: {trouble.reason}")
    fields = asdict(report)
    if not wants_json(choices.output):
        fields["failed"] = len(report.failed)
    show_fields(fields, choices.output)
    return ExitCode.UNEXPECTED if report.failed else ExitCode.DONE
