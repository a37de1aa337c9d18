"""`kvstore elect`: leadership, which is a lock seen from the other side. The term is the lock's fence."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from cli.connection import with_store
from cli.locking.names import (
    TokenCommand,
    default_owner,
    held,
    lease_options,
    name_argument,
    not_held,
    seconds_text,
    token_argument,
    token_of,
)
from cli.options import Choices, choices_options, option, store_options, timeout_option
from cli.output import show_fields
from kvstore.errors import LockHeld

if TYPE_CHECKING:
    from kvstore.client.store import Store
    from kvstore.client.values import Lease


@click.group("elect")
@choices_options
def elect_command() -> None:
    """Elect a leader and keep it, on nodes or on a file.

    The leader of NAME is the holder of the lock NAME, and its term is the lock's fence: a write with
    `put --fence NAME=TERM` is refused once a later leader has written. So `lock run NAME -- COMMAND` runs a command
    as leader. Exit code 4 when another leads, or the lead is lost.
    """


@elect_command.command("campaign")
@name_argument
@lease_options
@option("--candidate", help="Who wants to lead, for others to see. [default: user@host:pid of the caller]")
@timeout_option
@store_options
@click.pass_obj
def campaign_command(
    choices: Choices, *, name: str, ttl: float, wait: float, candidate: str | None, timeout: float | None
) -> None:
    """Lead NAME, if need be after its leader, and show the term and the token that renews it."""
    who = default_owner(os.getppid()) if candidate is None else candidate

    async def work(store: Store) -> Lease:
        return await store.acquire(name, owner=who, ttl_s=ttl, wait_s=wait, permits=1, timeout_s=timeout)

    try:
        lease = with_store(choices, work)
    except LockHeld as error:
        raise held(name, "the lead of", error, wait) from error
    fields = {"name": name, "leader": lease.owner, "term": lease.fence, "token": lease.token}
    show_fields({**fields, "ttl": seconds_text(lease.ttl)}, choices.output)


@elect_command.command("renew", cls=TokenCommand)
@name_argument
@token_argument
@timeout_option
@store_options
@click.pass_obj
def renew_command(choices: Choices, *, name: str, token: str, timeout: float | None) -> None:
    """Stay the leader of NAME. TOKEN may be - for a line of stdin, or stand in KVSTORE_TOKEN."""
    secret = token_of(token)
    with_store(choices, lambda store: store.renew(name, secret, timeout_s=timeout))
    show_fields({"name": name, "renewed": True}, choices.output)


@elect_command.command("resign", cls=TokenCommand)
@name_argument
@token_argument
@timeout_option
@store_options
@click.pass_obj
def resign_command(choices: Choices, *, name: str, token: str, timeout: float | None) -> None:
    """Give the lead of NAME to whoever is next. TOKEN may be - for a line of stdin, or stand in KVSTORE_TOKEN."""
    secret = token_of(token)
    with_store(choices, lambda store: store.release(name, secret, timeout_s=timeout))
    show_fields({"name": name, "resigned": True}, choices.output)


@elect_command.command("leader")
@name_argument
@timeout_option
@store_options
@click.pass_obj
def leader_command(choices: Choices, *, name: str, timeout: float | None) -> None:
    """Show who leads NAME, in which term, and how many want to. Exit code 3 when nobody does."""
    info = with_store(choices, lambda store: store.lock_info(name, timeout_s=timeout))
    if info is None:
        raise not_held(name, "the lead of")
    show_fields(
        {
            "name": name,
            "leader": info.holder,
            "term": info.fence,
            "lease": seconds_text(info.ttl),
            "expires_in": info.expires_in,
            "candidates": info.waiters,
        },
        choices.output,
    )
