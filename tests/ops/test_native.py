"""An extension that does not fit is recognised before any of its code runs, and the reason says what to do."""

import importlib.util
import re
import warnings
from types import SimpleNamespace

import pytest
import torch

from fa_detectron.ops import native


def load_with(monkeypatch, tmp_path, content):
    """native's decision about an extension file of this content (None: no file)."""
    monkeypatch.delenv("FA_NO_NATIVE", raising=False)
    spec = None
    if content is not None:
        file = tmp_path / "_C.so"
        file.write_bytes(content)
        spec = SimpleNamespace(origin=str(file))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return native._load()


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "they are not built"),
        (b"\0FA_BUILD_INFO{torch=1.9.0;cuda=;archs=}\0", "built for torch 1.9.0, this is"),
        (b"no library of ours", r"built for torch \(unknown\)"),
        (f"FA_BUILD_INFO{{torch={torch.__version__};cuda=1.0;archs=}}".encode(), "built for CUDA 1.0"),
    ],
)
def test_an_extension_that_does_not_fit_is_not_loaded(monkeypatch, tmp_path, content, reason):
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail("it was loaded"))
    status = load_with(monkeypatch, tmp_path, content)
    assert not status.loaded
    assert re.search(reason, status.reason)


def test_an_extension_older_than_the_python_code(monkeypatch, tmp_path):
    if not native.loaded():
        pytest.skip("the native operators are off")
    monkeypatch.setattr(native, "_OPERATORS", (*native._OPERATORS, "added_later"))
    monkeypatch.delenv("FA_NO_NATIVE", raising=False)
    status = native._load()
    assert not status.loaded and "older than the Python code (no added_later); build them again" in status.reason


def test_switched_off(monkeypatch):
    monkeypatch.setenv("FA_NO_NATIVE", "1")
    assert native._load() == native.Status(False, "FA_NO_NATIVE is set")


def test_the_fallback_is_said_once(monkeypatch):
    monkeypatch.setattr(native, "_DEVICES", ())
    monkeypatch.setattr(native, "_warned", set())
    with pytest.warns(UserWarning, match="runs in plain PyTorch, the native operators are off"):
        assert not native.use(torch.zeros(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not native.use(torch.zeros(1))
