"""Reading files of weights (.pth, .pkl, .safetensors) without running code in them."""

import pickle
import re
from typing import Any

import torch

from fa_detectron.checkpoint.safe_pickle import NUMPY_GLOBALS, PlainArray, load_pickle
from fa_detectron.errors import UserError

# Each of these keeps the weights of a file with other contents; it runs code in the file.
_CONVERT_PTH = (
    "c = torch.load(a, map_location='cpu', weights_only=False); "
    "m = next((c[k] for k in ('model', 'state_dict') if k in c), c) if isinstance(c, dict) else c; "
    "torch.save(dict(m if isinstance(m, dict) else m.state_dict()), b)"
)
_CONVERT_JIT = "torch.save(dict(torch.jit.load(a, map_location='cpu').state_dict()), b)"
_CONVERT_PKL = (
    "import pickle, numpy; c = pickle.load(open(a, 'rb'), encoding='latin1'); m = c.get('model', c.get('blobs', c)); "
    "torch.save({k: torch.as_tensor(numpy.asarray(v)) for k, v in m.items() if not isinstance(v, str)}, b)"
)


def read_weights(path: str, stand_ins: tuple[tuple[Any, str], ...] = ()) -> Any:
    """The contents of a file of weights.

    Args:
        path: local file; ``.pkl`` of the model zoo, ``.safetensors``, else a file of ``torch.save``.
        stand_ins: (class, name in the file) of further classes that a ``torch.save`` file may contain.

    Raises:
        UserError: the file has more than tensors, numpy arrays and plain values, or is broken. If a command can
            convert it, the message has it.
    """
    if path.endswith(".pkl"):
        return load_pickle(path, remedy=_command(_CONVERT_PKL, path))
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    names = [(value, f"{module}.{name}") for (module, name), value in NUMPY_GLOBALS.items()]
    try:
        with torch.serialization.safe_globals([*names, (PlainArray, "PlainArray"), *stand_ins]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"{path}: refused, because it holds more than tensors and plain values: {found[1]}. "
            + _command(_CONVERT_PTH, path)
            if found
            else f"{path}: refused, because it is broken, or holds more than tensors and plain values"
        ) from None
    except Exception as error:  # a damaged archive can raise nearly any exception
        script = "TorchScript" in str(error)
        raise UserError(
            f"{path}: not a readable checkpoint, it is "
            + (f"a TorchScript program. {_command(_CONVERT_JIT, path)}" if script else "damaged or of another format")
        ) from error


def _command(code: str, path: str) -> str:
    return (
        "If you trust its source (this runs what is in the file), this line, where the program that wrote it is "
        "installed, makes a file of its weights alone:\n"
        f"python -c \"import sys, torch; a, b = sys.argv[1:]; {code}\" '{path}' weights.pth"
    )


def _read_safetensors(path: str) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise UserError(f"{path}: reading it needs the package safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error!s:.200})") from None
