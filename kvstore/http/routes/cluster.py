"""GET /v1/cluster and GET /v1/cluster/partitions?key=: the cluster as this node sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp.web_request import BaseRequest

from kvstore.http.backend import Unreachable
from kvstore.http.incoming.media import require_acceptable
from kvstore.http.outgoing.answer import JSON, Answer
from kvstore.http.routes.service import Service
from storage.ballot import version_text


class ClusterPages:
    """Who is in the cluster, and who holds what."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._view = service.view

    async def overview(self, request: BaseRequest, query: str, request_id: str) -> Answer:
        """GET /v1/cluster."""
        view = self._view
        require_acceptable(request.headers, "application/json")
        self._service.parameters.none.parse(query, view.n)
        return _json(
            {
                "cluster_name": view.cluster_name,
                "cluster_id": view.cluster_id,
                "node": view.node_name,
                "epoch": view.epoch,
                "n": view.n,
                "partitions": view.partitions,
                "members": list(view.members),
                "moving": list(view.moving),
                "convergence": view.convergence,
            }
        )

    async def placement(self, request: BaseRequest, query: str, request_id: str) -> Answer:
        """GET /v1/cluster/partitions: the replica set of a key, and with versions=true what each replica holds."""
        view = self._view
        require_acceptable(request.headers, "application/json")
        choice = self._service.parameters.placement.parse(query, view.n)
        partition = view.partition_of(choice.key)
        held = await self._service.backend.versions(choice.key, choice.timeout_s) if choice.versions else None
        return _json(
            {
                "key": choice.key.decode(),
                "partition": partition,
                "epoch": view.epoch,
                "n": view.n,
                "primary": view.primary(partition),
                "replicas": [self._replica(name, held) for name in view.replica_set(partition)],
            }
        )

    def _replica(self, name: str, held: Mapping[str, int | Unreachable | None] | None) -> dict[str, Any]:
        member = next((member for member in self._view.members if member.name == name), None)
        shown: dict[str, Any] = {"name": name, "zone": "", "state": "down"}
        if member is not None:
            shown |= {"zone": member.zone, "state": member.state}
        if held is not None:
            version = held.get(name, "unreachable")
            shown["version"] = version_text(version) if isinstance(version, int) else version
        return shown


def _json(page: dict[str, Any]) -> Answer:
    return Answer(200, f"{JSON}Cache-Control: no-store\r\n", msgspec.json.encode(page))
