"""What the commands of locks and elections share: who holds, which token, and how a refusal reads."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from typing import Any

import click

from cli.errors import CommandFailed, ExitCode
from cli.options import DURATION, KEY, option, together
from cli.output import visible
from kvstore.errors import LockHeld

OWNER_BYTES_MAX = 256
"""More is refused by who keeps the lock."""
PERMITS_MAX = 100
TOKEN_CHARACTERS_MIN = 20
"""A shorter one could be guessed; no option is as long."""

name_argument = click.argument("name", type=KEY)
token_argument = click.argument("token", envvar="KVSTORE_TOKEN")
lease_options = together(
    [
        option("--ttl", type=DURATION, default="10s", show_default=True, help="The lease: it lasts so long unrenewed."),
        option("--wait", type=DURATION, default="0s", show_default=True, help="Stand in line so long, at most 10m."),
    ]
)
permits_option = option(
    "--permits",
    type=click.IntRange(1, PERMITS_MAX),
    default=1,
    show_default=True,
    help="How many may hold it at once; all who ask must say the same.",
)


class TokenCommand(click.Command):
    """A command that takes a token, which may begin with a dash: whoever drew it had no options in mind."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As ever, but a long unknown option is the token."""
        end = args.index("--") if "--" in args else len(args)
        known = {flag for parameter in self.get_params(ctx) for flag in parameter.opts}
        for place, word in enumerate(args[:end]):
            is_ours = not word.startswith("-") or word.partition("=")[0] in known
            if not is_ours and len(word) >= TOKEN_CHARACTERS_MIN:
                args = [*args[:place], *args[place + 1 : end], "--", word, *args[end + 1 :]]
                break
        return super().parse_args(ctx, args)


def default_owner(pid: int) -> str:
    """user@host:pid, for people who wonder who holds a lock."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        user = str(os.getuid())
    tail = f":{pid}"
    named = f"{user}@{socket.gethostname()}".encode("utf-8", "replace")[: OWNER_BYTES_MAX - len(tail)]
    return named.decode("utf-8", "ignore") + tail


def token_of(argument: str) -> str:
    """The token itself: `-` is a line of stdin, so that it stands neither in the process list nor in a history."""
    token = sys.stdin.readline().strip() if argument == "-" else argument
    if not token:
        raise click.UsageError("no token was given; `lock acquire` and `elect campaign` show it")
    return token


def held(name: str, what: str, error: LockHeld, waited_s: float) -> CommandFailed:
    """The end of a command that did not get the lock: by whom it is held, and what to do."""
    by = f"held by {visible(error.holder)}" if error.holder else "held by others"
    when = ""
    if error.retry_after is not None:
        when = f"; unless that lease is renewed, it may be free in {error.retry_after:.0f} s"
    hint = f"after waiting for {waited_s:g} s" if waited_s else "--wait 30s stands in line"
    return CommandFailed(f"{what} {visible(name)!r} is {by}{when} ({hint})", ExitCode.CONDITION_FAILED)


def not_held(name: str, what: str) -> CommandFailed:
    """The end of a command that asked for what nobody holds."""
    return CommandFailed(f"nobody holds {what} {visible(name)!r}", ExitCode.NOT_FOUND)


def seconds_text(seconds: float) -> str:
    """As durations are written: 10s, 1.5s."""
    return f"{seconds:g}s"


def lease_fields(lease: Any) -> dict[str, Any]:
    """A grant, as the HTTP API shows it; with the token."""
    return {
        "name": lease.name,
        "owner": lease.owner,
        "token": lease.token,
        "fence": lease.fence,
        "ttl": seconds_text(lease.ttl),
    }
