"""Options that several commands share, and the kinds of values they take.

Every option is also an environment variable: `--if-match` is KVSTORE_IF_MATCH, `-r` is KVSTORE_R.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.core import ParameterSource

DEFAULT_ENDPOINTS = ",".join(f"http://127.0.0.1:{port}" for port in (7001, 7002, 7003))
"""Where `kvstore dev` listens."""
OUTPUTS = ("table", "json")
LEVELS = ("strong", "weak", "eventual")

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass
class Choices:
    """What stands before or after any command: whom to ask, and how to show the answer."""

    endpoints: tuple[str, ...]
    output: str | None
    """"table", "json", or None for what suits stdout."""
    endpoints_from: ParameterSource = ParameterSource.DEFAULT
    """Who says so: nobody, the environment, or the command line."""
    file: str | None = None
    """The file that takes the place of nodes, for commands that work on either."""
    file_from: ParameterSource = ParameterSource.DEFAULT

    def chosen_file(self) -> str | None:
        """The file to work on; None for the nodes. Raises UsageError where both are said in the same place."""
        if self.file is None or _SAID[self.endpoints_from] > _SAID[self.file_from]:
            return None
        if self.endpoints_from is not self.file_from:
            return self.file
        one, other = ("KVSTORE_FILE", "KVSTORE_ENDPOINTS") if self.file_from is _ENVIRONMENT else _BOTH_FLAGS
        raise click.UsageError(f"{one} is a file on this machine and {other} are nodes: give one of them")


_ENVIRONMENT = ParameterSource.ENVIRONMENT
_SAID = {ParameterSource.DEFAULT: 0, _ENVIRONMENT: 1, ParameterSource.COMMANDLINE: 2}
"""What is said nearer to the command wins."""
_BOTH_FLAGS = ("--file", "--endpoints")


def variable_of(flag: str) -> str:
    """The environment variable of a flag: KVSTORE_IF_MATCH for --if-match."""
    return "KVSTORE_" + flag.lstrip("-").replace("-", "_").upper()


def option(*flags: str, **settings: Any) -> Callable[[Decorated], Decorated]:
    """A click option that is also read from the environment, under its longest flag's name."""
    longest = max((flag.split("/")[0] for flag in flags if flag.startswith("-")), key=len)
    return click.option(*flags, envvar=variable_of(longest), **settings)


def split_endpoints(text: str) -> tuple[str, ...]:
    """The addresses of a comma-separated list."""
    return tuple(address.strip() for address in text.split(",") if address.strip())


def endpoints_option(command: Decorated) -> Decorated:
    """`--endpoints` behind the command; it wins over the one before it and over the environment."""

    def remember(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            choices = context.ensure_object(Choices)
            choices.endpoints, choices.endpoints_from = split_endpoints(value), ParameterSource.COMMANDLINE

    decorate = click.option("--endpoints", metavar="LIST", expose_value=False, callback=remember, help="Nodes to ask.")
    return decorate(command)


def output_option_saying(text: str) -> Callable[[Decorated], Decorated]:
    """`-o` behind the command, explained so; it wins over the one before it and over the environment."""

    def remember(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            context.ensure_object(Choices).output = value

    return click.option("-o", "--output", type=click.Choice(OUTPUTS), expose_value=False, callback=remember, help=text)


def file_option(command: Decorated) -> Decorated:
    """`--file`, for commands that work on nodes or on a file alike."""

    def remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        source = context.get_parameter_source(parameter.name or "")
        choices = context.ensure_object(Choices)
        if value is not None and source is not None and _SAID[source] >= _SAID[choices.file_from]:
            choices.file, choices.file_from = value, source

    decorate = option(
        "--file",
        metavar="PATH",
        expose_value=False,
        callback=remember,
        help="Work on this file of this machine, in place of nodes.",
    )
    return decorate(command)


class Duration(click.ParamType[float]):
    """A time like 250ms, 2s or 1m. Its value is the number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds. Fails as a usage error for anything that is no duration."""
        if isinstance(value, float):
            return value
        parts = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)", str(value))
        if parts is None:
            self.fail(f"{value!r} is no duration; write 250ms, 2s or 1m", param, ctx)
        return float(parts[1]) * _SECONDS[parts[2]]


class Key(click.ParamType[str]):
    """A key: any text that is UTF-8. What else makes a key good is the node's to say."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The key as text. Fails as a usage error for bytes that are not UTF-8."""
        try:
            str(value).encode()
        except UnicodeEncodeError:
            self.fail("a key is UTF-8 text, and these bytes are not", param, ctx)
        return str(value)


class Count(click.ParamType[str]):
    """How many replicas: a number, one, quorum or all."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The count as the query takes it. Fails as a usage error for anything else."""
        text = str(value)
        if text not in {"one", "quorum", "all"} and not re.fullmatch(r"[0-9]{1,4}", text):
            self.fail(f"{text!r} is no number of replicas; write 2, one, quorum or all", param, ctx)
        return text


DURATION = Duration()
KEY = Key()
COUNT = Count()

consistency_option = option(
    "--consistency", type=click.Choice(LEVELS), help="How much agreement to pay for; the cluster's default if not said."
)
read_count_option = option("-r", "r", type=COUNT, help="Replicas that must answer.")
write_count_option = option("-w", "w", type=COUNT, help="Replicas that must have it on disk.")
timeout_option = option("--timeout", type=DURATION, help="How long a node tries: 250ms, 2s, 1m.")
receipt_option = option("--receipt", is_flag=True, help="Show on stderr what stood behind the answer.")


def together(options: Sequence[Callable[[Decorated], Decorated]]) -> Callable[[Decorated], Decorated]:
    """Several options as one decorator, shown in this order."""

    def apply(command: Decorated) -> Decorated:
        for decorate in reversed(options):
            command = decorate(command)
        return command

    return apply


output_option = output_option_saying("How to show the answer: a table at a terminal, JSON when piped, unless said.")
choices_options = together([endpoints_option, output_option])
store_options = together([file_option, choices_options])
reading_options = together([consistency_option, read_count_option, timeout_option, receipt_option, choices_options])
writing_options = together([consistency_option, write_count_option, timeout_option, receipt_option, choices_options])
