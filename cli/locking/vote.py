"""`kvstore vote`: of several proposals one wins, once and for ever."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from cli.connection import with_store
from cli.errors import CommandFailed, ExitCode
from cli.locking.names import name_argument
from cli.options import KEY, Choices, option, store_options, timeout_option
from cli.output import show_fields, visible

if TYPE_CHECKING:
    from kvstore.client.store import Store
    from kvstore.client.values import Decision


@click.command("vote")
@name_argument
@click.argument("candidate", type=KEY, required=False)
@option("--value", metavar="JSON", help="What CANDIDATE proposes; all are told the winner's. null if not said.")
@timeout_option
@store_options
@click.pass_obj
def vote_command(
    choices: Choices, *, name: str, candidate: str | None, value: str | None, timeout: float | None
) -> None:
    """Propose CANDIDATE in the vote NAME and show the winner; without CANDIDATE, only show it.

    The first proposal to reach a majority wins, once and for ever; all others are told who won. That is no error:
    compare `winner`. `is_new` says whether this very proposal decided it. Exit code 3 where nothing is decided yet.
    """
    if candidate is None and value is not None:
        raise click.UsageError("--value is what a candidate proposes; give a CANDIDATE, too")
    proposal = parsed(value)

    async def work(store: Store) -> Decision | None:
        if candidate is None:
            return await store.decision(name, timeout_s=timeout)
        return await store.propose(name, candidate, proposal, timeout_s=timeout)

    decision = with_store(choices, work)
    if decision is None:
        raise CommandFailed(f"nothing is decided in the vote {visible(name)!r}", ExitCode.NOT_FOUND)
    fields = {"name": decision.name, "winner": decision.winner, "value": decision.value}
    if candidate is not None:
        fields["is_new"] = decision.is_new
    show_fields({**fields, "decided_at": decision.decided_at}, choices.output)


def parsed(value: str | None) -> Any:
    """The value of a proposal. Raises UsageError for what is no JSON."""
    if value is None:
        return None
    try:
        return json.loads(value, parse_constant=_no_number)
    except ValueError as error:
        raise click.UsageError(f"--value is no JSON ({error}); a text needs its quotes: '\"text\"'") from error


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")
