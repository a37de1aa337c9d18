"""A database whose pages are malformed: reads and commits say so, and what is condemned is not opened again."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage import (
    Batch,
    CommitFailed,
    CommitMetDamage,
    FolderDamaged,
    PagesDamaged,
    Record,
    SqliteEngine,
    StorageError,
)
from tests.storage.test_scrub import (
    INDEX_LEAF,
    KEY,
    STATES,
    TABLE_LEAF,
    VICTIM,
    opened,
    overwrite_page,
    state_of,
    written,
)

VALUE = b"the value of number %04d" % VICTIM


@pytest.fixture
async def malformed(tmp_path: Path) -> Path:
    """A folder with a page of rows that nobody can make sense of."""
    folder = tmp_path / "data"
    overwrite_page(await written(folder, Batch(STATES)), VALUE, TABLE_LEAF)
    return folder


async def test_a_listing_of_malformed_pages_says_that_they_are(malformed: Path) -> None:
    engine = await opened(malformed)
    with pytest.raises(PagesDamaged, match="malformed"):
        await engine.rows(0, 1 << 32, None, 1000)
    with pytest.raises(PagesDamaged, match="malformed"):
        await engine.scan(b"", None, 1000, True, 1 << 30)
    await engine.close()


async def test_what_is_kept_aside_on_malformed_pages(tmp_path: Path) -> None:
    kept = {(b"kept", 5): Record(5, 5, True, b"the value that is kept aside")}
    overwrite_page(await written(tmp_path, Batch(keep=kept)), b"the value that is kept aside", TABLE_LEAF)
    engine = await opened(tmp_path)
    with pytest.raises(PagesDamaged, match="malformed"):
        await engine.kept_aside()
    await engine.close()


@pytest.mark.parametrize(("marker", "kind"), [(VALUE, TABLE_LEAF), (KEY, INDEX_LEAF)])
async def test_a_commit_that_meets_malformed_pages_is_the_last(tmp_path: Path, marker: bytes, kind: int) -> None:
    overwrite_page(await written(tmp_path, Batch(STATES)), marker, kind)
    engine = await opened(tmp_path)
    with pytest.raises(CommitMetDamage, match="malformed"):
        await engine.write(Batch({KEY: state_of(VICTIM)}))
    with pytest.raises(CommitFailed):
        await engine.write(Batch({b"another": state_of(1)}))
    engine.condemn("a commit failed")
    await engine.close()


async def test_a_condemned_folder_is_set_aside_as_a_whole(malformed: Path) -> None:
    engine = await opened(malformed)
    engine.condemn("for this reason")
    assert len(await engine.load(list(STATES))) == len(STATES), "until it is closed it can be used"
    await engine.close()
    for _ in range(2):
        with pytest.raises(FolderDamaged, match="for this reason"):
            await opened(malformed)
    rotten = (malformed / "kvstore.db").read_bytes()
    aside = SqliteEngine.set_aside(malformed)
    assert aside.read_bytes() == rotten
    assert (malformed / "to-be-set-aside.damaged-1").read_text() == "for this reason"
    engine = await opened(malformed)
    await engine.write(Batch({KEY: state_of(VICTIM)}))
    assert (await engine.rows(0, 1 << 32, None, 1000)).complete
    engine.condemn("for another reason")
    await engine.close()
    assert SqliteEngine.set_aside(malformed).name == "kvstore.db.damaged-2"
    assert aside.read_bytes() == rotten, "nothing is deleted"
    assert (malformed / "to-be-set-aside.damaged-2").read_text() == "for another reason"


@pytest.mark.parametrize("renamed", range(4))
async def test_setting_aside_that_was_cut_short_is_gone_on_with(
    malformed: Path, monkeypatch: pytest.MonkeyPatch, renamed: int
) -> None:
    """Else a new database would be made beside the log of the old one, which SQLite would take for its own."""
    (malformed / "kvstore.db-wal").write_bytes(b"the log of the old database")
    (malformed / "log-cut-short").write_text("its log was damaged, too")
    rename, left = Path.rename, renamed

    def rename_some(path: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename_some)
        with pytest.raises(KeyboardInterrupt):
            SqliteEngine.set_aside(malformed)
    with pytest.raises(FolderDamaged, match="when it was last used"):
        await opened(malformed)
    SqliteEngine.set_aside(malformed)
    engine = await opened(malformed)
    assert engine.was_cut_short is None
    assert (await engine.rows(0, 1 << 32, None, 1000)).rows == []
    await engine.close()


async def test_the_note_is_the_folders_not_the_engines(tmp_path: Path) -> None:
    """It may be left behind by one that is closed, or never was opened."""
    engine = SqliteEngine(tmp_path)
    engine.condemn("for this reason")
    with pytest.raises(StorageError, match="for this reason"):
        await engine.open()
