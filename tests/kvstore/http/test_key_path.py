"""Strict percent-decoding, against the standard library where both must agree."""

from __future__ import annotations

from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvstore.http.incoming.key_path import KEY_BYTES_MAX, decode_key, percent_decode
from kvstore.http.outgoing.problems import Problem

KEYS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=200)


@given(KEYS, st.sampled_from(["", "/", "/+:@!$&'()*,;="]))
def test_every_spelling_of_a_key_is_that_key(key: str, unescaped: str) -> None:
    assert decode_key(quote(key, safe=unescaped)) == key.encode()


@given(st.binary(max_size=50))
def test_escapes_may_be_of_either_case(data: bytes) -> None:
    escaped = "".join(f"%{byte:02x}" if byte % 2 else f"%{byte:02X}" for byte in data)
    assert percent_decode(escaped) == percent_decode(quote_from_bytes(data, safe="")) == data


@given(st.binary(min_size=1, max_size=50))
def test_only_utf8_without_nul_is_a_key(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        with pytest.raises(Problem):
            decode_key(quote_from_bytes(data, safe=""))
    else:
        assert decode_key(quote_from_bytes(data, safe="")) == data


@given(st.text("0123456789abcdefABCDEFgG%+ /", max_size=10))
def test_two_spellings_of_one_key_differ_only_in_their_escapes(raw: str) -> None:
    try:
        key = decode_key(raw)
    except Problem:
        return
    assume(key)
    assert decode_key(quote_from_bytes(key, safe="")) == key


@pytest.mark.parametrize("raw", ["x" * KEY_BYTES_MAX, "%78" * KEY_BYTES_MAX, quote("\u00e9" * (KEY_BYTES_MAX // 2))])
def test_the_longest_key(raw: str) -> None:
    assert len(decode_key(raw)) == KEY_BYTES_MAX
    with pytest.raises(Problem, match="1,025 bytes"):
        decode_key(raw + "x")
