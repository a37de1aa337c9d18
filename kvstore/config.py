"""A node's configuration: one frozen object, made from flags, the environment and a TOML file, in that order.

Whoever starts a node with three mistakes is told of three: every fault is found before any is reported.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.levels import Level
from cluster.repair.floors.criterion import shortest_purge_after_s
from kvstore.addresses import Address, MemberAddress
from kvstore.settings import SETTINGS

__all__ = ["Address", "ConfigError", "MemberAddress", "NodeConfig", "load_config"]

_NEAR_MISS = 0.8  # a letter or two away from a setting's name; measured on KVSTORE_ENDPOINTS and its like
_OTHERS = ("ENDPOINTS", "CONFIG", "TEST_")  # of the client, of `serve` itself, and of tests: never ours
_BY_NAME = {setting.name: setting for setting in SETTINGS}


class ConfigError(Exception):
    """The node can't start like this: one line per fault. Nothing was touched."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What a node is told once, when it starts. Limits are explained where they are enforced."""

    name: str
    """This node's name, unique in its cluster for ever."""
    data: Path
    """Folder that this node alone uses."""
    http: Address
    """Where applications reach it; port 0 takes a free one."""
    peer: Address
    """Where the other nodes reach it."""
    peer_listen: Address | None = None
    """Where it listens for them, if that is another address: behind a proxy, in a container. None: `peer`."""
    members: tuple[MemberAddress, ...]
    """The first members, this node among them. Ignored once the folder knows its cluster."""
    replicas: int = 3
    """How many nodes hold each key, if there are as many."""
    partitions: int = 64
    """Slices of the key space, fixed once the cluster is made."""
    zone: str = ""
    """Where this node stands; replicas are spread over zones. The others learn it when they meet."""
    cluster_name: str = "kvstore"
    """Nodes of differently named clusters refuse each other."""
    cluster_secret: bytes = field(default=b"", repr=False)
    """What nodes prove to each other that they know; b"" on a machine of one's own only."""
    allow_insecure: bool = False
    """HTTP may listen beyond this machine although it has no authentication."""
    allowed_hosts: tuple[str, ...] = ()
    """Further names that a request's Host may bear, for proxies and DNS names."""
    consistency: Level = Level.STRONG
    """The level of requests that name none."""
    value_bytes_max: int = 1 << 20
    """The largest value."""
    cache_bytes_max: int = 128 << 20
    """Records kept in memory."""
    connections_max: int = 4_096
    """HTTP connections open at once."""
    requests_in_flight_max: int = 4_096
    """Requests worked on at once; the next is told to come back."""
    body_bytes_in_flight_max: int = 256 << 20
    """Request bodies in memory at once; the next is told to come back."""
    disk_reserve_bytes: int = 64 << 20
    """Room that is left on the disk when writes are refused; of a small disk a twentieth at most."""
    anti_entropy_interval_s: float = 5.0
    """How often this node compares itself with each of its peers."""
    purge_after_s: float = 180.0
    """How old a deletion is when it is purged; never so young that a request of its time may still run."""
    hints_bytes_max: int = 256 << 20
    """Weak writes kept on disk for replicas that are away, and to be merged back; the only copy of one is not dropped
    for it."""
    scrub_period_s: float = 60.0
    """How often every row on the disk is looked at for damage; a large database takes longer."""
    clock_offset_max_s: float = 5.0
    """How far a wall clock may be off from a majority of the members' before its node is refused."""
    drain_timeout_s: float = 10.0
    """How long a stopping node finishes what it has begun."""
    log_format: str = "auto"
    """auto, console or json; auto is console at a terminal, JSON elsewhere."""
    log_level: str = "info"
    """debug, info, warning or error."""

    @property
    def n(self) -> int:
        """Replicas per key: the replication factor, or the number of members where that is smaller."""
        return min(self.replicas, len(self.members))


def load_config(
    flags: Mapping[str, str | None], environ: Mapping[str, str], toml_file: Path | None = None
) -> NodeConfig:
    """Flags (by setting name; None is not given) go before KVSTORE_<NAME>, that before the file, that before defaults.

    Raises ConfigError with every fault there is.
    """
    faults: list[str] = []
    file = _read_toml(toml_file, faults) if toml_file else {}
    faults += _near_misses(environ)
    values = _parse_all(flags, environ, file, str(toml_file), faults)
    faults += _contradictions(values)
    if faults:
        raise ConfigError(faults)
    values["cluster_secret"] = values.pop("cluster_secret_file")
    listed = next(member.zone for member in values["members"] if member.name == values["name"])
    values["zone"] = values["zone"] or listed
    return NodeConfig(**values)


