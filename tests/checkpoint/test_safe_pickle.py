"""Model-zoo pickles: arrays pass, anything that could run code does not."""

import collections
import os
import pickle

import numpy as np
import pytest

from fa_detectron.checkpoint.safe_pickle import load_pickle
from fa_detectron.errors import UserError


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_and_plain_values_pass(tmp_path, protocol):
    content = collections.OrderedDict(
        array=np.arange(6, dtype=np.float32).reshape(2, 3),
        columns=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        scalar=np.float64(0.5),
        empty=np.zeros((0, 3), dtype=np.int64),
        plain={"a": [1, 2.0, "x", b"y", None, True, (1,), {2}]},
    )
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    loaded = load_pickle(str(path))
    assert loaded["plain"] == content["plain"] and loaded["scalar"] == 0.5
    for key in ("array", "columns", "empty"):
        assert loaded[key].dtype == content[key].dtype
        np.testing.assert_array_equal(loaded[key], content[key])


def test_python_2_arrays_pass(tmp_path):
    text = (
        b"(dp0\nS'w'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\nRp7\n"
        b"(I1\n(I2\ntp8\ncnumpy\ndtype\np9\n(S'f4'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'<'\np13\nNNNI-1\nI-1\nI0\ntp14\nb"
        b"I00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00@'\np15\ntp16\nbs."
    )
    (tmp_path / "old.pkl").write_bytes(text)
    np.testing.assert_array_equal(load_pickle(str(tmp_path / "old.pkl"))["w"], np.array([1, 2], dtype=np.float32))


class Call:
    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "function, arguments, name",
    [
        (os.mkdir, ("trap",), "mkdir"),
        (eval, ("__import__('os').mkdir('trap')",), "builtins.eval"),
        (getattr, (os, "mkdir"), "getattr"),
        (np.load, ("trap",), "load"),
        (collections.Counter, ("ab",), "collections.Counter"),
    ],
)
def test_everything_else_is_refused_by_name(tmp_path, monkeypatch, function, arguments, name):
    monkeypatch.chdir(tmp_path)
    if function is getattr:
        arguments = ("os", "mkdir")
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": Call(function, *arguments)}))
    with pytest.raises(UserError, match=rf"evil\.pkl: refused.*{name}"):
        load_pickle(str(path))
    assert not (tmp_path / "trap").exists()


def test_object_scalars_are_refused(tmp_path):
    """numpy's own function would hand their bytes to another unpickler."""
    from numpy._core.multiarray import scalar

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(Call(scalar, np.dtype("O"), pickle.dumps(Call(os.mkdir, "trap")))))
    with pytest.raises(UserError, match=r"dtype .O8"):
        load_pickle(str(path))


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"not a pickle", pickle.dumps([1, 2])[:-2]])
def test_broken_files_are_named(tmp_path, content):
    path = tmp_path / "broken.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.pkl"):
        load_pickle(str(path))


@pytest.mark.parametrize(
    "reduced, reason",
    [
        # An array of objects takes its pointers from the bytes of the file: reading one item would follow them.
        (Call(np.ndarray, (1,), np.dtype("O"), b"AAAAAAAA"), "dtype"),
        (Call(np.ndarray, (1,), "f8", b"AAAAAAAA"), "called"),
        (np.array([None, "x"], dtype=object), "dtype"),
        (np.zeros(2, dtype=[("a", "f4")]), "dtype"),
    ],
)
def test_arrays_of_anything_but_numbers_are_refused(tmp_path, reduced, reason):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"w": reduced}))
    with pytest.raises(UserError, match=f"evil.pkl: refused.*{reason}"):
        load_pickle(str(tmp_path / "evil.pkl"))


_HUGE = b"\xff" * 5 + b"\0" * 3  # 2^40 - 1
_NESTED = b"\x80\x04)" + b"2\x86" * 200  # a pair of a pair of ..., all the same


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"\x80\x04Nr\xff\xff\xff\x0f.", ""),  # a memo of 2^28 entries: harmless, as it is a dict here
        (b"\x80\x04\x8e" + _HUGE + b".", "bytes where"),
        (b"\x80\x04\x96" + _HUGE + b".", "bytes where"),
        (b"\x80\x04\x95" + _HUGE + b"N.", "bytes where"),
        (pickle.dumps(Call(bytes, 2**45)), "builtins.bytes' of a int"),
        (pickle.dumps(Call(bytearray, 2**45)), "builtins.bytes' of a int"),
        (b"\x80\x04}" + _NESTED[2:] + b"Ns.", "a key of type tuple"),
        (b"\x80\x04\x8f(" + _NESTED[2:] + b"\x90.", "a key of type tuple"),
        (pickle.dumps(Call(str, "x")), "global 'builtins.str'"),
        (b"\x80\x04c_codecs\nencode\n}b.", "the state of a function"),
    ],
)
def test_small_files_take_no_memory_and_no_time(tmp_path, program, reason):
    (tmp_path / "evil.pkl").write_bytes(program)
    if not reason:
        assert load_pickle(str(tmp_path / "evil.pkl")) is None
        return
    with pytest.raises(UserError, match=f"evil.pkl: .*{reason}"):
        load_pickle(str(tmp_path / "evil.pkl"))


def test_an_array_larger_than_its_bytes_is_refused(tmp_path):
    whole = pickle.dumps(np.zeros(4, dtype=np.uint8), protocol=2)
    (tmp_path / "evil.pkl").write_bytes(whole.replace(b"K\x04\x85", b"K\x7f\x85"))
    with pytest.raises(UserError, match="array of"):
        load_pickle(str(tmp_path / "evil.pkl"))
