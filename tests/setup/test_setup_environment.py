"""What set-up says before it begins."""

import collections
import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("setup_environment", ROOT / "tools/setup_environment.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_full_disk_is_named_before_anything_is_made(tool, tmp_path, monkeypatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 10**12 - 10**9, 10**9))
    with pytest.raises(tool.SetupError, match=r"1\.0 GB free.*make room.*VENV"):
        tool.create(tmp_path / "new")
    assert not any(tmp_path.iterdir())


def test_an_unknown_python_is_refused_in_words(tool) -> None:
    tool.check_version((3, 11), "this")
    with pytest.raises(tool.SetupError, match=r"this is Python 3\.9, needed is 3\.11 or 3\.12"):
        tool.check_version((3, 9), "this")
