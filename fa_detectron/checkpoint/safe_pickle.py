"""Unpickling of model-zoo files (``.pkl``) without running code.

A pickle may call any importable function while it is read. Detectron2's model zoo needs none of that: its files are
dicts of numpy arrays, numbers and strings. Everything else is refused by name. What is built takes no more memory than
the file is long, give or take, and keys are plain, for hashing nested ones could take for ever.
"""

import collections
import pickle
from typing import Any, BinaryIO

from fa_detectron.checkpoint.safe_arrays import ArrayClass, PlainArray, PlainDtype, empty_array, from_bytes, scalar
from fa_detectron.errors import UserError


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
    """A key or member that is hashed in no time."""
    parts = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(part, (str, bytes, int, float, complex, type(None))) for part in parts):
        raise pickle.UnpicklingError(f"a key of type {type(key).__name__} that is not plain")
    return key


def _members(items: Any = ()) -> list:
    """The argument of ``set`` and ``frozenset``."""
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
    ("builtins", "complex"): lambda real, imaginary: complex(float(real), float(imaginary)),
    ("builtins", "set"): lambda items=(): set(_members(items)),
    ("builtins", "frozenset"): lambda items=(): frozenset(_members(items)),
}


class _Bounded:
    """A file whose reads are refused where the file ends, before memory for them is asked for."""

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


# The unpickler in Python keeps its memo in a dict; the one in C makes room for as many entries as an opcode says.
class _RestrictedUnpickler(pickle._Unpickler):
    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[("builtins" if module == "__builtin__" else module, name)]  # Python 2's name
        except KeyError:
            raise pickle.UnpicklingError(f"global '{module}.{name}'") from None

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], (PlainDtype, PlainArray)):  # others have no state, or would share it
            raise pickle.UnpicklingError(f"the state of a {type(self.stack[-2]).__name__}")
        state = self.stack.pop()
        self.stack[-1].__setstate__(state)

    def load_bytearray8(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_setitem(self) -> None:
        self._check_target()
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

    def load_frozenset(self) -> None:
        _members(self.stack)
        super().load_frozenset()

    def _check_target(self) -> None:
        if not isinstance(self.stack[-3], dict):
            raise pickle.UnpicklingError(f"an item set in a {type(self.stack[-3]).__name__}")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def load_pickle(path: str, remedy: str = "") -> Any:
    """Read a pickle that holds numpy arrays and builtin containers only.

    Args:
        path: local file name.
        remedy: what to do where the file holds something else, for the message.

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
