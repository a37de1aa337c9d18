"""`put`, `get`, `delete` and `list`: one key at a time, and which keys there are."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click
from click.core import ParameterSource

from cli.connection import with_client
from cli.data.listing import pages
from cli.data.values import value_of
from cli.options import DURATION, KEY, Choices, option, reading_options, writing_options
from cli.output import RowStream, note, show_fields, write_bytes
from kvstore.client_errors import Problem
from kvstore.paths import key_path

if TYPE_CHECKING:
    from kvstore.http_client import Answer, HttpClient

NODE_TIMEOUT_S = 5.0
"""How long a node tries when it is not told."""
_FENCE_HELP = "no higher fence of that lock was seen here; under `lock run` it is given."


def query_of(**choices: str | float | None) -> dict[str, str]:
    """The query of a request: what was chosen, with durations as the nodes read them."""
    return {
        name: _duration(choice) if isinstance(choice, float) else str(choice)
        for name, choice in choices.items()
        if choice is not None
    }


def _duration(seconds: float) -> str:
    """In whole seconds where it can be: nodes read no number of more than nine digits, and a year has more in ms."""
    ms = round(seconds * 1000)
    return f"{ms}ms" if ms % 1000 else f"{ms // 1000}s"


def patience_s(timeout: float | None) -> float:
    """How long to wait for a node that tries for `timeout` seconds."""
    from kvstore.http_client import ANSWER_MARGIN_S  # noqa: PLC0415 - see cli/connection.py

    return (NODE_TIMEOUT_S if timeout is None else timeout) + ANSWER_MARGIN_S


def condition_headers(if_match: str | None, create: bool, fence: str | None) -> dict[str, str]:
    """The headers of a conditional or fenced request. Raises UsageError for what can't mean anything."""
    headers = {}
    if if_match is not None and create:
        raise click.UsageError("--create wants no value there, --if-match wants one: give one of them")
    if if_match is not None:
        headers["If-Match"] = if_match if if_match == "*" else '"' + if_match.strip('"') + '"'
    if create:
        headers["If-None-Match"] = "*"
    if fence is not None:
        headers["KV-Fence"] = fence_header(fence, os.environ)
    return headers


def fence_header(fence: str, environment: Mapping[str, str]) -> str:
    """The header of LOCK=NUMBER, or of a bare number under `lock run`. Raises UsageError.

    `lock run` gives its command the number in KVSTORE_FENCE, where --fence reads it from, and the lock's name in
    KVSTORE_LOCK, so that each write of the command carries the fence without another word.
    """
    lock, equals, number = fence.rpartition("=")
    if not equals:
        lock = environment.get("KVSTORE_LOCK", "")
    if not lock or not number.isascii() or not number.isdigit():
        raise click.UsageError(f"--fence {fence!r} is no fence; write LOCK=NUMBER")
    if not equals and environment.get("KVSTORE_FILE"):
        raise click.UsageError(
            f"the fence in KVSTORE_FENCE is of a lock in the file {environment['KVSTORE_FILE']!r}, and this command "
            "asks nodes: they don't know that lock"
        )
    return f"{quote(lock, safe='', errors='surrogateescape')}={number}"


def is_meant_for_a_read(consistency: str | None, environment: Mapping[str, str]) -> bool:
    """Whether a fence that stands in the environment goes with a read, which nobody asked to bear one.

    Not with one at a level that bears none, nor with one from nodes under the lock of a file: they do no harm.
    """
    return consistency in (None, "strong") and not environment.get("KVSTORE_FILE")


def checked_content_type(text: str) -> str:
    """The media type itself, if it may stand in a header. Raises UsageError."""
    if text.isascii() and text.isprintable():
        return text
    raise click.UsageError(f"--content-type {text!a} is no media type; write printable ASCII, such as text/plain")


def _ask(choices: Choices, method: str, path: str, *, receipt: bool, timeout_s: float, **request: Any) -> Answer:
    """One request. The receipt goes to stderr if wished, that of a refusal too."""

    async def work(client: HttpClient) -> Answer:
        return await client.request(method, path, timeout_s=timeout_s, **request)

    try:
        answer = with_client(choices, work)
    except Problem as problem:
        if receipt:
            _show_receipt(problem.headers)
        raise
    if receipt:
        _show_receipt(answer.headers)
    return answer


def _show_receipt(headers: Mapping[str, str]) -> None:
    note("receipt: " + headers.get("KV-Receipt", "none was given"))
    if "KV-Expires-In" in headers:
        note(f"expires in: {headers['KV-Expires-In']} s")


