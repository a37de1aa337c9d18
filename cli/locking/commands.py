"""`kvstore lock`: take, renew, give back and look at locks."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from cli.connection import with_store
from cli.locking.names import (
    TokenCommand,
    default_owner,
    held,
    lease_fields,
    lease_options,
    name_argument,
    not_held,
    permits_option,
    seconds_text,
    token_argument,
    token_of,
)
from cli.locking.run import run_command
from cli.options import KEY, Choices, choices_options, option, store_options, timeout_option
from cli.output import show_fields, show_rows
from kvstore.errors import LockHeld

if TYPE_CHECKING:
    from kvstore.client.store import Store
    from kvstore.client.values import Lease, LockInfo


@click.group("lock")
@choices_options
def lock_command() -> None:
    """Take, renew, give back and look at locks, on nodes or on a file.

    A lock has one holder (or --permits N) at a time, for as long as its lease lasts. Each grant comes with a fence, a
    number that only grows: `get` and `put` with --fence LOCK=NUMBER are refused once a later holder has read or written
    so. `lock run` does all of this around a command. Exit code 4 when the lock is held by others, or lost.
    """


@lock_command.command("acquire")
@name_argument
@lease_options
@option("--owner", help="Who holds it, for others to see. [default: user@host:pid of the caller]")
@permits_option
@timeout_option
@store_options
@click.pass_obj
def acquire_command(
    choices: Choices,
    *,
    name: str,
    ttl: float,
    wait: float,
    owner: str | None,
    permits: int,
    timeout: float | None,
) -> None:
    """Take the lock NAME and show its token, which renews and releases it, and its fence.

    Nobody renews it unless asked: see `lock renew`, or `lock run`, which does.
    """
    who = default_owner(os.getppid()) if owner is None else owner  # who called us goes on; we don't

    async def work(store: Store) -> Lease:
        return await store.acquire(name, owner=who, ttl_s=ttl, wait_s=wait, permits=permits, timeout_s=timeout)

    try:
        lease = with_store(choices, work)
    except LockHeld as error:
        raise held(name, "the lock", error, wait) from error
    show_fields(lease_fields(lease), choices.output)


@lock_command.command("renew", cls=TokenCommand)
@name_argument
@token_argument
@timeout_option
@store_options
@click.pass_obj
def renew_command(choices: Choices, *, name: str, token: str, timeout: float | None) -> None:
    """Begin the lease of NAME anew. TOKEN may be - for a line of stdin, or stand in KVSTORE_TOKEN."""
    secret = token_of(token)
    with_store(choices, lambda store: store.renew(name, secret, timeout_s=timeout))
    show_fields({"name": name, "renewed": True}, choices.output)


@lock_command.command("release", cls=TokenCommand)
@name_argument
@token_argument
@timeout_option
@store_options
@click.pass_obj
def release_command(choices: Choices, *, name: str, token: str, timeout: float | None) -> None:
    """Give the lock NAME back. TOKEN may be - for a line of stdin, or stand in KVSTORE_TOKEN."""
    secret = token_of(token)
    with_store(choices, lambda store: store.release(name, secret, timeout_s=timeout))
    show_fields({"name": name, "released": True}, choices.output)


@lock_command.command("show")
@name_argument
@timeout_option
@store_options
@click.pass_obj
def show_command(choices: Choices, *, name: str, timeout: float | None) -> None:
    """Show who holds the lock NAME, since when by its fence, for how long still, and how many stand in line."""
    info = with_store(choices, lambda store: store.lock_info(name, timeout_s=timeout))
    if info is None:
        raise not_held(name, "the lock")
    show_fields(info_fields(info), choices.output)


@lock_command.command("list")
@click.argument("prefix", type=KEY, default="")
@timeout_option
@store_options
@click.pass_obj
def list_command(choices: Choices, *, prefix: str, timeout: float | None) -> None:
    """Show the locks that are held, those whose names start with PREFIX."""
    infos = with_store(choices, lambda store: store.locks(prefix, timeout_s=timeout))
    columns = ("name", "holder", "fence", "lease", "expires_in", "waiters", "permits")
    show_rows("locks", [info_fields(info) for info in infos], columns, choices.output)


lock_command.add_command(run_command)


def info_fields(info: LockInfo) -> dict[str, Any]:
    """A lock as the HTTP API shows it."""
    fields: dict[str, Any] = {
        "name": info.name,
        "holder": info.holder,
        "fence": info.fence,
        "lease": seconds_text(info.ttl),
        "expires_in": _rounded(info.expires_in),
        "waiters": info.waiters,
        "permits": info.permits,
    }
    if info.permits > 1:
        fields["holders"] = [
            {
                "owner": holder.owner,
                "fence": holder.fence,
                "lease": seconds_text(holder.ttl),
                "expires_in": _rounded(holder.expires_in),
            }
            for holder in info.holders
        ]
    return fields


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
