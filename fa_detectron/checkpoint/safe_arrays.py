"""Stand-ins for numpy's pickling functions that can build plain arrays of numbers, and nothing else.

numpy's own trust the file: an array of dtype object, or a structured dtype with forged flags, takes its pointers from
the file's bytes. Here a dtype is a number or text type, and an array is a copy of exactly the bytes that it needs.
"""

import math
import pickle
from typing import Any

import numpy as np

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
    """What the name ``numpy.ndarray`` stands for in a file: a word for :func:`empty_array`, not to be called."""

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
