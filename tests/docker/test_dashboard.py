"""Prometheus' and Grafana's files: they name one another's parts rightly, and every query has something to read."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.client import Client
from tests.cluster.harness import ClusterHarness
from tests.docker.files import DEPLOY, Query, dashboard, queries, yaml_of

FROM_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus itself adds."""
TARGETS = ["n1:7001", "n2:7001", "n3:7001"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, set[str]]:
    """Each metric that a real node exports once it has been used, with the names of its labels."""
    labels: dict[str, set[str]] = defaultdict(set, up=set())
    lock = {"Content-Type": "application/json"}
    with ClusterHarness(tmp_path_factory.mktemp("exported")) as cluster:
        client = Client(cluster.http_address("n1"))
        assert client.put("k", b"v").status == 200
        assert client.call("POST", "/v1/locks/l", b'{"owner": "o", "ttl": "10s"}', lock).status == 201
        for family in text_string_to_metric_families(client.call("GET", "/metrics").body.decode()):
            for sample in family.samples:
                labels[sample.name] |= sample.labels.keys()
        client.close()
    return labels


@pytest.mark.cluster
@pytest.mark.parametrize("query", queries(), ids=lambda query: f"{query.panel}: {query.legend}")
def test_a_real_node_exports_what_the_query_reads(query: Query, exported: Mapping[str, set[str]]) -> None:
    assert query.metrics
    assert query.metrics <= exported.keys()
    for metric in query.metrics - {"up"}:
        assert query.labels <= exported[metric] | FROM_PROMETHEUS


def test_every_panel_asks_something_of_the_provisioned_source_and_says_what_it_shows() -> None:
    source = yaml_of("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]

    assert len(panels) > 20
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {source["uid"]}
    assert {variable["datasource"]["uid"] for variable in dashboard()["templating"]["list"]} == {source["uid"]}
    assert all(panel["description"] and panel["targets"] for panel in panels)


def test_panels_have_ids_of_their_own_and_cover_one_another_nowhere() -> None:
    panels = dashboard()["panels"]
    covered = [
        (place["x"] + right, place["y"] + down)
        for place in (panel["gridPos"] for panel in panels)
        for right in range(place["w"])
        for down in range(place["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(covered)) == len(covered)
    assert max(x for x, _ in covered) < 24


def test_grafana_finds_prometheus_and_the_dashboard_where_compose_puts_them() -> None:
    services = yaml_of("docker-compose.yml")["services"]
    source = yaml_of("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    folder = yaml_of("deploy/grafana/provisioning/dashboards/kvstore.yml")["providers"][0]["options"]["path"]
    mounted = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])

    assert source["url"] == "http://prometheus:9090"
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert mounted["./deploy/grafana/dashboards"] == folder
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana/dashboards" / Path(home).name).exists()
    assert Path(home).parent == Path(folder)


def test_prometheus_asks_every_node() -> None:
    job = yaml_of("deploy/prometheus/prometheus.yml")["scrape_configs"][0]

    assert job["static_configs"] == [{"targets": TARGETS}]
    assert all(query.metrics != {"up"} or 'job="kvstore"' in query.expression for query in queries())
    assert job["job_name"] == "kvstore"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_itself_takes_its_file() -> None:
    checked = subprocess.run(
        ["promtool", "check", "config", str(DEPLOY / "prometheus/prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