def _parse_all(
    flags: Mapping[str, str | None], environ: Mapping[str, str], file: Mapping[str, str], path: str, faults: list[str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        sources = (
            (setting.flag, flags.get(setting.name)),
            (setting.variable, environ.get(setting.variable)),
            (f"{setting.name} in {path}", file.get(setting.name)),
            ("the default", setting.default),
        )
        origin, text = next(((origin, text) for origin, text in sources if text is not None), ("", None))
        if text is None:
            faults.append(f"{setting.flag} is missing: {setting.help}; {setting.variable} or a TOML file will do, too")
            continue
        try:
            values[setting.name] = setting.parse(text)
        except ValueError as wrong:
            faults.append(f"{origin} is {text!r}, which can't be used: it must be {wrong}")
    return values


def _read_toml(path: Path, faults: list[str]) -> dict[str, str]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        faults.append(f"{path} can't be read ({error.strerror}): give the path of a TOML file")
        return {}
    except ValueError as error:  # broken TOML, or not UTF-8
        faults.append(f"{path} is not TOML: {error}")
        return {}
    unknown = sorted(table.keys() - _BY_NAME.keys())
    faults += [f"{name} in {path} is no setting: {_suggestion(name)}" for name in unknown]
    texts = {name: _toml_text(value) for name, value in table.items() if name in _BY_NAME}
    faults += [
        f"{name} in {path} is a table or a date: write a text, a number or a list of texts"
        for name, text in texts.items()
        if text is None
    ]
    return {name: text for name, text in texts.items() if text is not None}


def _toml_text(value: object) -> str | None:
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value)
        case list() if all(isinstance(item, str) for item in value):
            return ",".join(value)
        case _:
            return None


def _near_misses(environ: Mapping[str, str]) -> list[str]:
    ours = {setting.variable for setting in SETTINGS}
    others = sorted(name for name in environ if name.startswith("KVSTORE_") and name not in ours)
    names = (name.removeprefix("KVSTORE_") for name in others)
    return [
        f"KVSTORE_{name} is no setting: {_suggestion(name.lower())}"
        for name in names
        if not name.startswith(_OTHERS) and difflib.get_close_matches(name.lower(), _BY_NAME, 1, _NEAR_MISS)
    ]


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches(name, _BY_NAME, 1, 0.6)
    return f"did you mean {near[0]}?" if near else "known are " + ", ".join(_BY_NAME)


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """Faults between settings, each of which is right by itself. Says nothing of settings that are missing."""
    return [*_membership(values), *_exposure(values), *_collision(values), *_haste(values)]


def _membership(values: Mapping[str, Any]) -> list[str]:
    name, peer, members, zone = (values.get(key) for key in ("name", "peer", "members", "zone"))
    if name is None or members is None:
        return []
    own = next((member for member in members if member.name == name), None)
    if own is None:
        names = ", ".join(member.name for member in members)
        return [f"--name is {name!r}, which is not among the members ({names}): --members lists this node, too"]
    faults = []
    if peer is not None and own.peer != peer and not (peer.is_wildcard and peer.port == own.port):
        faults.append(f"--peer is {peer}, but --members gives {name} as {own.peer}: both must be the same")
    if zone and own.zone not in {"", zone}:
        faults.append(f"--zone is {zone!r}, but --members gives {name} {own.zone!r}: write the same in both")
    return faults


def _exposure(values: Mapping[str, Any]) -> list[str]:
    faults = []
    flag = "--peer-listen" if values.get("peer_listen") else "--peer"
    peer, http = values.get("peer_listen") or values.get("peer"), values.get("http")
    if peer and not peer.is_loopback and values.get("cluster_secret_file") == b"":
        faults.append(
            f"{flag} is {peer}, which others can reach, and there is no secret: "
            "give every node the same --cluster-secret-file, or listen on 127.0.0.1"
        )
    if http and not http.is_loopback and values.get("allow_insecure") is False:
        faults.append(
            f"--http is {http}, which others can reach, and HTTP has no authentication yet: "
            "listen on 127.0.0.1, or say --allow-insecure if the network keeps strangers out"
        )
    return faults


def _haste(values: Mapping[str, Any]) -> list[str]:
    purge_after_s, offset_s = values.get("purge_after_s"), values.get("clock_offset_max_s")
    if purge_after_s is None or offset_s is None or purge_after_s >= (shortest_s := shortest_purge_after_s(offset_s)):
        return []
    return [
        f"--purge-after-s is {purge_after_s:g}, and a write as old as that may still be under way while clocks are off "
        f"by {offset_s:g} s: it must be {shortest_s:g} at least"
    ]


def _collision(values: Mapping[str, Any]) -> list[str]:
    peer, http = values.get("peer_listen") or values.get("peer"), values.get("http")
    if not peer or not http or peer.port != http.port:
        return []
    if peer.host != http.host and not (peer.is_wildcard or http.is_wildcard):
        return []
    return [f"--http is {http} and --peer is {peer}: applications and peers need a port each"]
