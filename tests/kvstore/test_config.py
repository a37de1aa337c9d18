"""Configuration: where values come from, and that every fault is told at once."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.levels import Level
from kvstore.addresses import parse_address, parse_members, parse_name
from kvstore.config import Address, ConfigError, MemberAddress, load_config
from kvstore.settings import SETTINGS, Setting

GOOD: dict[str, str | None] = {
    "name": "n1",
    "data": "/var/lib/kvstore",
    "http": "127.0.0.1:7001",
    "peer": "127.0.0.1:7101",
    "members": "n1=127.0.0.1:7101,n2=127.0.0.1:7102,n3=127.0.0.1:7103",
}


def faults(environ: dict[str, str] | None = None, toml: Path | None = None, **flags: str | None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(GOOD | flags, environ or {}, toml)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults


def test_defaults() -> None:
    config = load_config(GOOD, {})
    assert config.members[1] == MemberAddress("n2", "127.0.0.1", 7102)
    assert (config.n, config.partitions, config.consistency) == (3, 64, Level.STRONG)
    assert (config.value_bytes_max, config.cache_bytes_max) == (1 << 20, 128 << 20)
    assert (config.cluster_secret, config.allow_insecure, config.allowed_hosts) == (b"", False, ())


def test_flags_before_environment_before_file_before_defaults(tmp_path: Path) -> None:
    toml = tmp_path / "node.toml"
    toml.write_text('replicas = 1\nzone = "c"\nvalue_bytes_max = 77\nallowed_hosts = ["a.example", "b.example"]\n')
    environ = {"KVSTORE_REPLICAS": "2", "KVSTORE_VALUE_BYTES_MAX": "2KiB"}
    config = load_config(GOOD | {"replicas": "3", "zone": None}, environ, toml)
    assert (config.replicas, config.value_bytes_max, config.zone) == (3, 2_048, "c")
    assert config.allowed_hosts == ("a.example", "b.example")


def test_the_file_alone_will_do(tmp_path: Path) -> None:
    toml = tmp_path / "node.toml"
    toml.write_text(
        'name = "n1"\ndata = "d"\nhttp = "[::1]:0"\npeer = "localhost:1"\nmembers = ["n1=localhost:1@a"]\n'
        "allow_insecure = true\nclock_offset_max_s = 0.5\nconsistency = 'weak'\n"
    )
    config = load_config({}, {}, toml)
    assert (config.http, config.zone, config.n) == (Address("::1", 0), "a", 1)
    assert (config.allow_insecure, config.clock_offset_max_s, config.consistency) == (True, 0.5, Level.WEAK)


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    toml = tmp_path / "node.toml"
    toml.write_text('value_bytes = 5\nlog_level = "loud"\npartitions = {}\n')
    told = faults(
        {"KVSTORE_REPLICA": "3", "KVSTORE_CACHE_BYTES_MAX": "much"},
        toml,
        name=None,
        peer="127.0.0.1",
        replicas="0",
        http="0.0.0.0:80",
    )
    for words in (
        ("value_bytes in", "did you mean value_bytes_max?"),
        ("log_level in", "'loud'", "debug, info, warning, error"),
        ("partitions in", "table"),
        ("KVSTORE_REPLICA ", "replicas"),
        ("KVSTORE_CACHE_BYTES_MAX", "'much'", "128MiB"),
        ("--name is missing", "KVSTORE_NAME"),
        ("--peer", "'127.0.0.1'", "HOST:PORT"),
        ("--replicas", "'0'", "from 1 to"),
        ("--http", "--allow-insecure"),
    ):
        assert sum(all(word in fault for word in words) for fault in told) == 1, words
    assert len(told) == 9


def test_variables_of_the_client_and_of_tests_are_none_of_ours() -> None:
    environ = {"KVSTORE_ENDPOINTS": "x", "KVSTORE_TEST_CLOCK": "/f", "KVSTORE_CONFIG": "f", "KVSTORE_FENCE": "7",
               "KVSTORE_LOCK": "l", "KVSTORE_OUTPUT": "json", "KVSTORE_NODES": "3", "KVSTORE_BASE_PORT": "1",
               "KVSTORE_RESTART_AFTER": "5s", "PATH": "/bin"}  # fmt: skip
    assert load_config(GOOD, environ).name == "n1"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"name": "n4"}, "not among the members (n1, n2, n3)"),
        ({"peer": "127.0.0.1:7102"}, "both must be the same"),
        ({"members": "n1=127.0.0.1:7101,n1=127.0.0.1:7102"}, "n1 stands there 2 times"),
        ({"members": "n1=127.0.0.1:7101,n2=127.0.0.1:7101"}, "127.0.0.1:7101 stands there 2 times"),
        ({"members": "n1=127.0.0.1:7101@a", "zone": "b"}, "--zone is 'b'"),
        ({"http": "127.0.0.1:7101", "consistency": "x"}, "applications and peers need a port each"),
        ({"http": "0.0.0.0:7101", "allow_insecure": "true"}, "applications and peers need a port each"),
        ({"members": "n1"}, "NAME=HOST:PORT"),
        ({"members": ""}, "NAME=HOST:PORT"),
        ({"members": "N1=127.0.0.1:7101"}, "1 to 63 of a-z"),
        ({"members": "n1=::1:7101"}, "brackets"),
        ({"http": "127.0.0.1:65536"}, "from 0 to 65535"),
        ({"peer": "127.0.0.1:0"}, "from 1 to 65535"),
        ({"http": "127.0.0.1:+1"}, "from 0 to 65535"),
        ({"http": "127.0.0.1:\u0661"}, "from 0 to 65535"),
        ({"http": "http://127.0.0.1:80"}, "host name or an IP address"),
        ({"replicas": "3.0"}, "whole number"),
        ({"value_bytes_max": "17MiB"}, "bytes from 1 to 16777216"),
        ({"value_bytes_max": "1_000"}, "bytes from"),
        ({"clock_offset_max_s": "nan"}, "a number of seconds from 0.001 to 3600, such as 2 or 0.5"),
        ({"drain_timeout_s": "inf"}, "seconds from"),
        ({"allow_insecure": "yes"}, "one of true, false"),
        ({"consistency": "STRONG"}, "one of strong, weak, eventual"),
        ({"cluster_secret_file": "/nowhere/secret"}, "can be read (No such file or directory)"),
        ({"data": ""}, "path"),
        ({"allowed_hosts": "a,,b"}, "host name"),
    ],
)
def test_what_is_refused(flags: dict[str, str | None], words: str) -> None:
    told = faults(**flags)
    assert any(words in fault for fault in told), told


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting.metavar in ("BYTES", "SECONDS")])
def test_examples_are_taken(setting: Setting) -> None:
    with pytest.raises(ValueError, match="such as ") as refused:
        setting.parse("-")
    examples = str(refused.value).partition("such as ")[2].replace(" or ", ", ").split(", ")
    assert len(examples) > 1
    for example in examples:
        setting.parse(example)


@pytest.mark.parametrize("peer", ["10.0.0.1:7101", "db.example:7101", "[2001:db8::1]:7101"])
def test_peers_beyond_this_machine_need_a_secret(tmp_path: Path, peer: str) -> None:
    flags = {"peer": peer, "members": f"n1={peer}"}
    assert any("--cluster-secret-file" in fault for fault in faults(**flags))
    secret = tmp_path / "secret"
    secret.write_bytes(b"0123456789abcdef\n")
    config = load_config(GOOD | flags | {"cluster_secret_file": str(secret)}, {})
    assert config.cluster_secret == b"0123456789abcdef"
    assert "0123456789abcdef" not in repr(config)


def test_deletions_are_not_purged_while_a_request_of_their_time_may_run() -> None:
    (told,) = faults(purge_after_s="139")
    assert "--purge-after-s" in told
    assert "140" in told
    (told,) = faults(clock_offset_max_s="30")  # the default does not do for clocks as bad as that
    assert "190" in told


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"hunter2\n")
    (told,) = faults(cluster_secret_file=str(secret))
    assert "16 to 4096 bytes" in told
    assert "hunter2" not in told


def test_the_same_port_of_another_address_is_another_port() -> None:
    assert load_config(GOOD | {"http": "127.0.0.2:7101"}, {}).http.port == 7101


def test_http_beyond_this_machine_must_be_allowed() -> None:
    assert load_config(GOOD | {"http": "0.0.0.0:80", "allow_insecure": "true"}, {}).http.port == 80


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]", "app.localhost"])
def test_loopback(host: str) -> None:
    assert parse_address(f"{host}:1").is_loopback


def test_broken_files_are_faults(tmp_path: Path) -> None:
    assert "can't be read" in faults(toml=tmp_path / "absent.toml")[0]
    toml = tmp_path / "node.toml"
    toml.write_bytes(b"replicas = ")
    assert "is not TOML" in faults(toml=toml)[0]
    toml.write_bytes(b'zone = "\xff"')
    assert "is not TOML" in faults(toml=toml)[0]


def test_every_setting_has_help_and_a_default_that_parses() -> None:
    for setting in SETTINGS:
        assert setting.help
        assert setting.flag.startswith("--")
        if setting.default is not None:
            setting.parse(setting.default)


@given(st.text(max_size=30))
def test_parsers_raise_nothing_but_value_errors(text: str) -> None:
    for setting in SETTINGS:
        if setting.name in {"cluster_secret_file", "data"}:
            continue
        with suppress(ValueError):
            setting.parse(text)


@given(st.lists(st.from_regex(r"\A[a-z0-9][a-z0-9.-]{0,10}\Z"), min_size=1, max_size=5, unique=True), st.data())
def test_members_are_read_as_they_are_shown(names: list[str], data: Any) -> None:
    hosts = st.sampled_from(["127.0.0.1", "[::1]", "db.example"])
    zones = st.sampled_from(["", "@a", "@eu-1"])
    parts = [f"{name}={data.draw(hosts)}:{port}{data.draw(zones)}" for port, name in enumerate(names, 1)]
    members = parse_members(",".join(parts))
    shown = [f"{m.name}={m.peer}{'@' + m.zone if m.zone else ''}" for m in members]
    assert shown == parts


@pytest.mark.parametrize("text", ["", "-a", ".a", "A", "a_b", "a" * 64, "a b", "\u0661"])
def test_names(text: str) -> None:
    with pytest.raises(ValueError, match="1 to 63"):
        parse_name(text)
