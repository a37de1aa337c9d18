"""Keys and values: what stands under /v1/kv and /v1/batch."""

from __future__ import annotations

from cluster.protocol.messages import KEY_BYTES_MAX
from kvstore.http.incoming.parameters import LIST_LIMIT, LIST_LIMIT_MAX, TTL_S_MIN
from kvstore.http.routes.openapi.parts import (
    NUMBER,
    TEXT,
    TIMEOUT,
    Node,
    answer,
    body,
    fields,
    header,
    list_of,
    page,
    query,
    responses,
    rest_of_path,
)
from kvstore.http.routes.operations import BODY_BYTES_MAX, OPERATIONS_MAX

VERSION: Node = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
RECEIPT: Node = {
    "schema": TEXT,
    "description": "What the answer says about itself (an RFC 9651 dictionary): consistency, n, needed, acks, "
    "replicas, coordinator, epoch; age in seconds on weak and eventual reads; hinted=1 on weak and eventual writes "
    "that the node keeps on its disk for replicas that are away",
}

_COUNT: Node = {"anyOf": [{"type": "integer", "minimum": 1}, {"enum": ["one", "quorum", "all"]}]}
_LEVEL = query(
    "consistency",
    {"enum": ["strong", "weak", "eventual"]},
    "How much agreement to pay for; the node's default when absent",
)
_R = query("r", _COUNT, "Replicas that must answer")
_W = query("w", _COUNT, "Replicas that must acknowledge")
_TTL: Node = {
    "type": "string",
    "pattern": "^[1-9][0-9]*(ms|s|m|h|d)$",
    "description": f"The value expires after this time: 30s, 5m, 1h, 7d; {TTL_S_MIN * 1000:g}ms to ten years",
}
_EXPIRES_IN: Node = {
    "KV-Expires-In": {"schema": {"type": "number"}, "description": "Seconds until the value expires, where it does"}
}
_RECEIPT_HEADER: Node = {"KV-Receipt": {"$ref": "#/components/headers/KV-Receipt"}}
_ETAG: Node = {"ETag": {"schema": TEXT, "description": "The version in double quotes"}}
_IF_MATCH = header("If-Match", "One version in double quotes, or *: write only over it (strong only)")
_CREATE = header("If-None-Match", "*: create only (strong only)")
_READ_IF_MATCH = header("If-Match", "Versions in double quotes, or *: 412 when the current one is none of them")
_FENCE = header(
    "KV-Fence",
    "<lock>=<fence>, the lock's name percent-encoded: write only if this key has seen no higher fence of that lock "
    "(strong only)",
)
_READ_FENCE = header(
    "KV-Fence",
    "<lock>=<fence>, the lock's name percent-encoded: the key remembers it before the answer, so that no earlier "
    "holder of the lock writes from then on; 412 if it has seen a higher one (strong only)",
)


def paths(value_bytes_max: int) -> Node:
    """What is served."""
    return {"/v1/kv/{key}": _key_path(value_bytes_max), "/v1/kv": _listing_path(), "/v1/batch": _batch_path()}


def _key_path(value_bytes_max: int) -> Node:
    bytes_body = {"*/*": {"schema": {"type": "string", "format": "binary", "maxLength": value_bytes_max}}}
    found = {"description": "The value", "content": bytes_body, "headers": _ETAG | _EXPIRES_IN | _RECEIPT_HEADER}
    written = answer("WriteReceipt", _RECEIPT_HEADER)
    unchanged = {"description": "The version in If-None-Match is the current one", "headers": _RECEIPT_HEADER}
    reading = {
        "summary": "Read a value",
        "parameters": [
            _LEVEL,
            _R,
            TIMEOUT,
            _READ_IF_MATCH,
            header("If-None-Match", "Versions the client has, or *"),
            _READ_FENCE,
        ],
        "responses": responses({"200": found, "304": unchanged}),
    }
    return {
        "parameters": [rest_of_path("key", KEY_BYTES_MAX)],
        "get": reading,
        "head": reading | {"summary": "Read a value's headers"},
        "put": {
            "summary": "Write a value",
            "parameters": [
                _LEVEL,
                _W,
                TIMEOUT,
                query("ttl", _TTL, "For ever when absent"),
                _IF_MATCH,
                _CREATE,
                _FENCE,
            ],
            "requestBody": {"required": True, "content": bytes_body},
            "responses": responses({"200": written}),
        },
        "delete": {
            "summary": "Delete a value; deleting what is not there succeeds",
            "parameters": [_LEVEL, _W, TIMEOUT, _IF_MATCH, _FENCE],
            "responses": responses({"200": written}),
        },
    }


def _listing_path() -> Node:
    limit = {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX, "default": LIST_LIMIT}
    return page(
        "Keys in byte order",
        "Page",
        query("prefix", TEXT, "Only keys that begin with this"),
        query("limit", limit, "Keys a page"),
        query("after", TEXT, "`next` of the page before"),
        query("values", {"type": "boolean"}, "Values, too"),
        _LEVEL,
        _R,
        TIMEOUT,
    )


def _batch_path() -> Node:
    text = f"A result per operation, in order; not atomic. {OPERATIONS_MAX} operations, {BODY_BYTES_MAX} bytes at most"
    return {
        "post": {
            "summary": "Many operations in one request",
            "description": text,
            "parameters": [_LEVEL, _R, _W, TIMEOUT],
            "requestBody": body("Batch"),
            "responses": responses({"200": answer("BatchResults", _RECEIPT_HEADER)}),
        }
    }


def schemas() -> Node:
    """What their bodies look like."""
    item = fields(("key", "version", "size", "content_type"), key=TEXT, version=VERSION, size=NUMBER,
                  content_type=TEXT, value=TEXT, value_base64=TEXT, expires_in={"type": "number"})  # fmt: skip
    operation = fields(("op", "key"), op={"enum": ["get", "put", "delete"]}, key=TEXT, value=TEXT,
                       value_base64=TEXT, if_match=TEXT, create={"type": "boolean"}, content_type=TEXT,
                       ttl=_TTL, fence=TEXT)  # fmt: skip
    return {
        "WriteReceipt": fields(("key", "version", "consistency", "acks", "replicas"), key=TEXT, version=VERSION,
                               consistency=TEXT, acks=NUMBER, replicas=NUMBER),
        "Page": fields(("keys",), keys=list_of(item), next=TEXT),
        "Batch": fields(("operations",), operations=list_of(operation) | {"maxItems": OPERATIONS_MAX}),
        "BatchResults": fields(("results",), results=list_of({"type": "object"})),
    }  # fmt: skip
