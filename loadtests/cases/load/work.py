"""The same work as each side's requests: bytes for clients that write to plain sockets."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from random import Random
from typing import Literal

from loadtests.cases.results import ETCD

Operation = Literal["put", "get"]


PREFIX = "key"
"""Of all keys whose case does not say another; always three letters."""


def key_text(number: int, prefix: str = PREFIX) -> str:
    """The key of that number; the scripts of wrk make the same."""
    return f"{prefix}{number:09d}"


def random_requests(
    side: str, operation: Operation, keys: int, value_bytes: int, query: str = "", seed: int = 1
) -> Callable[[], bytes]:
    """One request after another, each of a random key. query: of kvstore's requests."""
    random, value = Random(seed), b"x" * value_bytes
    if side == ETCD:
        tail = b'","value":"' + b64encode(value) + b'"}' if operation == "put" else b'"}'
        path = "/v3/kv/put" if operation == "put" else "/v3/kv/range"
        return lambda: _post(path, b'{"key":"' + _base64(random.randrange(keys)) + tail)
    method = b"PUT" if operation == "put" else b"GET"
    tail = f"{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n".encode()
    tail += f"Content-Length: {value_bytes}\r\n\r\n".encode() + value if operation == "put" else b"\r\n"
    return lambda: method + b" /v1/kv/" + key_text(random.randrange(keys)).encode() + tail


def batch_of(
    side: str, operation: Operation, first: int, count: int, value_bytes: int, prefix: str = PREFIX, query: str = ""
) -> bytes:
    """Neighbouring keys in one request: a batch, or one transaction of etcd's. query: of kvstore's batch."""
    is_etcd, is_put = side == ETCD, operation == "put"
    value = b64encode(b"x" * value_bytes).decode() if is_etcd else "x" * value_bytes
    end = f'","value":"{value}"' if is_put else '"'
    keys = range(first, first + count)
    if is_etcd:
        begin = '{"request_put":{"key":"' if is_put else '{"request_range":{"key":"'
        operations = ",".join(f"{begin}{_base64(key, prefix).decode()}{end}}}}}" for key in keys)
        return _post("/v3/kv/txn", f'{{"success":[{operations}]}}'.encode())
    operations = ",".join(f'{{"op":"{operation}","key":"{key_text(key, prefix)}{end}}}' for key in keys)
    return _post(f"/v1/batch{query}", f'{{"operations":[{operations}]}}'.encode())


def puts_done(side: str, answer: bytes) -> int:
    """How many of a batch's puts that answer says are written."""
    return answer.count(b'"response_put"' if side == ETCD else b'"status":200')


def _base64(number: int, prefix: str = PREFIX) -> bytes:
    return b64encode(key_text(number, prefix).encode())


def _post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
