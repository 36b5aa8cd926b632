"""Checks of the head's maps that the loss and decoding share."""

import math
from collections.abc import Sequence

from torch import Tensor


def check_head_maps(
    cls_logits: list[Tensor], box_ltrb: list[Tensor], obj_logits: list[Tensor], strides: Sequence[int]
) -> None:
    """Raises ValueError unless the lists hold, a level, (N,K,H,W), (N,4,H,W), (N,1,H,W): floats, on one device."""
    lengths = {len(cls_logits), len(box_ltrb), len(obj_logits), len(strides)}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "cls_logits, box_ltrb, obj_logits and strides need one entry a level, got "
            f"{len(cls_logits)}, {len(box_ltrb)}, {len(obj_logits)} and {len(strides)}"
        )
    first = cls_logits[0]
    if first.dim() != 4:
        raise ValueError(f"cls_logits[0] must be (N, K, H, W), got {tuple(first.shape)}")
    n, k = first.shape[:2]
    groups = (("cls_logits", cls_logits, k), ("box_ltrb", box_ltrb, 4), ("obj_logits", obj_logits, 1))
    for level in range(len(cls_logits)):
        size = cls_logits[level].shape[2:]
        for name, maps, channels in groups:
            found = maps[level]
            if tuple(found.shape) != (n, channels, *size):
                raise ValueError(
                    f"{name}[{level}] must be {(n, channels, *size)} (N, channels, H, W), got {tuple(found.shape)}"
                )
            if not found.is_floating_point():
                raise ValueError(f"{name}[{level}] must be a float tensor, got {found.dtype}")
            if found.device != first.device:
                raise ValueError(f"{name}[{level}] is on {found.device}, cls_logits[0] on {first.device}")
        if not 0 < strides[level] < math.inf:
            raise ValueError(f"strides[{level}] must be positive and finite, got {strides[level]}")


def check_devices(operator: str, *groups: Tensor | Sequence[Tensor]) -> None:
    """Raises ValueError where tensors, or lists of them, are on more than one device."""
    tensors = [x for group in groups for x in ([group] if isinstance(group, Tensor) else group)]
    devices = {str(x.device) for x in tensors}
    if len(devices) > 1:
        raise ValueError(f"{operator}: tensors are on {' and '.join(sorted(devices))}, they must be on one device")
