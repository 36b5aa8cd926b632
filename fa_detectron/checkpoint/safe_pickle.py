"""Unpickling of model-zoo files (``.pkl``) without running code.

A pickle can call any importable function while it is read. Detectron2's model zoo needs none of that: its files are
dicts of numpy arrays, numbers and strings. Everything else is refused by name. The result takes about as much memory as
the file is long, and keys are plain, since hashing nested ones could take forever.

numpy's own pickling functions trust the file: an array of dtype object, or a structured dtype with forged flags, takes
its pointers from the file's bytes. The stand-ins here build arrays of numbers or text, as copies of exactly the bytes
that they need.
"""

import collections
import math
import pickle
from typing import Any, BinaryIO

import numpy as np

from fa_detectron.errors import UserError

_KINDS = "biufcSU"  # bool, integers, floats, complex, bytes, text


class PlainDtype:
    """What ``numpy.dtype`` is in a file: a name and, as its state, a byte order."""

    def __init__(self, name: Any, *_: Any) -> None:
        try:
            self.dtype = np.dtype(name) if isinstance(name, str) else None
        except TypeError:
            self.dtype = None
        if self.dtype is None or self.dtype.kind not in _KINDS:
            raise pickle.UnpicklingError(f"an array of dtype {name!r:.40}")

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, subarray, names, fields, size, alignment, flags); the name has said the size.
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class ArrayClass:
    """What the name ``numpy.ndarray`` stands for in a file: an argument of :func:`empty_array`, not to be called."""

    def __init__(self, *_: Any) -> None:
        raise pickle.UnpicklingError("global 'numpy.ndarray', called")


class PlainArray(np.ndarray):
    """An array whose state in the file is checked before numpy sees it."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        array = from_bytes(data, dtype, shape, "F" if fortran else "C")
        super().__setstate__((1, array.shape, array.dtype, bool(fortran), array.tobytes("A")))


def from_bytes(data: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    """A copy of ``data`` as an array of this shape; for ``numpy.core.numeric._frombuffer`` (protocol 5) as well."""
    if isinstance(data, str):  # written by Python 2
        data = data.encode("latin1")
    data = bytes(data) if isinstance(data, (bytes, bytearray, pickle.PickleBuffer)) else None
    sizes_fit = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if data is None or not isinstance(dtype, PlainDtype) or not sizes_fit or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array that is no plain block of numbers")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"an array of {shape} {dtype.dtype} in {len(data)} bytes")
    return np.frombuffer(data, dtype=dtype.dtype).reshape(shape, order=order).copy(order)


def empty_array(kind: Any, *_: Any) -> np.ndarray:
    """For ``numpy.core.multiarray._reconstruct``: an array that its own state fills afterwards."""
    if kind is not ArrayClass:
        raise pickle.UnpicklingError(f"an array of type {kind!r:.40}")
    return np.ndarray.__new__(PlainArray, (0,), "b")


def scalar(dtype: Any, data: Any) -> Any:
    """For ``numpy.core.multiarray.scalar``."""
    return from_bytes(data, dtype, ())[()]


def _latin1(text: str, encoding: str) -> bytes:
    """Stand-in for ``_codecs.encode``, by which Python 3 writes bytes in protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"global '_codecs.encode' with encoding '{encoding!r:.40}'")
    return text.encode("latin1")


def _bytes(data: Any = b"", encoding: str = "latin1") -> bytes:
    """Stand-in for ``bytes`` and ``bytearray``, which would make any number of zeros out of an integer."""
    if isinstance(data, str):
        return _latin1(data, encoding.replace("-", ""))
    if not isinstance(data, (bytes, bytearray)):
        raise pickle.UnpicklingError(f"global 'builtins.bytes' of a {type(data).__name__}")
    return bytes(data)


def _check_key(key: Any) -> Any:
    """A key or member that can be hashed quickly."""
    parts = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(part, (str, bytes, int, float, complex, type(None))) for part in parts):
        raise pickle.UnpicklingError(f"a key of type {type(key).__name__} that is not plain")
    return key


def _members(items: Any = ()) -> list:
    """The argument of ``set``."""
    if not isinstance(items, (list, tuple)):
        raise pickle.UnpicklingError(f"a set of a {type(items).__name__}")
    return [_check_key(item) for item in items]


def _ordered(items: Any = ()) -> collections.OrderedDict:
    """Stand-in for ``collections.OrderedDict``, empty or of pairs."""
    return collections.OrderedDict((_check_key(key), value) for key, value in items)


NUMPY_GLOBALS: dict[tuple[str, str], Any] = {("numpy", "dtype"): PlainDtype, ("numpy", "ndarray"): ArrayClass}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
    NUMPY_GLOBALS[(f"{_core}.multiarray", "_reconstruct")] = empty_array
    NUMPY_GLOBALS[(f"{_core}.multiarray", "scalar")] = scalar
    NUMPY_GLOBALS[(f"{_core}.numeric", "_frombuffer")] = from_bytes
_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered,
    ("_codecs", "encode"): _latin1,
    **NUMPY_GLOBALS,
    ("builtins", "bytes"): _bytes,
    ("builtins", "bytearray"): _bytes,
    ("builtins", "set"): lambda items=(): set(_members(items)),
}


class _Bounded:
    """A file that refuses to read beyond its end, before memory is allocated for it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = file.seek(0, 2)
        file.seek(0)

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= self._left:
            raise pickle.UnpicklingError(f"{count} bytes where {self._left} are left")
        self._left -= count
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline()
        self._left -= len(line)
        return line


# The Python unpickler keeps its memo in a dict; the one in C allocates as many entries as an opcode says.
class _RestrictedUnpickler(pickle._Unpickler):
    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[("builtins" if module == "__builtin__" else module, name)]  # Python 2's name
        except KeyError:
            raise pickle.UnpicklingError(f"global '{module}.{name}'") from None

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], (PlainDtype, PlainArray)):  # others have no state of their own
            raise pickle.UnpicklingError(f"the state of a {type(self.stack[-2]).__name__}")
        state = self.stack.pop()
        self.stack[-1].__setstate__(state)

    def load_bytearray8(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_setitem(self) -> None:
        if not isinstance(self.stack[-3], dict):
            raise pickle.UnpicklingError(f"an item set in a {type(self.stack[-3]).__name__}")
        _check_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        for key in self.stack[::2]:
            _check_key(key)
        super().load_setitems()

    def load_dict(self) -> None:
        for key in self.stack[::2]:
            _check_key(key)
        super().load_dict()

    def load_additems(self) -> None:
        _members(self.stack)
        super().load_additems()

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    del dispatch[pickle.FROZENSET[0]]  # not in the model zoo


def load_pickle(path: str, remedy: str = "") -> Any:
    """Read a pickle that holds numpy arrays and builtin containers only.

    Args:
        path: local file name.
        remedy: what to do if the file holds something else, for the message.

    Raises:
        UserError: the file asks for anything else (the global is named), or is broken.
    """
    with open(path, "rb") as file:
        try:
            return _RestrictedUnpickler(_Bounded(file), encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{path}: refused, because the pickle holds more than numpy arrays and plain values: {error!s:.500}. "
                + remedy
            ) from None
        except Exception as error:  # a damaged pickle can raise nearly any exception
            raise UserError(f"{path}: not a readable pickle ({type(error).__name__}: {error!s:.500})") from None
