"""Bodies of batches: read at once where nothing in them can be doubted, and by the strict way otherwise."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.levels import Level
from kvstore.http.incoming.parameters import BatchChoice
from kvstore.http.outgoing.problems import Problem
from kvstore.http.routes import operations
from kvstore.http.routes.operations import OPERATIONS_MAX, name_of, parse_batch, parse_operation

CHOICE = BatchChoice(Level.STRONG, 2, 2, 5.0)
PLAIN = '{"operations":[{"op":"put","key":"a","value":"1"}]}'
texts = st.text(st.sampled_from('ab"\\:,{} \n\u00e9\u2028'), max_size=5)
names = st.sampled_from(
    ["op", "key", "value", "value_base64", "if_match", "create", "content_type", "ttl", "fence", "x"]
)
values = st.one_of(texts, texts, st.sampled_from(["put", "get", "delete", "5s", "YQ=="]), st.booleans(), st.integers())
pairs = st.one_of(
    st.lists(st.tuples(names, values), max_size=5),
    st.tuples(texts, texts, st.lists(st.tuples(names, values), max_size=2)).map(
        lambda drawn: [("op", "put"), ("key", drawn[0]), ("value", drawn[1]), *drawn[2]]
    ),
)
spaces = st.sampled_from(["", "", " ", "\n\t"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Batches as clients write them, and as nobody should: fields twice, spaces anywhere, texts escaped or not."""
    is_ascii = draw(st.booleans())

    def written(value: object) -> str:
        return draw(spaces) + json.dumps(value, ensure_ascii=is_ascii) + draw(spaces)

    def listed(fields: list[tuple[str, Any]]) -> str:
        return "{" + ",".join(f"{written(name)}:{written(value)}" for name, value in fields) + "}"

    several = "[" + ",".join(map(listed, draw(st.lists(pairs, max_size=3)))) + "]"
    fields = draw(st.sampled_from([["operations"], ["operations"], ["operations", "operations"], ["operations", "x"]]))
    return ("{" + ",".join(f"{written(name)}:{several}" for name in fields) + "}").encode()


def told(body: bytes) -> object:
    """What becomes of a body: its refusal, or of each operation the request or the refusal."""
    try:
        sent = parse_batch(body)
    except Problem as problem:
        return problem.code, problem.detail
    said: list[object] = []
    for one in sent:
        try:
            said.append(parse_operation(one, CHOICE, 100))
        except Problem as problem:
            named = name_of(one)
            said.append((problem.code, problem.detail, named.key, named.op))
    return said


@given(bodies())
@example(b'{"operations":[{"op":"put","key":"a","key":"b","value":"1"}]}')
@example(b'{"operations":[{"op":"put","key":"a","key" :"b","value":":1"}]}')
@example(b'{"operations":[],"operations":[{"op":"put","key":"a","value":"1"}]}')
def test_both_ways_say_the_same(body: bytes) -> None:
    at_once = told(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "AT_ONCE_BYTES_MAX", -1)
        assert told(body) == at_once


@pytest.mark.parametrize(
    "body",
    [
        PLAIN.replace('"op"', '"key":"b","op"'),
        PLAIN.replace('"op"', '"key" : "b","op"'),
        PLAIN.replace('"value":"1"', '"value":"1","value":"1"'),
        PLAIN.replace('"value":"1"', '"create":true,"value":"1","create":true'),
        PLAIN.replace('{"operations"', '{"operations":[],"operations"'),
        PLAIN.replace('"key"', '"\\u006bey":"b","key"'),
    ],
)
def test_a_field_that_stands_twice_is_refused(body: str) -> None:
    """Which one counts, parsers differ in."""
    with pytest.raises(Problem, match="more than once") as caught:
        parse_batch(body.encode())
    assert caught.value.code == "bad-json"


@pytest.mark.parametrize("length", [operations.AT_ONCE_BYTES_MAX, operations.AT_ONCE_BYTES_MAX + 1])
def test_whatever_its_length(length: int) -> None:
    body = PLAIN + " " * (length - len(PLAIN))
    assert told(body.encode()) == told(PLAIN.encode())


def test_too_many_operations_are_called_so_first() -> None:
    one = '{"op":"put","key":"a","key":"a","value":"1"}'
    body = '{"operations":[' + ",".join([one] * (OPERATIONS_MAX + 1)) + "]}"
    with pytest.raises(Problem) as caught:
        parse_batch(body.encode())
    assert caught.value.code == "too-large"
