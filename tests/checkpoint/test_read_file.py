"""Files of weights as other programs write them, and the line that converts what is refused."""

import argparse
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("detectron2")

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.checkpoint.read_file import read_weights
from fa_detectron.errors import UserError
from tests.checkpoint.test_checkpointer import Model


def loaded(path) -> Model:
    model = Model()
    torch.nn.init.zeros_(model.head.cls_score.weight)
    FeatureAlignCheckpointer(model).load(str(path), strict=True)
    return model


def same(model: Model, source: Model) -> None:
    for key, value in source.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_numpy_values_beside_the_weights_load(tmp_path, zipped):
    source = Model()
    content = {"model": source.state_dict(), "best": np.float64(0.5), "history": np.arange(3), "when": "now"}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    same(loaded(tmp_path / "a.pth"), source)


def test_numpy_arrays_as_weights_load(tmp_path):
    source = Model()
    torch.save({key: value.numpy() for key, value in source.state_dict().items()}, tmp_path / "a.pth")
    same(loaded(tmp_path / "a.pth"), source)


def test_arrays_of_objects_are_refused(tmp_path):
    torch.save({"model": {}, "odd": np.array([{}], dtype=object)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth: (refused|not a readable)"):
        read_weights(str(tmp_path / "a.pth"))


def test_safetensors_load(tmp_path):
    source = Model()
    save_file(source.state_dict(), tmp_path / "a.safetensors", metadata={"format": "pt"})
    same(loaded(tmp_path / "a.safetensors"), source)
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:100])
    with pytest.raises(UserError, match=r"b\.safetensors: not a readable \.safetensors file"):
        read_weights(str(tmp_path / "b.safetensors"))


def _whole_module(path, model: Model) -> None:
    torch.save(model, path)


def _with_an_object(path, model: Model) -> None:
    torch.save({"model": model.state_dict(), "args": argparse.Namespace(a=1)}, path)


def _torchscript(path, model: Model) -> None:
    conv = torch.jit.script(torch.nn.Conv2d(3, 4, 1))
    torch.jit.save(conv, path)


def _pickle_with_an_object(path, model: Model) -> None:
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    path.write_bytes(pickle.dumps({"model": weights, "args": argparse.Namespace(a=1)}))


@pytest.mark.parametrize(
    "write, name",
    [(_whole_module, "a.pth"), (_with_an_object, "a.pth"), (_torchscript, "a.pt"), (_pickle_with_an_object, "a.pkl")],
)
def test_what_is_refused_comes_with_the_line_that_converts_it(tmp_path, write, name):
    source = Model()
    write(tmp_path / name, source)
    with pytest.raises(UserError, match="If you trust its source") as caught:
        read_weights(str(tmp_path / name))
    line = re.search(r"^python -c .*$", str(caught.value), re.MULTILINE)[0]
    command = [sys.executable, *shlex.split(line)[1:]]
    where_the_class_is = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=where_the_class_is, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if write is _torchscript:
        assert set(read_weights(str(tmp_path / "weights.pth"))) == {"weight", "bias"}
    else:
        same(loaded(tmp_path / "weights.pth"), source)


def test_a_broken_file_is_not_said_to_be_convertible(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no checkpoint at all")
    with pytest.raises(UserError) as caught:
        read_weights(str(tmp_path / "a.pth"))
    assert "python -c" not in str(caught.value)
