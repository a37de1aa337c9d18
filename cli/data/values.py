"""Where a value on the command line comes from: the argument itself, stdin, or a file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import BinaryIO

import click

from kvstore.settings import VALUE_BYTES_MAX_MAX


class TooLarge(Exception):
    """More bytes than any node takes."""

    def __init__(self) -> None:
        super().__init__(
            f"larger than {VALUE_BYTES_MAX_MAX:,} bytes, which is more than any node takes; "
            "a node takes 1 MiB, if its --value-bytes-max does not say otherwise"
        )


def read_limited(source: BinaryIO) -> bytes:
    """All that can be read, but never more than a node may take: raises TooLarge instead of filling the memory."""
    value = source.read(VALUE_BYTES_MAX_MAX + 1)
    if len(value) > VALUE_BYTES_MAX_MAX:
        raise TooLarge
    return value


def value_of(argument: str) -> bytes:
    """The bytes that VALUE stands for: `-` is stdin, `@file` a file, all else is itself. Raises UsageError."""
    try:
        if argument == "-":
            return read_limited(sys.stdin.buffer)
        if argument.startswith("@"):
            with Path(argument[1:]).open("rb") as file:
                return read_limited(file)
    except OSError as error:
        raise click.UsageError(f"{argument[1:]!r} can't be read: {error.strerror}") from error
    except TooLarge as error:
        raise click.UsageError(f"the value is {error}") from error
    return os.fsencode(argument)
