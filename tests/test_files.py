"""Files that are either absent or whole."""

import errno
import os

import pytest

from fa_detectron.files import atomic_write, remove_unfinished


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "note"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(str(path)) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    """What a power cut leaves: the name of the old file or of the new one, never of one without its content."""
    path, done, fsync, replace = tmp_path / "note", [], os.fsync, os.replace
    path.write_text("old")

    def synced(descriptor):
        done.append(f"{os.readlink(f'/proc/self/fd/{descriptor}')} with {path.read_text()} there")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or replace(*names))
    with atomic_write(str(path)) as file:
        file.write("new")
    assert done == [f"{path}.{os.getpid()}.tmp with old there", "renamed", f"{tmp_path} with new there"]


def test_a_full_disk_is_named_with_the_file(tmp_path):
    path = tmp_path / "note"
    (tmp_path / f"note.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught, atomic_write(str(path)) as file:
        file.write("new")
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert not list(tmp_path.iterdir())


def test_what_killed_writers_left_is_removed(tmp_path):
    left = ("model_0000004.pth.123.tmp", "last_checkpoint.4567.tmp")
    other = ("last_checkpoint", "mine.tmp", "model_0000004.pth")
    for name in (*left, *other):
        (tmp_path / name).write_text("x")
    remove_unfinished(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(other)
