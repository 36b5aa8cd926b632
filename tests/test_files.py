"""Files that are either absent or whole."""

import pytest

from fa_detectron.files import atomic_write, remove_unfinished


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "note"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(str(path)) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_is_removed(tmp_path):
    left = ("model_0000004.pth.123.tmp", "last_checkpoint.4567.tmp")
    other = ("last_checkpoint", "mine.tmp", "model_0000004.pth")
    for name in (*left, *other):
        (tmp_path / name).write_text("x")
    remove_unfinished(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(other)
