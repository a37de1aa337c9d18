"""Logs: one event per line on stderr, for people at a terminal, as JSON elsewhere.

Keys are logged escaped, so that a key can't forge a line; values, tokens and secrets are never logged at all.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress

import structlog

from kvstore.config import NodeConfig

KEY_CHARACTERS_MAX = 200
"""Enough to recognise a key by; a longer one is cut and says so."""


def configure(config: NodeConfig) -> None:
    """Sets up structlog, and the standard library's logging beneath the libraries we use, for this process."""
    level = logging.getLevelNamesMapping()[config.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer = _renderer(config.log_format)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(Stderr()),  # type: ignore[arg-type]  # all that it asks for
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(node=config.name)
    handler = logging.StreamHandler(Stderr())
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


class Stderr:
    """Stderr for logs: a line that can't be written is lost.

    It may go to a file on the very disk that is full or fails, or to a reader who has gone. What it tells of must not
    fail for that: a node whose commit failed has to end, and has to get there.
    """

    def write(self, text: str) -> int:
        """Writes the text, if it can be."""
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """See write."""
        with suppress(OSError):
            sys.stderr.flush()


def escape_key(key: bytes) -> str:
    """A key as it may stand in a log or a terminal: control characters and what is not UTF-8 as escapes."""
    text = key.decode("utf-8", "backslashreplace")
    shown = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
    return shown if len(shown) <= KEY_CHARACTERS_MAX else f"{shown[:KEY_CHARACTERS_MAX]}… ({len(key)} bytes)"


def _renderer(log_format: str) -> structlog.typing.Processor:
    if log_format == "console" or (log_format == "auto" and sys.stderr.isatty()):
        # Its own way of showing tracebacks shows every variable, and so secrets.
        plain = structlog.dev.plain_traceback
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)
    return structlog.processors.JSONRenderer()
