"""`kvstore demo`: the acts in their order, and how it all ends."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import click

from cli.demo.act_failures import convergence, heal, majority_lost, node_killed
from cli.demo.act_fencing import fencing
from cli.demo.act_levels import cluster_comes_up, levels
from cli.demo.act_vote import vote
from cli.demo.claims import Verdict
from cli.demo.report import as_json, show_verdict
from cli.demo.stage import Stage
from cli.demo.story import NotSeen, Story
from cli.errors import CommandFailed
from cli.options import Choices, option, output_option_saying
from cli.output import note

ENDED_BY_SIGTERM = 128 + signal.SIGTERM


@click.command("demo")
@option("--keep", is_flag=True, help="Leave the nodes' folders and logs behind, and say where.")
@output_option_saying("json: the verdict on stdout, as data, and the story on stderr.")
@click.pass_obj
def demo_command(choices: Choices, *, keep: bool) -> int:
    """Show what this store does, on three real nodes of its own, in less than a minute.

    The three levels, a vote, a node killed, a majority lost and refused, the heal, the convergence, a paused lock
    holder fenced off. Exit code 0 if every single thing was seen, 9 if not. Nothing is left running, nor on the disk.
    """
    as_data = choices.output == "json"
    verdict = Verdict()
    story = Story(verdict, sys.stderr if as_data else sys.stdout)
    try:
        asyncio.run(_perform(story, keep))
    except asyncio.CancelledError:
        note("kvstore demo: ended before its end; nothing is left running")
        return ENDED_BY_SIGTERM
    if as_data:
        print(json.dumps(as_json(verdict, story.seconds), ensure_ascii=False))
    else:
        show_verdict(verdict, story.seconds)
    return verdict.exit_code


async def _perform(story: Story, keep: bool) -> None:
    """The whole story. What goes wrong ends it; the verdict says what was missed."""
    from kvstore.client_errors import ClientError  # noqa: PLC0415 - `demo --help` needs no client
    from kvstore.errors import KvstoreError  # noqa: PLC0415

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        async with Stage(keep) as stage:
            await _acts(stage, story)
    except (NotSeen, CommandFailed, KvstoreError, ClientError, OSError) as error:
        note(f"\nkvstore demo: the story can't go on: {error}")


async def _acts(stage: Stage, story: Story) -> None:
    await cluster_comes_up(stage, story)
    await levels(stage, story)
    await vote(stage, story)
    dead = await node_killed(stage, story)
    alone, refused = await majority_lost(stage, story, dead)
    await heal(stage, story, alone, refused)
    await convergence(stage, story)
    await fencing(stage, story)
