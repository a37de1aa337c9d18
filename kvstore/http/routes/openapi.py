"""GET /openapi.json: what this node serves, as OpenAPI 3.1. A test holds it against the routes and the error table."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import msgspec
from aiohttp.web_request import BaseRequest

from kvstore.http.backend import ConvergenceView, RepairReport
from kvstore.http.incoming.parameters import LIST_LIMIT, LIST_LIMIT_MAX, TIMEOUT_S, TIMEOUT_S_MAX, TTL_S_MIN
from kvstore.http.outgoing.answer import JSON, Answer
from kvstore.http.outgoing.problems import CODES
from kvstore.http.routes.operations import BODY_BYTES_MAX, OPERATIONS_MAX
from kvstore.http.routes.service import Service

Node = dict[str, Any]

_COUNT: Node = {"anyOf": [{"type": "integer", "minimum": 1}, {"enum": ["one", "quorum", "all"]}]}
_VERSION: Node = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
_TEXT: Node = {"type": "string"}
_NUMBER: Node = {"type": "integer"}


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
            "request. Any node answers for any key.",
        },
        "paths": {
            "/v1/kv/{key}": _key_path(value_bytes_max),
            "/v1/kv": _listing_path(),
            "/v1/batch": _batch_path(),
            "/v1/repair": _repair_path(),
            "/v1/cluster": _page("Members, epoch, replication", "Cluster"),
            "/v1/cluster/partitions": _page(
                "The partition and replica set of a key",
                "Placement",
                _query("key", _TEXT, "The key", required=True),
                _query("versions", {"type": "boolean"}, "Ask each replica which version it holds"),
                _TIMEOUT,
            ),
            "/livez": _page("Whether the process lives", "Health"),
            "/readyz": _page("Whether requests should be sent here; 503 with reasons when not", "Health"),
            "/metrics": _readable({"summary": "Prometheus metrics", "responses": _responses({"200": _plain()})}),
            "/openapi.json": _page("This document", "Any"),
        },
        "components": {"schemas": _schemas(), "headers": {"KV-Receipt": _RECEIPT}},
    }


def _query(name: str, schema: Node, text: str, required: bool = False) -> Node:
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": text}


def _header(name: str, text: str) -> Node:
    return {"name": name, "in": "header", "schema": _TEXT, "description": text}


_LEVEL = _query(
    "consistency",
    {"enum": ["strong", "weak", "eventual"]},
    "How much agreement to pay for; the node's default when absent",
)
_R = _query("r", _COUNT, "Replicas that must answer")
_W = _query("w", _COUNT, "Replicas that must acknowledge")
_TIMEOUT = _query(
    "timeout",
    {"type": "string", "pattern": "^[1-9][0-9]*(ms|s|m)$", "default": f"{TIMEOUT_S:g}s"},
    f"How long to try: 250ms, 2s, 1m; {TIMEOUT_S_MAX:g}s at most",
)
_TTL: Node = {
    "type": "string",
    "pattern": "^[1-9][0-9]*(ms|s|m|h|d)$",
    "description": f"The value expires after this time: 30s, 5m, 1h, 7d; {TTL_S_MIN * 1000:g}ms to ten years",
}
_EXPIRES_IN: Node = {
    "KV-Expires-In": {"schema": {"type": "number"}, "description": "Seconds until the value expires, where it does"}
}
_RECEIPT: Node = {
    "schema": _TEXT,
    "description": "What the answer says about itself (an RFC 9651 dictionary): consistency, n, needed, acks, "
    "replicas, coordinator, epoch; age in seconds on weak and eventual reads; hinted=1 on weak and eventual writes "
    "that the node keeps on its disk for replicas that are away",
}
_RECEIPT_HEADER: Node = {"KV-Receipt": {"$ref": "#/components/headers/KV-Receipt"}}
_ETAG: Node = {"ETag": {"schema": _TEXT, "description": "The version in double quotes"}}
_IF_MATCH = _header("If-Match", "One version in double quotes, or *: write only over it (strong only)")
_CREATE = _header("If-None-Match", "*: create only (strong only)")
_READ_IF_MATCH = _header("If-Match", "Versions in double quotes, or *: 412 when the current one is none of them")
_FENCE = _header("KV-Fence", "<lock>=<fence>; refused as bad-fence for now, since this version serves no locks")


def _key_path(value_bytes_max: int) -> Node:
    bytes_body = {"*/*": {"schema": {"type": "string", "format": "binary", "maxLength": value_bytes_max}}}
    found = {"description": "The value", "content": bytes_body, "headers": _ETAG | _EXPIRES_IN | _RECEIPT_HEADER}
    written = _json("WriteReceipt", _RECEIPT_HEADER)
    key = {"name": "key", "in": "path", "required": True, "schema": _TEXT}
    key["description"] = "Percent-encoded UTF-8, 1 to 1,024 bytes; it may hold '/', as the rest of the path"
    unchanged = {"description": "The version in If-None-Match is the current one", "headers": _RECEIPT_HEADER}
    reading = {
        "summary": "Read a value",
        "parameters": [_LEVEL, _R, _TIMEOUT, _READ_IF_MATCH, _header("If-None-Match", "Versions the client has, or *")],
        "responses": _responses({"200": found, "304": unchanged}),
    }
    return {
        "parameters": [key],
        "get": reading,
        "head": reading | {"summary": "Read a value's headers"},
        "put": {
            "summary": "Write a value",
            "parameters": [
                _LEVEL,
                _W,
                _TIMEOUT,
                _query("ttl", _TTL, "For ever when absent"),
                _IF_MATCH,
                _CREATE,
                _FENCE,
            ],
            "requestBody": {"required": True, "content": bytes_body},
            "responses": _responses({"200": written}),
        },
        "delete": {
            "summary": "Delete a value; deleting what is not there succeeds",
            "parameters": [_LEVEL, _W, _TIMEOUT, _IF_MATCH, _FENCE],
            "responses": _responses({"200": written}),
        },
    }


def _listing_path() -> Node:
    limit = {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX, "default": LIST_LIMIT}
    return _page(
        "Keys in byte order",
        "Page",
        _query("prefix", _TEXT, "Only keys that begin with this"),
        _query("limit", limit, "Keys a page"),
        _query("after", _TEXT, "`next` of the page before"),
        _query("values", {"type": "boolean"}, "Values, too"),
        _LEVEL,
        _R,
        _TIMEOUT,
    )


def _batch_path() -> Node:
    text = f"A result per operation, in order; not atomic. {OPERATIONS_MAX} operations, {BODY_BYTES_MAX} bytes at most"
    return {
        "post": {
            "summary": "Many operations in one request",
            "description": text,
            "parameters": [_LEVEL, _R, _W, _TIMEOUT],
            "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Batch")}}},
            "responses": _responses({"200": _json("BatchResults", _RECEIPT_HEADER)}),
        }
    }


def _repair_path() -> Node:
    return {
        "post": {
            "summary": "Compare the replicas of one partition now, and bring them together",
            "parameters": [_query("partition", _NUMBER | {"minimum": 0}, "Its number", required=True), _TIMEOUT],
            "responses": _responses({"200": _json("RepairReport")}),
        }
    }


def _page(summary: str, schema: str, *parameters: Node) -> Node:
    operation = {"summary": summary, "parameters": list(parameters), "responses": _responses({"200": _json(schema)})}
    return _readable(operation)


def _readable(operation: Node) -> Node:
    return {"get": operation, "head": operation}


def _responses(good: Node) -> Node:
    return good | {
        "default": {
            "description": "A problem document (RFC 9457): " + ", ".join(CODES),
            "content": {"application/problem+json": {"schema": _ref("Problem")}},
        }
    }


def _json(schema: str, headers: Node | None = None) -> Node:
    return {
        "description": schema,
        "headers": headers or {},
        "content": {"application/json": {"schema": _ref(schema)}},
    }


def _plain() -> Node:
    return {"description": "Prometheus text", "content": {"text/plain": {"schema": _TEXT}}}


def _ref(schema: str) -> Node:
    return {"$ref": f"#/components/schemas/{schema}"}


def _object(required: tuple[str, ...], **properties: Node) -> Node:
    return {"type": "object", "required": list(required), "properties": properties}


def _fields_of(struct: type[msgspec.Struct]) -> Node:
    """The schema of a struct whose fields are numbers, texts or lists of texts."""
    (schema,), components = msgspec.json.schema_components([struct])
    described: Node = components[schema["$ref"].rpartition("/")[2]]
    return described


def _list(items: Node) -> Node:
    return {"type": "array", "items": items}


def _schemas() -> Node:
    item = _object(("key", "version", "size", "content_type"), key=_TEXT, version=_VERSION, size=_NUMBER,
                   content_type=_TEXT, value=_TEXT, value_base64=_TEXT, expires_in={"type": "number"})  # fmt: skip
    operation = _object(("op", "key"), op={"enum": ["get", "put", "delete"]}, key=_TEXT, value=_TEXT,
                        value_base64=_TEXT, if_match=_TEXT, create={"type": "boolean"}, content_type=_TEXT,
                        ttl=_TTL)  # fmt: skip
    replica = _object(("name", "zone", "state"), name=_TEXT, zone=_TEXT, state=_TEXT,
                      version={"type": ["string", "null"]})  # fmt: skip
    return {
        "Any": {},
        "WriteReceipt": _object(("key", "version", "consistency", "acks", "replicas"), key=_TEXT, version=_VERSION,
                                consistency=_TEXT, acks=_NUMBER, replicas=_NUMBER),
        "Page": _object(("keys",), keys=_list(item), next=_TEXT),
        "Batch": _object(("operations",), operations=_list(operation) | {"maxItems": OPERATIONS_MAX}),
        "BatchResults": _object(("results",), results=_list({"type": "object"})),
        "Cluster": _object(("node", "epoch", "n", "partitions", "members", "moving"), node=_TEXT, epoch=_NUMBER,
                           n=_NUMBER, partitions=_NUMBER, members=_list({"type": "object"}), moving=_list(_NUMBER),
                           convergence=_fields_of(ConvergenceView)),
        "RepairReport": _fields_of(RepairReport),
        "Placement": _object(("key", "partition", "replicas"), key=_TEXT, partition=_NUMBER, primary=_TEXT,
                             replicas=_list(replica)),
        "Health": _object(("status", "reasons"), status=_TEXT, reasons=_list(_TEXT)),
        "Problem": _object(("type", "title", "status", "detail", "code", "outcome", "request_id"), type=_TEXT,
                           title=_TEXT, status=_NUMBER, detail=_TEXT, code={"enum": list(CODES)},
                           outcome={"enum": ["not-applied", "unknown", "none"]}, request_id=_TEXT, needed=_NUMBER,
                           got=_NUMBER, limit=_NUMBER, version=_VERSION | {"type": ["string", "null"]}, holder=_TEXT),
    }  # fmt: skip
