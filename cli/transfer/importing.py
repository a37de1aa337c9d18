"""Puts a folder's files into the store.

Carrying on after an interruption needs no notes of its own: a file whose very bytes the store already has is left
alone. The listing says which keys have the right size, and only those are read and compared. A list of "done"
files, kept on the side, would lie as soon as somebody else wrote to the store, or emptied it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cli.data.listing import pages_by
from cli.progress import Progress
from cli.transfer.patience import Patience
from cli.transfer.source_folder import SourceFile, Trouble, files_below, read_file
from cli.transfer.workers import work_on_all
from kvstore.client_errors import Problem
from kvstore.paths import key_path

if TYPE_CHECKING:
    from kvstore.http_client import Answer, HttpClient

FAULT_OF_ONE_FILE = frozenset({400, 413, 414, 415, 431})
"""The key or the value can't be stored; the other files can."""


@dataclass
class ImportReport:
    """What became of the files."""

    stored: int = 0
    unchanged: int = 0
    """The store had these very bytes already."""
    failed: list[Trouble] = field(default_factory=list)


class Importer:
    """One import: which folder, to where, how."""

    def __init__(
        self, client: HttpClient, folder: Path, prefix: str, *, consistency: str, patience: Patience, progress: Progress
    ) -> None:
        self._client = client
        self._folder = folder
        self._prefix = prefix
        self._query = {"consistency": consistency}
        self._patience = patience
        self._progress = progress
        self._sizes: Mapping[str, int] = {}
        self.report = ImportReport()

    async def run(self, concurrency: int) -> ImportReport:
        """Stores every file. Raises ClientError or CommandFailed for what would stop all others, too."""
        found = await asyncio.to_thread(lambda: list(files_below(self._folder, self._prefix)))
        files = [file for file in found if isinstance(file, SourceFile)]
        self.report.failed += [trouble for trouble in found if isinstance(trouble, Trouble)]
        self._sizes = await self._stored_sizes(files)
        self._progress.start(len(files))
        await work_on_all(files, self._import_one, concurrency)
        return self.report

    async def _stored_sizes(self, files: Sequence[SourceFile]) -> Mapping[str, int]:
        """The sizes of the values that are there already, of our own keys only."""
        ours = {file.key for file in files}
        sizes = {}
        async for page in pages_by(self._fetch_page, {**self._query, "prefix": self._prefix}):
            sizes.update({row["key"]: row["size"] for row in page.keys if row["key"] in ours})
        return sizes

    async def _fetch_page(self, query: Mapping[str, str]) -> Answer:
        return await self._patience.keep_trying(lambda: self._client.request("GET", "/v1/kv", query=query))

    async def _import_one(self, file: SourceFile) -> None:
        value = await asyncio.to_thread(read_file, self._folder, file)
        if isinstance(value, Trouble):
            self.report.failed.append(value)
        else:
            await self._store(file, value)
        self._progress.advance()

    async def _store(self, file: SourceFile, value: bytes) -> None:
        try:
            if self._sizes.get(file.key) == len(value) and await self._has_these_bytes(file, value):
                self.report.unchanged += 1
                return
            await self._patience.keep_trying(lambda: self._put(file, value))
        except Problem as problem:
            if problem.status not in FAULT_OF_ONE_FILE:
                raise
            self.report.failed.append(Trouble(file.path, str(problem)))
        else:
            self.report.stored += 1

    async def _has_these_bytes(self, file: SourceFile, value: bytes) -> bool:
        try:
            answer = await self._patience.keep_trying(
                lambda: self._client.request("GET", key_path(file.key), query=self._query)
            )
        except Problem as problem:
            if problem.status == 404:  # deleted since it was listed
                return False
            raise
        return answer.body == value

    async def _put(self, file: SourceFile, value: bytes) -> Answer:
        return await self._client.request(
            "PUT",
            key_path(file.key),
            query=self._query,
            headers={"Content-Type": file.content_type},
            body=value,
            idempotent=True,  # unconditional, and always these bytes
        )
