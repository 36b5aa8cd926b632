"""Unpickling of model-zoo files (``.pkl``) without running code.

A pickle may call any importable function while it is read. Detectron2's model zoo needs none of that: its files are
dicts of numpy arrays, numbers and strings. Everything else is refused by name.
"""

import builtins
import collections
import pickle
from typing import Any

from fa_detectron.checkpoint.safe_arrays import ArrayClass, PlainDtype, empty_array, from_bytes, scalar
from fa_detectron.errors import UserError

_BUILTINS = "bool bytearray bytes complex dict float frozenset int list set str tuple".split()


def _latin1(text: str, encoding: str) -> bytes:
    """Stand-in for ``_codecs.encode``, by which Python 3 writes bytes in protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"global '_codecs.encode' with encoding '{encoding}'")
    return text.encode("latin1")


NUMPY_GLOBALS: dict[tuple[str, str], Any] = {("numpy", "dtype"): PlainDtype, ("numpy", "ndarray"): ArrayClass}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2
    NUMPY_GLOBALS[(f"{_core}.multiarray", "_reconstruct")] = empty_array
    NUMPY_GLOBALS[(f"{_core}.multiarray", "scalar")] = scalar
    NUMPY_GLOBALS[(f"{_core}.numeric", "_frombuffer")] = from_bytes
_GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _latin1,
    **NUMPY_GLOBALS,
    **{("builtins", name): getattr(builtins, name) for name in _BUILTINS},
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _GLOBALS[("builtins" if module == "__builtin__" else module, name)]  # Python 2's name
        except KeyError:
            raise pickle.UnpicklingError(f"global '{module}.{name}'") from None


def load_pickle(path: str) -> Any:
    """Read a pickle that holds numpy arrays and builtin containers only.

    Args:
        path: local file name.

    Raises:
        UserError: the file asks for anything else (the global is named), or is broken.
    """
    with open(path, "rb") as file:
        try:
            return _RestrictedUnpickler(file, encoding="latin1").load()
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{path}: refused, because the pickle holds more than numpy arrays and plain values: {error}. "
                "Convert it to a .pth file of tensors if you trust it."
            ) from None
        except Exception as error:  # a damaged pickle can raise nearly any exception
            raise UserError(f"{path}: not a readable pickle ({type(error).__name__}: {error})") from None
