"""GET /openapi.json: what this node serves, as OpenAPI 3.1. A test holds it against the routes and the error table."""

from __future__ import annotations

from importlib.metadata import version

import msgspec
from aiohttp.web_request import BaseRequest

from kvstore.http.backend import ConvergenceView, RepairReport
from kvstore.http.outgoing.answer import JSON, Answer
from kvstore.http.outgoing.problems import CODES
from kvstore.http.routes.openapi import keys, locks
from kvstore.http.routes.openapi.parts import (
    NUMBER,
    TEXT,
    TIMEOUT,
    Node,
    answer,
    fields,
    fields_of,
    list_of,
    page,
    query,
    readable,
    responses,
)
from kvstore.http.routes.service import Service


class OpenApi:
    """The description of this node's API."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._body = msgspec.json.encode(describe(service.value_bytes_max))

    async def get(self, request: BaseRequest, query: str, request_id: str) -> Answer:
        """GET and HEAD."""
        self._service.parameters.none.parse(query, self._service.view.n)
        return Answer(200, JSON, self._body)


def describe(value_bytes_max: int) -> Node:
    """The whole document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kvstore",
            "version": version("kvstore"),
            "description": "A replicated key-value store with tunable consistency: strong, weak or eventual, per "
            "request, with locks, votes and elections. Any node answers for any key.",
        },
        "paths": {
            **keys.paths(value_bytes_max),
            **locks.paths(),
            "/v1/repair": _repair_path(),
            "/v1/cluster": page("Members, epoch, replication", "Cluster"),
            "/v1/cluster/partitions": page(
                "The partition and replica set of a key",
                "Placement",
                query("key", TEXT, "The key", required=True),
                query("versions", {"type": "boolean"}, "Ask each replica which version it holds"),
                TIMEOUT,
            ),
            "/livez": page("Whether the process lives", "Health"),
            "/readyz": page("Whether requests should be sent here; 503 with reasons when not", "Health"),
            "/metrics": readable({"summary": "Prometheus metrics", "responses": responses({"200": _plain()})}),
            "/openapi.json": page("This document", "Any"),
        },
        "components": {"schemas": _schemas(), "headers": {"KV-Receipt": keys.RECEIPT}},
    }


def _repair_path() -> Node:
    return {
        "post": {
            "summary": "Compare the replicas of one partition now, and bring them together",
            "parameters": [query("partition", NUMBER | {"minimum": 0}, "Its number", required=True), TIMEOUT],
            "responses": responses({"200": answer("RepairReport")}),
        }
    }


def _plain() -> Node:
    return {"description": "Prometheus text", "content": {"text/plain": {"schema": TEXT}}}


def _schemas() -> Node:
    replica = fields(("name", "zone", "state"), name=TEXT, zone=TEXT, state=TEXT,
                     version={"type": ["string", "null"]})  # fmt: skip
    return {
        "Any": {},
        **keys.schemas(),
        **locks.schemas(),
        "Cluster": fields(("node", "epoch", "n", "partitions", "members", "moving"), node=TEXT, epoch=NUMBER,
                          n=NUMBER, partitions=NUMBER, members=list_of({"type": "object"}), moving=list_of(NUMBER),
                          convergence=fields_of(ConvergenceView)),
        "RepairReport": fields_of(RepairReport),
        "Placement": fields(("key", "partition", "replicas"), key=TEXT, partition=NUMBER, primary=TEXT,
                            replicas=list_of(replica)),
        "Health": fields(("status", "reasons"), status=TEXT, reasons=list_of(TEXT)),
        "Problem": fields(("type", "title", "status", "detail", "code", "outcome", "request_id"), type=TEXT,
                          title=TEXT, status=NUMBER, detail=TEXT, code={"enum": list(CODES)},
                          outcome={"enum": ["not-applied", "unknown", "none"]}, request_id=TEXT, needed=NUMBER,
                          got=NUMBER, limit=NUMBER, version=keys.VERSION | {"type": ["string", "null"]}, holder=TEXT,
                          fence=NUMBER, permits=NUMBER, retry_after_s={"type": "number"}, parameter=TEXT),
    }  # fmt: skip
