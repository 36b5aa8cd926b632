"""The loss and decoding against the published implementations' numbers."""

import numpy as np
import pytest
import torch

from fa_detectron.ops import decode_detections, quality_weighted_loss, reference
from tests.golden import load_golden, relative_error

CASES = [
    "box_without_location",
    "centre_locations",
    "confident",
    "fitted",
    "iou",
    "linear_iou",
    "many_boxes",
    "same_class_overlap",
    "small",
]
METHODS = ["feature_align", "auto_assign"]
LOSSES = ("loss_pos", "loss_neg", "loss_norm")


def head_maps(data: dict[str, np.ndarray], dtype: torch.dtype) -> tuple[list[torch.Tensor], ...]:
    levels = range(len(data["strides"]))
    return tuple(
        [torch.from_numpy(data[f"{name}_{level}"]).to(dtype) for level in levels]
        for name in ("cls_logits", "box_ltrb", "obj_logits")
    )


@pytest.mark.parametrize(
    "implementation", [quality_weighted_loss, reference.quality_weighted_loss], ids=["op", "reference"]
)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients(case, method, dtype, tolerance, implementation):
    data = load_golden(f"loss_{case}")
    maps = head_maps(data, dtype)
    mu, sigma = (torch.from_numpy(data[name]).to(dtype) for name in ("mu", "sigma"))
    if method == "auto_assign":
        mu, sigma = mu[0].clone(), sigma[0].clone()
    inputs = [*maps[0], *maps[1], *maps[2], mu, sigma]
    for tensor in inputs:
        tensor.requires_grad_()
    images = range(len(maps[0][0]))
    losses = implementation(
        *maps,
        [torch.from_numpy(data[f"gt_boxes_{n}"]).to(dtype) for n in images],
        [torch.from_numpy(data[f"gt_classes_{n}"]) for n in images],
        mu,
        sigma,
        data["strides"].tolist(),
        feature_filter=method == "feature_align",
        quality_prior=method == "feature_align",
        location_offset=float(data["location_offset"]),
        focal_alpha=float(data["focal_alpha"]),
        focal_gamma=float(data["focal_gamma"]),
        reg_weight=float(data["reg_weight"]),
        iou_type=str(data["iou_type"]),
    )
    sum(losses.values()).backward()

    errors = {name: relative_error(losses[name], data[f"{method}.{name}"]) for name in LOSSES}
    levels = range(len(maps[0]))
    names = [f"grad_{kind}_{level}" for kind in ("cls", "box", "obj") for level in levels] + ["grad_mu", "grad_sigma"]
    for name, tensor in zip(names, inputs, strict=True):
        errors[name] = relative_error(tensor.grad, data[f"{method}.{name}"])
    assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize("implementation", [decode_detections, reference.decode_detections], ids=["op", "reference"])
@pytest.mark.parametrize("case", CASES)
def test_detections(case, implementation):
    data = load_golden(f"loss_{case}")
    detections = implementation(
        *head_maps(data, torch.float32), data["strides"].tolist(), location_offset=float(data["location_offset"])
    )
    for image, (boxes, scores, classes) in enumerate(detections):
        assert classes.tolist() == data[f"detections.classes_{image}"].tolist()
        np.testing.assert_allclose(scores, data[f"detections.scores_{image}"], atol=1e-5, rtol=0)
        np.testing.assert_allclose(boxes, data[f"detections.boxes_{image}"], atol=1e-3, rtol=0)
