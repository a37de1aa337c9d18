"""Writes every key as a file.

Carrying on after an interruption needs no notes here either: each value is read again and a file that already
holds it is left alone. That costs reading, not trust: what an export leaves behind was compared byte for byte
with the store, whatever happened to the folder in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cli.data.listing import pages_by
from cli.progress import Progress
from cli.transfer.patience import Patience
from cli.transfer.source_folder import Trouble
from cli.transfer.target_folder import TargetFolder, folders_of, unsafe_because
from cli.transfer.workers import work_on_all
from kvstore.client_errors import Problem
from kvstore.paths import key_path

if TYPE_CHECKING:
    from kvstore.http_client import Answer, HttpClient


@dataclass
class ExportReport:
    """What became of the keys."""

    written: int = 0
    unchanged: int = 0
    """The file held these very bytes already."""
    gone: int = 0
    """Deleted between the listing and the reading."""
    failed: list[Trouble] = field(default_factory=list)


class Exporter:
    """One export: from where, into which folder, how."""

    def __init__(
        self,
        client: HttpClient,
        target: TargetFolder,
        prefix: str,
        *,
        consistency: str,
        patience: Patience,
        progress: Progress,
    ) -> None:
        self._client = client
        self._target = target
        self._prefix = prefix
        self._query = {"consistency": consistency}
        self._patience = patience
        self._progress = progress
        self.report = ExportReport()

    async def run(self, concurrency: int) -> ExportReport:
        """Writes every key. Raises ClientError or CommandFailed for what would stop all others, too."""
        paths = self._safe_paths(await self._listed_paths())
        self._progress.start(len(paths))
        await work_on_all(paths, self._export_one, concurrency)
        return self.report

    async def _listed_paths(self) -> list[str]:
        """All keys, without the prefix."""
        paths = []
        async for page in pages_by(self._fetch, {**self._query, "prefix": self._prefix}):
            paths += [row["key"][len(self._prefix) :] for row in page.keys]
        return paths

    async def _fetch(self, query: Mapping[str, str]) -> Answer:
        return await self._patience.keep_trying(lambda: self._client.request("GET", "/v1/kv", query=query))

    def _safe_paths(self, paths: list[str]) -> list[str]:
        """The paths that can be files; the others go into the report."""
        safe = []
        for path in paths:
            reason = unsafe_because(path)
            if reason is None:
                safe.append(path)
            else:
                self.report.failed.append(Trouble(self._prefix + path, f"can't be a file here: {reason}"))
        folders = folders_of(safe)
        for path in folders.intersection(safe):
            self.report.failed.append(Trouble(self._prefix + path, "can't be a file here: other keys make it a folder"))
        return [path for path in safe if path not in folders]

    async def _export_one(self, path: str) -> None:
        try:
            answer = await self._patience.keep_trying(
                lambda: self._client.request("GET", key_path(self._prefix + path), query=self._query)
            )
            written = await asyncio.to_thread(self._target.store, path, answer.body)
        except Problem as problem:
            if problem.status != 404:
                raise
            self.report.gone += 1
        except OSError as error:
            self.report.failed.append(Trouble(self._prefix + path, f"can't be written: {error.strerror}"))
        else:
            self.report.written += written
            self.report.unchanged += not written
        self._progress.advance()
