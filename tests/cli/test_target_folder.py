"""Files that an export writes: whole or not at all, never outside, never through a link."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cli.errors import CommandFailed
from cli.transfer.target_folder import TargetFolder, folders_of, unsafe_because


@pytest.fixture(params=["nameless files", "no nameless files"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a file system that can, or can't, make files without a name."""
    if request.param == "no nameless files":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    return tmp_path / "target"


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_files_are_made_left_alone_and_replaced(folder: Path) -> None:
    with TargetFolder(folder) as target:
        assert [target.store("a/b/c", b"one"), target.store("a/b/c", b"one"), target.store("a/b/c", b"two")] == [
            True,
            False,
            True,
        ]
        target.store("empty", b"")
    assert (folder / "a/b/c").read_bytes() == b"two"
    assert names(folder) == {"a/b/c", "empty"}


def test_what_a_killed_export_left_is_used_up_by_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with TargetFolder(folder) as target:
        target.store("file", b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dies)
            patch.setattr(os, "unlink", dies)  # as SIGKILL would have it: nothing is cleaned up
            with pytest.raises(KeyboardInterrupt):
                target.store("file", b"new")
        assert (folder / "file").read_bytes() == b"old"
        assert len(names(folder)) == 2
        target.store("file", b"new")
    assert names(folder) == {"file"}


def test_links_are_neither_followed_nor_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_bytes(b"precious")
    folder.mkdir()
    (folder / "way").symlink_to(tmp_path / "outside")
    (folder / "file").symlink_to(tmp_path / "outside/file")
    with TargetFolder(folder) as target:
        for path in ("way/file", "way/new", "file"):
            with pytest.raises(OSError) as caught:  # noqa: PT011 - the kernel says ELOOP or ENOTDIR
                target.store(path, b"overwritten")
            assert caught.value.errno in {errno.ELOOP, errno.ENOTDIR}
    assert names(tmp_path / "outside") == {"file"}
    assert (tmp_path / "outside/file").read_bytes() == b"precious"


def test_a_pipe_in_the_way_is_an_error_and_no_wait(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    with TargetFolder(folder) as target, pytest.raises(FileExistsError):
        target.store("pipe", b"value")


def test_one_export_at_a_time(folder: Path) -> None:
    with TargetFolder(folder), pytest.raises(CommandFailed, match="another export"), TargetFolder(folder):
        pass


@pytest.mark.parametrize("path", ["", "/", "/a", "a//b", "a/", "..", "a/../b", ".", "./a", "a/."])
def test_unsafe_paths(path: str) -> None:
    assert unsafe_because(path)


@pytest.mark.parametrize("path", ["a", "a/b", "...", "..a", "a..b/c", " ", "a\\..\\b", "-"])
def test_safe_paths(path: str) -> None:
    assert unsafe_because(path) is None


def test_folders_of() -> None:
    assert folders_of(["a/b/c", "a/d", "e"]) == {"a", "a/b"}
