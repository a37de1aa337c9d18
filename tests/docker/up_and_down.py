"""The containers, really run: up, one killed, written and read through the rest, loaded, watched, and down again.

`make docker-test` names this file; `make test` does not find it, since it builds images and takes minutes. It runs
with `docker compose` and with docker-compose 1.29, whichever are there.
"""

from __future__ import annotations

import json
import signal
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.cluster.cli_runner import Cli
from tests.cluster.harness import wait_until
from tests.docker.compose import NODES, Compose, answers, run
from tests.docker.files import Query, queries, yaml_of

GENERATIONS = {"docker compose": ("docker", "compose"), "docker-compose": ("docker-compose",)}
STAND_IN = "kvstore-test-prometheus:test"
pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not answers("docker", "info"), reason="no Docker engine answers `docker info`"),
]


@pytest.fixture(scope="module", params=GENERATIONS)
def compose(request: pytest.FixtureRequest) -> Iterator[Compose]:
    """Three healthy nodes."""
    command = GENERATIONS[request.param]
    if not answers(*command, "version"):
        pytest.skip(f"`{request.param}` is not installed")
    compose = Compose(command)
    try:
        compose("build", *NODES, "locust-master", "locust-worker")
        compose("up", "-d", *NODES)
        compose.wait_healthy()
        yield compose
    finally:
        compose.down()
        compose.ports.release()
    assert compose.leftovers() == []


@pytest.fixture
def cli(compose: Compose) -> Cli:
    return Cli([compose.endpoint(node) for node in NODES])


def through(compose: Compose, *nodes: str) -> Cli:
    """The command line, told of these nodes only."""
    return Cli([compose.endpoint(node) for node in nodes])


def versions(cli: Cli, key: str) -> set[str]:
    return {replica["version"] for replica in cli("replicas", key).json()["replicas"]}


def test_nodes_are_healthy_by_their_own_command_and_confined(compose: Compose, cli: Cli) -> None:
    assert cli("health").code == 0
    assert compose("exec", "-T", "n1", "kvstore", "health") == ""  # under the nodes' own names
    for node in NODES:
        found = compose.inspect(node)
        assert found["Config"]["Healthcheck"]["Test"][:3] == ["CMD", "kvstore", "health"]
        assert found["Config"]["User"] == "10001:10001"
        assert found["HostConfig"]["ReadonlyRootfs"]
        assert found["HostConfig"]["CapDrop"] == ["ALL"]
        assert found["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    status = compose("exec", "-T", "n1", "cat", "/proc/self/status")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Uid:\t10001" in status


def test_a_killed_container_costs_nothing_and_catches_up(compose: Compose, cli: Cli) -> None:
    assert cli("put", "before", "1").code == 0
    run(["docker", "kill", *compose.containers("n3")])
    rest = through(compose, "n1", "n2")

    wait_until(lambda: rest("put", "meanwhile", "2").code == 0, "a strong write without n3")
    assert rest("get", "before").out == b"1"
    assert through(compose, "n2")("get", "meanwhile").out == b"2"
    assert compose.health("n3") == "not running"
    assert through(compose, "n3")("health").code == 5

    compose("start", "n3")
    compose.wait_healthy("n3")
    assert through(compose, "n3")("get", "meanwhile").out == b"2"
    for key in ("before", "meanwhile"):
        wait_until(lambda key=key: len(versions(cli, key)) == 1, f"all replicas of {key} to be equal")  # type: ignore[misc]


def test_a_node_that_dies_is_started_again_on_its_data(compose: Compose, cli: Cli) -> None:
    assert cli("put", "kept", "3").code == 0
    compose("exec", "-T", "n2", "sh", "-c", "kill -9 $(cat /data/lock)")
    wait_until(lambda: compose.inspect("n2")["RestartCount"] > 0, "the engine to start n2 again")
    compose.wait_healthy("n2")
    assert through(compose, "n2")("get", "kept").out == b"3"


def test_stopping_drains_and_volumes_outlive_containers(compose: Compose, cli: Cli) -> None:
    assert cli("put", "durable", "4", "-w", "all").code == 0
    compose("stop", "n1")
    state = compose.inspect("n1")["State"]
    assert state["ExitCode"] in {0, 128 + signal.SIGTERM}
    assert state["ExitCode"] == 0, "it did not end by itself within its grace"

    compose("down")
    compose("up", "-d", *NODES)
    compose.wait_healthy()
    assert cli("get", "durable").out == b"4"


def asked(url: str, form: Mapping[str, str] | None = None) -> Any:
    """The JSON at this address; a form is posted. None while nobody answers."""
    body = None if form is None else urllib.parse.urlencode(form).encode()
    try:
        with urllib.request.urlopen(url, body, timeout=10) as answer:
            return json.load(answer)
    except OSError:
        return None


def test_the_load_test_runs_on_two_workers_and_nothing_fails(compose: Compose) -> None:
    compose("up", "-d", "locust-master", "locust-worker")
    page = compose.url("LOCUST_PORT")
    wait_until(lambda: len((asked(f"{page}/stats/requests") or {}).get("workers", [])) == 2, "two workers")
    assert asked(f"{page}/swarm", {"user_count": "8", "spawn_rate": "8"})["success"]

    def total() -> int:
        return sum(
            row["num_requests"] for row in asked(f"{page}/stats/requests")["stats"] if row["name"] == "Aggregated"
        )

    wait_until(lambda: total() > 200, "some requests")
    assert asked(f"{page}/stop", {})["success"]
    wait_until(lambda: asked(f"{page}/stats/requests")["state"] == "stopped", "the load test to end")
    end = asked(f"{page}/stats/requests")
    assert end["errors"] == []
    checks = {row["name"] for row in end["stats"] if row["method"] == "CHECK"}
    assert checks, "no check of correctness was made"
    compose("stop", "locust-worker", "locust-master")


@pytest.fixture
def prometheus(compose: Compose) -> str:
    """Prometheus' address: the pinned image where it is here or can be pulled, else Debian's program in one."""
    image = yaml_of("docker-compose.yml")["services"]["prometheus"]["image"].partition(":-")[2].rstrip("}")
    if not answers("docker", "image", "inspect", image) and not answers("docker", "pull", image):
        run(["docker", "build", "-t", STAND_IN, "tests/docker/prometheus"])
        compose.variables["PROMETHEUS_IMAGE"] = STAND_IN
    compose("up", "-d", "prometheus")
    return compose.url("PROMETHEUS_PORT")


def test_prometheus_reaches_every_node_and_each_query_of_the_dashboard_finds_something(
    compose: Compose, cli: Cli, prometheus: str
) -> None:
    assert cli("put", "watched", "5").code == 0
    assert cli("lock", "acquire", "watched", "--ttl", "10s").code == 0

    def up() -> list[str]:
        targets = (asked(f"{prometheus}/api/v1/targets") or {"data": {"activeTargets": []}})["data"]["activeTargets"]
        return sorted(target["labels"]["instance"] for target in targets if target["health"] == "up")

    wait_until(lambda: up() == list(NODES), "Prometheus to reach all nodes")
    for query in queries():
        wait_until(lambda query=query: found(prometheus, query), f"something for {query.expression}", 90.0, 0.5)  # type: ignore[misc]


def found(prometheus: str, query: Query) -> list[Any]:
    """What Prometheus finds for it now."""
    text = urllib.parse.urlencode({"query": query.as_prometheus_takes_it("1m")})
    answer = asked(f"{prometheus}/api/v1/query?{text}")
    assert answer is not None, f"Prometheus refuses {query.expression}"
    rows: list[Any] = answer["data"]["result"]
    return rows
