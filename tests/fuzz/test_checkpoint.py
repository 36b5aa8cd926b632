"""Weights from anywhere: loaded or refused in words; no code of the file runs, and it fills no memory."""

import io
import os
import pickle
import pickletools
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("detectron2")

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.checkpoint.convert_mmdet import convert
from fa_detectron.errors import UserError
from tests.fuzz.cases import example, fuzz, mutate_bytes


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.mu = nn.Conv2d(2, 3, 1), nn.Parameter(torch.zeros(2, 2))


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


_STATE = {"conv.weight": torch.ones(3, 2, 1, 1), "conv.bias": torch.ones(3), "mu": torch.ones(2, 2)}
_TENSORS = [torch.ones(3).to_sparse(), torch.ones(3, dtype=torch.complex64), torch.ones(3, device="meta"),
            torch.ones(3).bool(),
            torch.full((3,), float("nan")), torch.ones(3).half(), torch.ones(0), torch.tensor(1.0),
            torch.ones(1).expand(3),
            torch.quantize_per_tensor(torch.ones(3), 1, 0, torch.qint8), nn.Parameter(torch.ones(3)),
            torch.ones(3, dtype=torch.int64), torch.ones(3).bfloat16()]  # fmt: skip
_OTHERS = [None, 3, "text", [], {}, (1,), {"a": 1}, [torch.ones(1)], b"x", {1, 2}, 1.5, True, np.ones(3), 2**70]
_KEYS = ["conv.bias", "mu", "a", "", 3, None, ("a",), b"x", "x" * 3000, "\ud800", "model", "conv", "module.conv.bias"]


def _zip(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _legacy(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _array(value):
    """A tensor as the array that a .pkl holds, if numpy has its like."""
    try:
        return value.numpy() if type(value) is torch.Tensor else value
    except (TypeError, RuntimeError):
        return value


def _arrays(content):
    return {key: _array(value) for key, value in content.items()}


@st.composite
def contents(draw):
    state = dict(_STATE)
    for _ in range(draw(st.integers(0, 3))):
        state[draw(st.sampled_from(_KEYS))] = draw(st.sampled_from([*_TENSORS, *_OTHERS]))
    return draw(st.sampled_from([{"model": state}, state, {"state_dict": state}, {"model": state, "trainer": 3},
                                 [state],
                                 {"model": _OTHERS}, {"blobs": 3}, {"blobs": state}, {"model": state,
                                 "iteration": "x"}]))  # fmt: skip


def _repack(data: bytes, change) -> bytes:
    """A .pth file whose pickle has been changed, with the right checksums."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, change(content) if name.endswith("data.pkl") else content)
    return result.getvalue()


# Pickle programs, as opcodes with small arguments; most stop early, all have to stop.
_OPCODES = [b"(", b".", b"0", b"1", b"2", b"N", b"}", b"]", b")", b"a", b"b", b"d", b"e", b"l", b"o", b"s", b"t", b"u",
            b"\x81", b"\x85", b"\x86", b"\x87", b"\x88", b"\x89", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93", b"\x94",
            b"\x97", b"\x98", b"R", b"Q", b"P0\n", b"K\x05", b"J\xff\xff\xff\x7f", b"M\xff\xff", b"q\x00", b"h\x00",
            b"q\xff",
            b"h\xff", b"r\xff\xff\xff\x0f", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"X\x01\x00\x00\x00a",
            b"X\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 7 + b"\x00",
            b"\x96" + b"\xff" * 7 + b"\x00",
            b"\x8d\x00\x00\x00\x00\x10\x00\x00\x00", b"\x8a\x02\xff\xff", b"\x8b\xff\xff\xff\x7f", b"\x8c\x05model",
            b"F1e999\n", b"I01\n", b"L" + b"9" * 5000 + b"L\n", b"S'a'\n", b"V\\ud800\n", b"G" + b"\xff" * 8,
            b"\x80\x02",
            b"\x95" + b"\xff" * 8, b"\x95\x08" + b"\0" * 7, b"cos\nsystem\n", b"cbuiltins\nbytes\n",
            b"cbuiltins\nstr\n",
            b"cbuiltins\nlist\n", b"cbuiltins\neval\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n",
            b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy.core.multiarray\nscalar\n",
            b"cnumpy.core.numeric\n_frombuffer\n",
            b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nFloatStorage\n", b"ctorch\ndevice\n",
            b"cbuiltins\nbytearray\n",
            b"cbuiltins\nset\n", b"cbuiltins\ncomplex\n", b"ios\nsystem\n", b"\x82\x01"]  # fmt: skip
programs = st.lists(st.sampled_from(_OPCODES), min_size=1, max_size=40).map(
    lambda parts: b"\x80\x04" + b"".join(parts) + b"."
)


@st.composite
def files(draw) -> tuple[str, bytes]:
    kind = draw(st.integers(0, 7))
    content = draw(contents())
    if kind == 0:
        return "a.pth", _zip(content)
    if kind == 1:
        return "a.pth", _repack(_zip(content), lambda data: mutate_bytes(draw, data))
    if kind == 2:
        return "a.pth", mutate_bytes(draw, draw(st.sampled_from([_zip, _legacy]))(content))
    if kind == 3:
        program = draw(programs)
        return "a.pth", _repack(_zip(content), lambda data: program)
    if kind == 4:
        return "a.pkl", draw(programs)
    protocol = draw(st.integers(0, 5))
    state = (
        content
        if not isinstance(content, dict)
        else {k: _arrays(v) if isinstance(v, dict) else v for k, v in content.items()}
    )
    if kind == 5:
        calls = [Call(os.system, "x"), Call(eval, "1"), Call(bytes, 2**45), Call(bytearray, 2**45), Call(open,
                 "/tmp/x", "w"),
                 Call(str, [[]] * 3), Call(list, "ab"), Call(complex, 1, 2), Call(np.ones, 3), Call(np.dtype,
                 "O")]  # fmt: skip
        state = {"model": state, "a": draw(st.sampled_from(calls))}
    try:
        data = pickle.dumps(state, protocol)
    except (pickle.PicklingError, TypeError, NotImplementedError, RuntimeError, AttributeError, UnicodeEncodeError):
        data = pickle.dumps({}, protocol)
    return "a.pkl", mutate_bytes(draw, data) if kind == 6 else data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@fuzz
@given(files(), st.booleans())
def test_loading(folder, file, strict):
    name, data = file
    (folder / name).write_bytes(data)
    model = Model()
    with example(file, folder):
        try:
            FeatureAlignCheckpointer(model).load(str(folder / name), strict=strict)
        except UserError as error:
            assert name in str(error) and len(str(error)) < 20_000
    assert all(value.shape == _STATE[key].shape for key, value in model.state_dict().items())


@fuzz
@given(files())
def test_converting(folder, file):
    name, data = file
    (folder / name).write_bytes(data)
    with example(file, folder):
        try:
            convert(str(folder / name), str(folder / "never.pth"))
        except UserError as error:
            assert name in str(error)
    assert not (folder / "never.pth").exists()


def test_the_programs_are_pickles():
    """The list above is worth something only if its entries are opcodes."""
    for part in _OPCODES:
        assert part[:1].decode("latin1") in pickletools.code2op
