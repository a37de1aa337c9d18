"""What `import kvstore` gives, what it costs, and that the tree of errors is as it is drawn."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys

import pytest

import kvstore
from kvstore import errors
from kvstore.client import values
from kvstore.client.over_http.problems import KIND_OF_CODE
from kvstore.client.values import Lease, Receipt
from kvstore.http.outgoing.problems import CODES

NOT_REFUSALS = {"not-found", "not-held", "internal"}
"""Codes that are no error of their own to a client: None, or by outcome."""
PLAIN_REFUSALS = {
    "method-not-allowed", "not-acceptable", "unsupported-media-type", "expectation-failed", "http-version"
}  # fmt: skip
"""Codes that no call of this client can meet; told by their status."""


@pytest.mark.parametrize("name", kvstore.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(kvstore, name) is not None


def test_all_is_all() -> None:
    assert sorted(kvstore.__all__) == sorted(kvstore._HOME_OF)
    assert set(kvstore.__all__) <= set(dir(kvstore))
    for module in (errors, values):
        public = {
            name
            for name, kind in vars(module).items()
            if inspect.isclass(kind) and kind.__module__ == module.__name__ and not name.startswith("_")
        }
        assert public - set(kvstore.__all__) <= {"Page", "Lease", "Fencing"}, "what only stores handle"
    with pytest.raises(AttributeError, match="nonsense"):
        kvstore.nonsense  # noqa: B018


def test_importing_it_costs_no_client() -> None:
    program = "import sys, kvstore; sys.exit(bool({'aiohttp', 'asyncio', 'msgspec', 'sqlite3'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_tree_of_errors_is_as_it_is_drawn() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in errors.__doc__.splitlines():
        if (found := re.match(r"([│├└─ ]*)(\w+)(?: {2,}|$)", line)) and hasattr(errors, found[2]):
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            drawn[found[2]] = above[depth - 1] if depth else "Exception"
    real = {
        name: kind.__base__.__name__
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, errors.KvstoreError) and kind.__base__ is not None
    }
    assert drawn == real


@pytest.mark.parametrize("code", CODES)
def test_every_code_of_the_api_has_its_error(code: str) -> None:
    assert code in KIND_OF_CODE or code in NOT_REFUSALS | PLAIN_REFUSALS


def test_codes_of_errors_are_those_of_the_api() -> None:
    for code, kind in KIND_OF_CODE.items():
        if kind not in (errors.BadRequest, errors.NotAllowed, errors.Unavailable):
            assert kind.code == code


def test_errors_can_be_handed_to_other_processes() -> None:
    error = errors.VersionMismatch("moved", status=412, receipt=Receipt(n=3), version="5")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.version, copy.status, copy.receipt, copy.code) == (
        errors.VersionMismatch, "moved", "5", 412, Receipt(n=3), "version-mismatch"
    )  # fmt: skip
    value = values.Value("k", b"v", "1", "t", None, Receipt(n=3))
    assert pickle.loads(pickle.dumps(value)) == value


def test_a_lease_does_not_show_its_secret() -> None:
    assert "secret" not in repr(Lease("l", "me", "secret", 7, 10.0))
