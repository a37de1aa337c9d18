"""What the descriptions of all routes are made of."""

from __future__ import annotations

from typing import Any

import msgspec

from kvstore.http.incoming.parameters import TIMEOUT_S, TIMEOUT_S_MAX
from kvstore.http.outgoing.problems import CODES

Node = dict[str, Any]

TEXT: Node = {"type": "string"}
NUMBER: Node = {"type": "integer"}


def query(name: str, schema: Node, text: str, required: bool = False) -> Node:
    """A parameter of the query."""
    return {"name": name, "in": "query", "required": required, "schema": schema, "description": text}


def header(name: str, text: str, required: bool = False) -> Node:
    """A header of the request."""
    return {"name": name, "in": "header", "required": required, "schema": TEXT, "description": text}


def rest_of_path(name: str, bytes_max: int) -> Node:
    """A key or a name: all that follows in the path."""
    text = f"Percent-encoded UTF-8, 1 to {bytes_max:,} bytes; it may hold '/', as the rest of the path"
    return {"name": name, "in": "path", "required": True, "schema": TEXT, "description": text}


def page(summary: str, schema: str, *parameters: Node, description: str = "") -> Node:
    """A path that is only read."""
    operation = {"summary": summary, "parameters": list(parameters), "responses": responses({"200": answer(schema)})}
    return readable(operation | {"description": description} if description else operation)


def readable(operation: Node) -> Node:
    """The operation, with and without its answer's body."""
    return {"get": operation, "head": operation}


def responses(good: Node) -> Node:
    """The good answers, and that all others are problems."""
    return good | {
        "default": {
            "description": "A problem document (RFC 9457): " + ", ".join(CODES),
            "content": {"application/problem+json": {"schema": ref("Problem")}},
        }
    }


def answer(schema: str, headers: Node | None = None, text: str = "") -> Node:
    """An answer in JSON."""
    return {
        "description": text or schema,
        "headers": headers or {},
        "content": {"application/json": {"schema": ref(schema)}},
    }


def body(schema: str) -> Node:
    """A request's body in JSON."""
    return {"required": True, "content": {"application/json": {"schema": ref(schema)}}}


def ref(schema: str) -> Node:
    """One of the document's schemas."""
    return {"$ref": f"#/components/schemas/{schema}"}


def fields(required: tuple[str, ...], **properties: Node) -> Node:
    """An object."""
    return {"type": "object", "required": list(required), "properties": properties}


def fields_of(struct: type[msgspec.Struct]) -> Node:
    """The schema of a struct whose fields are numbers, texts or lists of texts."""
    (schema,), components = msgspec.json.schema_components([struct])
    described: Node = components[schema["$ref"].rpartition("/")[2]]
    return described


def list_of(items: Node) -> Node:
    """An array."""
    return {"type": "array", "items": items}


TIMEOUT = query(
    "timeout",
    {"type": "string", "pattern": "^[1-9][0-9]*(ms|s|m)$", "default": f"{TIMEOUT_S:g}s"},
    f"How long to try: 250ms, 2s, 1m; {TIMEOUT_S_MAX:g}s at most",
)
