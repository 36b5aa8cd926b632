"""What set-up says before it begins."""

import collections
import shutil

import pytest

from tools import setup_environment


def test_a_full_disk_is_named_before_anything_is_made(tmp_path, monkeypatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 10**12 - 10**9, 10**9))
    with pytest.raises(setup_environment.SetupError, match=r"1\.0 GB free.*make room.*VENV"):
        setup_environment.create(tmp_path / "new")
    assert not any(tmp_path.iterdir())


def test_an_untested_python_is_rejected() -> None:
    setup_environment.check_version((3, 11), "this")
    with pytest.raises(setup_environment.SetupError, match=r"this is Python 3\.9, but .* needs 3\.11 or 3\.12"):
        setup_environment.check_version((3, 9), "this")