@click.command("put")
@click.argument("key", type=KEY)
@click.argument("value")
@option("--if-match", metavar="VERSION", help="Write only over this version; * is any.")
@option("--create", is_flag=True, help="Write only where there is no value yet.")
@option("--fence", metavar="LOCK=NUMBER", help=f"Write only if {_FENCE_HELP}")
@option("--ttl", type=DURATION, help="The value expires after this time: 30s, 5m, 7d. For ever if not said.")
@option("--content-type", help="Media type of the value; application/octet-stream if not said.")
@writing_options
@click.pass_obj
def put_command(
    choices: Choices,
    *,
    key: str,
    value: str,
    consistency: str | None,
    w: str | None,
    timeout: float | None,
    ttl: float | None,
    if_match: str | None,
    create: bool,
    fence: str | None,
    content_type: str | None,
    receipt: bool,
) -> None:
    """Write VALUE at KEY and show the write's receipt. VALUE may be - for stdin or @FILE."""
    headers = condition_headers(if_match, create, fence)
    if content_type is not None:
        headers["Content-Type"] = checked_content_type(content_type)
    answer = _ask(
        choices,
        "PUT",
        key_path(key),
        query=query_of(consistency=consistency, w=w, timeout=timeout, ttl=ttl),
        headers=headers,
        body=value_of(value),
        receipt=receipt,
        timeout_s=patience_s(timeout),
    )
    show_fields(answer.json(), choices.output)


@click.command("get")
@click.argument("key", type=KEY)
@option(
    "--fence",
    metavar="LOCK=NUMBER",
    help="From this read on who held that lock before does not write here; under `lock run` it is given.",
)
@reading_options
@click.pass_context
def get_command(
    context: click.Context,
    *,
    key: str,
    consistency: str | None,
    r: str | None,
    timeout: float | None,
    fence: str | None,
    receipt: bool,
) -> None:
    """Write the value of KEY to stdout, byte for byte. -o json shows it with its version and type."""
    choices: Choices = context.obj
    is_given = context.get_parameter_source("fence") is ParameterSource.ENVIRONMENT
    if is_given and not is_meant_for_a_read(consistency, os.environ):
        fence = None
    answer = _ask(
        choices,
        "GET",
        key_path(key),
        query=query_of(consistency=consistency, r=r, timeout=timeout),
        headers=condition_headers(None, False, fence),
        receipt=receipt,
        timeout_s=patience_s(timeout),
    )
    if choices.output == "json":
        show_fields(_described(key, answer), "json")
    else:
        write_bytes(answer.body)


def _described(key: str, answer: Answer) -> dict[str, Any]:
    """A value with what is known of it; text as it is, other bytes as base64, as batches and listings have it."""
    headers = answer.headers
    fields: dict[str, Any] = {
        "key": key,
        "version": headers.get("ETag", "").strip('"'),
        "size": len(answer.body),
        "content_type": headers.get("Content-Type"),
    }
    if "Last-Modified" in headers:
        fields["last_modified"] = headers["Last-Modified"]
    if "KV-Expires-In" in headers:
        fields["expires_in"] = float(headers["KV-Expires-In"])
    try:
        return {**fields, "value": answer.body.decode()}
    except UnicodeDecodeError:
        return {**fields, "value_base64": base64.b64encode(answer.body).decode()}


@click.command("delete")
@click.argument("key", type=KEY)
@option("--if-match", metavar="VERSION", help="Delete only this version; * is any.")
@option("--fence", metavar="LOCK=NUMBER", help=f"Delete only if {_FENCE_HELP}")
@writing_options
@click.pass_obj
def delete_command(
    choices: Choices,
    *,
    key: str,
    consistency: str | None,
    w: str | None,
    timeout: float | None,
    if_match: str | None,
    fence: str | None,
    receipt: bool,
) -> None:
    """Delete KEY and show the write's receipt. Deleting what is not there succeeds."""
    answer = _ask(
        choices,
        "DELETE",
        key_path(key),
        query=query_of(consistency=consistency, w=w, timeout=timeout),
        headers=condition_headers(if_match, False, fence),
        receipt=receipt,
        timeout_s=patience_s(timeout),
    )
    show_fields(answer.json(), choices.output)


@click.command("list")
@click.argument("prefix", type=KEY, default="")
@option("--limit", type=click.IntRange(min=1), help="Show so many keys at most; all if not said.")
@option("--values", is_flag=True, help="Show the values, too.")
@reading_options
@click.pass_obj
def list_command(
    choices: Choices,
    *,
    prefix: str,
    limit: int | None,
    values: bool,
    consistency: str | None,
    r: str | None,
    timeout: float | None,
    receipt: bool,
) -> None:
    """Show the keys that start with PREFIX, in byte order. A listing is no snapshot: each page is read anew."""
    query = query_of(consistency=consistency, r=r, timeout=timeout, values="true" if values else None)
    columns = ["key", "version", "size", "content_type", "expires_in", *(["value"] if values else [])]

    async def work(client: HttpClient) -> None:
        with RowStream("keys", columns, choices.output) as rows:
            async for page in pages(client, {**query, "prefix": prefix}, patience_s(timeout), limit):
                rows.add(page.keys)
                if receipt:
                    _show_receipt(page.headers)

    with_client(choices, work)
