"""docker-compose.yml: what each container may do, and that its settings are settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvstore.config import NodeConfig, load_config
from tests.docker.files import environment_of, yaml_of

COMPOSE: dict[str, Any] = yaml_of("docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = ("n1", "n2", "n3")
OURS = [name for name, service in SERVICES.items() if "build" in service]


def config_of(node: str, secret: Path) -> NodeConfig:
    """What a node makes of the image's environment and its service's."""
    environment = {**environment_of("runtime"), **SERVICES[node]["environment"]}
    assert environment["KVSTORE_CLUSTER_SECRET_FILE"] == "/secret/cluster"
    return load_config({}, {**environment, "KVSTORE_CLUSTER_SECRET_FILE": str(secret)}, None)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "cluster"
    file.write_text("a secret of enough bytes")
    return file


def test_both_generations_of_compose_take_it() -> None:
    """Keys that one of them refuses or warns of. What they say themselves is seen where they are (make docker-test)."""
    assert set(COMPOSE) - {"services", "volumes"} == {key for key in COMPOSE if key.startswith("x-")}
    newer = {"develop", "attach", "annotations", "post_start", "pre_stop", "provider", "gpus", "models"}
    assert not [name for name, service in SERVICES.items() if newer & service.keys()]


def test_nodes_are_configured_as_one_cluster(secret: Path) -> None:
    configs = [config_of(node, secret) for node in NODES]

    assert [config.name for config in configs] == list(NODES)
    assert {config.members for config in configs} == {configs[0].members}
    assert {config.cluster_secret for config in configs} == {b"a secret of enough bytes"}
    assert len({str(config.data) for config in configs}) == 1


def test_a_node_has_time_to_drain_and_memory_for_what_it_may_hold(secret: Path) -> None:
    config = config_of("n1", secret)
    node = SERVICES["n1"]

    assert int(node["stop_grace_period"].removesuffix("s")) > config.drain_timeout_s
    limit = int(node["mem_limit"].removesuffix("m")) << 20
    assert limit >= 2 * (config.cache_bytes_max + config.body_bytes_in_flight_max)


def test_each_node_has_a_volume_and_a_port_of_its_own() -> None:
    data = {SERVICES[node]["volumes"][0] for node in NODES}
    ports = {SERVICES[node]["ports"][0] for node in NODES}

    assert data == {f"{node}:/data" for node in NODES}
    assert len(ports) == 3
    assert set(NODES) <= COMPOSE["volumes"].keys()


@pytest.mark.parametrize("name", SERVICES)
def test_published_ports_are_for_this_machine_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:${") for port in SERVICES[name].get("ports", ()))


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_may_do_more_than_it_must(name: str) -> None:
    service = SERVICES[name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["mem_limit"]
    assert "privileged" not in service
    assert service["read_only"] or name == "grafana"


def test_nodes_start_again_by_themselves() -> None:
    assert {SERVICES[node]["restart"] for node in NODES} == {"unless-stopped"}


def test_profiles_are_asked_for_by_name() -> None:
    profiles = {name: tuple(service.get("profiles", ())) for name, service in SERVICES.items()}

    assert {name for name, those in profiles.items() if those == ()} == {"secret", *NODES}
    assert {name for name, those in profiles.items() if those == ("loadtest",)} == {"locust-master", "locust-worker"}
    assert {name for name, those in profiles.items() if those == ("observability",)} == {"prometheus", "grafana"}
    assert SERVICES["locust-worker"]["scale"] == 2


@pytest.mark.parametrize("name", OURS)
def test_the_base_image_and_pips_settings_reach_every_build(name: str) -> None:
    arguments = SERVICES[name]["build"]["args"]

    assert set(arguments) == {"PYTHON_IMAGE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST"}
    assert [value for name, value in arguments.items() if name.startswith("PIP_")] == [None] * 3


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_images_of_others_are_pinned_and_can_be_replaced(name: str) -> None:
    assert SERVICES[name]["image"].startswith(f"${{{name.upper()}_IMAGE:-")
    assert SERVICES[name]["image"].rstrip("}").rpartition(":")[2][:1] in {"v", *"0123456789"}
