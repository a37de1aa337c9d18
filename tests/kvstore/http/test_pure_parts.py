"""Media types, dates, receipts, and the document that describes them all."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cluster.levels import Level
from kvstore.http.incoming.media import accepts, checked_type
from kvstore.http.outgoing.answer import http_date
from kvstore.http.outgoing.problems import CODES, Problem
from kvstore.http.outgoing.receipts import age, receipt, receipt_of_refusal
from kvstore.http.routes.health import Health
from kvstore.http.routes.table import routes
from tests.kvstore.http.conftest import Node
from tests.kvstore.http.honest_backend import ThreeNodes


@pytest.mark.parametrize(
    ("accept", "media_type", "taken"),
    [
        ("*/*", "text/plain", True),
        ("text/*", "text/plain; charset=utf-8", True),
        ("TEXT/Plain", "text/plain", True),
        ("text/html", "text/plain", False),
        ("text/html, */*;q=0.8", "text/plain", True),
        ("text/plain;q=0", "text/plain", False),
        ("text/plain; q=0.000, */*", "text/plain", False),
        ("*/*;q=0, text/plain;q=0.1", "text/plain", True),
        ("text/*;q=0, text/plain", "text/plain", True),
        ("", "text/plain", False),
        (",;q", "text/plain", False),
    ],
)
def test_accept(accept: str, media_type: str, taken: bool) -> None:
    assert accepts(accept, media_type) is taken


@pytest.mark.parametrize("text", ["a\r\nX: y", "a\tb", "\u00e9", "x" * 257, "a\x7f"])
def test_types_that_can_not_stand_in_a_header(text: str) -> None:
    with pytest.raises(Problem):
        checked_type(text)


def test_dates() -> None:
    assert http_date(784_111_777) == "Sun, 06 Nov 1994 08:49:37 GMT"


def test_receipts() -> None:
    view: Any = ThreeNodes()
    assert receipt(view, Level.WEAK, 1, 2, ("n2", "n3")) == (
        'consistency=weak, n=3, needed=1, acks=2, replicas="n2 n3", coordinator="n1", epoch=4'
    )
    assert receipt_of_refusal(view, None, None) == 'n=3, acks=0, replicas="", coordinator="n1", epoch=4'
    assert [age(1_000, now) for now in (900, 1_000, 1_007, 61_234)] == [
        ", age=0.000", ", age=0.000", ", age=0.007", ", age=60.234",
    ]  # fmt: skip


def test_every_code_is_a_row_of_its_own_kind() -> None:
    for code, (status, title) in CODES.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
        assert 400 <= status < 600
        assert title


async def test_openapi_describes_what_is_served(node: Node) -> None:
    document = (await node.ask("GET", "/openapi.json")).json
    assert document["openapi"] == "3.1.0"
    for path, operations in document["paths"].items():
        methods = {method.upper() for method in operations} - {"PARAMETERS", "DESCRIPTION"}
        concrete = path.replace("{key}", "k").replace("{name}", "n")
        refused = await node.ask("PROPFIND", concrete)
        assert refused.status == 405, path
        assert set(refused.headers["Allow"].split(", ")) == methods, path
        assert refused.json["outcome"]
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references == set(document["components"]["schemas"])


async def test_all_that_is_served_is_described(node: Node) -> None:
    served = routes(node.server._service, Health(node.server._service, node.metrics, lambda: False))
    described = set((await node.ask("GET", "/openapi.json")).json["paths"])
    assert {re.sub(r"\{\w+\}$", "", path) for path in described} == {
        *served.pages,
        *(prefix for prefix, _ in served.named),
    }


async def test_described_parameters_are_the_known_ones(node: Node) -> None:
    document = (await node.ask("GET", "/openapi.json")).json
    for path, method in (("/v1/kv/{key}", "get"), ("/v1/kv/{key}", "put"), ("/v1/kv", "get"), ("/v1/batch", "post"),
                         ("/v1/cluster/partitions", "get"), ("/livez", "get"), ("/v1/locks/{name}", "get"),
                         ("/v1/locks/{name}", "post"), ("/v1/locks", "get"), ("/v1/votes/{name}", "get"),
                         ("/v1/votes/{name}", "post"), ("/v1/elections/{name}", "get")):  # fmt: skip
        described = document["paths"][path][method].get("parameters", [])
        names = {parameter["name"] for parameter in described if parameter["in"] == "query"}
        headers = {"Content-Type": "application/json"} if method == "post" else {}
        concrete = path.replace("{key}", "k").replace("{name}", "n")
        refused = await node.ask(method.upper(), concrete + "?nonsense=1", headers=headers)
        known = refused.json["detail"].partition("known are: ")[2].rstrip(".")
        assert set(known.split(", ")) - {"none at all"} == names
