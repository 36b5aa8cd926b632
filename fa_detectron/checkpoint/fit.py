"""Whether a checkpoint fits the model, and what of it was used."""

import logging
from typing import Any

from torch import nn

from fa_detectron.errors import UserError

_logger = logging.getLogger(__name__)
# Tensors from the config and counters, whose absence means nothing.
_UNIMPORTANT = ("pixel_mean", "pixel_std", "num_batches_tracked")
_PARTS = {
    "backbone": ("backbone.bottom_up.",),
    "FPN": ("backbone.fpn_", "backbone.top_block."),
    "G-RFA": ("backbone.global_attention.",),
    "towers": ("head.cls_subnet.", "head.bbox_subnet."),
    "predictions": ("head.",),
    "priors": ("mu", "sigma"),
}
# A file with a smaller share of both the file's and the model's tensors is of another architecture.
_LEAST_SHARE = 0.5


def check_fit(file: str, model: nn.Module, incompatible: Any, strict: bool) -> None:
    """Refuse a checkpoint that does not fit the model; log how much of it was used.

    Args:
        file: the checkpoint's name, for messages.
        model: the model, already loaded.
        incompatible: fvcore's record of missing and unexpected keys and different shapes.
        strict: whether every tensor has to fit (evaluation, resuming), or a part is enough (fine-tuning).

    Raises:
        UserError: too little fits; with ``strict``, anything does not.
    """
    missing = _important(incompatible.missing_keys)
    unexpected = _important(incompatible.unexpected_keys)
    reshaped = [(key, tuple(in_file), tuple(in_model)) for key, in_file, in_model in incompatible.incorrect_shapes]
    # fvcore takes tensors of another shape out of the file, so they are among the missing ones, too.
    reshaped_keys = {key for key, _, _ in reshaped}
    missing = [key for key in missing if key not in reshaped_keys]
    total = len(_important(model.state_dict()))
    matched = total - len(missing) - len(reshaped)
    in_file = matched + len(unexpected) + len(reshaped)
    summary = f"{file}: {matched} of the model's {total} tensors are in the file ({in_file} tensors)"
    details = _details(missing, unexpected, reshaped)

    if strict and (missing or reshaped or _same_modules(unexpected, model)):
        raise UserError(f"{summary}; the checkpoint is of another model than the config. {details}")
    if matched == 0 or (matched < _LEAST_SHARE * total and matched < _LEAST_SHARE * in_file):
        raise UserError(f"{summary}: too few, the checkpoint is of another architecture. {details}")
    _logger.info("%s; %d are not in the file, %d of another shape", summary, len(missing), len(reshaped))
    _logger.info("taken from %s: %s", file, _parts(model, {*missing, *reshaped_keys}))
    if unexpected:
        _logger.info("left over in the file: %s", _details([], unexpected, []))
    if reshaped:
        kept = [key for key in _important(model.state_dict()) if key not in {*missing, *reshaped_keys}]
        of_backbone = sum(key.startswith("backbone.") for key in kept)
        _logger.warning(
            "%s; these start anew, and the %d tensors that fit are kept, %d of them the backbone's",
            _details([], [], reshaped),
            len(kept),
            of_backbone,
        )


def trim_priors(weights: dict[str, Any], num_classes: int) -> None:
    """Reduce ``mu`` and ``sigma`` (K, 2) of the file to as many rows as its class layer has (in place).

    cvpods' first AutoAssign always had 80 rows, of which fewer classes used the first ones.
    """
    score = weights.get("head.cls_score.bias")
    for key in ("mu", "sigma"):
        prior = weights.get(key)
        if score is not None and prior is not None and prior.ndim == 2 and score.shape == (num_classes,):
            if len(prior) == 80 > num_classes:
                weights[key] = prior[:num_classes]


def _parts(model: nn.Module, anew: set[str]) -> str:
    """The message about how much of each part of the detector is in the file; ``anew``: tensors that are not."""
    of_part: dict[str, list[str]] = {part: [] for part in (*_PARTS, "other parts")}
    for key in _important(model.state_dict()):
        part = next((part for part, start in _PARTS.items() if key.startswith(start)), "other parts")
        of_part[part].append(key)
    return ", ".join(f"{part} {len(set(keys) - anew)} of {len(keys)} tensors" for part, keys in of_part.items() if keys)


def _important(keys: Any) -> list[str]:
    return [key for key in keys if not key.endswith(_UNIMPORTANT)]


def _same_modules(keys: list[str], model: nn.Module) -> bool:
    """Whether any key belongs to a part of the model by name, so that the file is of another variant of it."""
    tops = {name for name, _ in model.named_children()} | {name for name, _ in model.named_parameters(recurse=False)}
    return any(key.split(".")[0] in tops for key in keys)


def _details(missing: list[str], unexpected: list[str], reshaped: list[tuple[str, tuple, tuple]]) -> str:
    parts = []
    if reshaped:
        shapes = [f"{key} is {in_file} in the file, {in_model} in the model" for key, in_file, in_model in reshaped]
        parts.append(f"{len(reshaped)} of another shape: {_some(shapes)}")
        classes = [
            (in_file[-2], in_model[-2]) for key, in_file, in_model in reshaped if key == "mu" and len(in_file) > 1
        ]
        if classes and classes[0][0] != classes[0][1]:
            parts.append(f"the file has {classes[0][0]} classes, the config {classes[0][1]}")
    if missing:
        parts.append(f"{len(missing)} not in the file: {_some(missing)}")
    if unexpected:
        parts.append(f"{len(unexpected)} not in the model: {_some(unexpected)}")
    return "; ".join(parts)


def _some(words: list[str], most: int = 4) -> str:
    return ", ".join(words[:most]) + (f", and {len(words) - most} more" if len(words) > most else "")
