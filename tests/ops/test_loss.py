"""The loss against plain loops and at its corners; needs nothing but the project."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor.debug import CommDebugMode

from fa_detectron.ops import quality_weighted_loss
from tests.ops.loss_by_loops import loss_by_loops
from tests.ops.loss_cases import METHODS

STRIDES = (8, 16)
NUM_CLASSES = 3


def make_case(boxes, classes, mdq=True, dtype=torch.float64, seed=0):
    """Head maps of a 40 x 32 canvas, fresh priors off their start, and the truth of each image."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    sizes, n = [(5, 4), (3, 2)], len(boxes)
    maps = (
        [normal(n, NUM_CLASSES, *size) for size in sizes],
        [normal(n, 4, *size).abs() * 12 for size in sizes],
        [normal(n, 1, *size) for size in sizes],
    )
    shape = (len(sizes), NUM_CLASSES, 2) if mdq else (NUM_CLASSES, 2)
    mu, sigma = 0.3 * normal(*shape), 1 + 0.2 * normal(*shape)
    truth = [torch.tensor(b, dtype=dtype).reshape(-1, 4) for b in boxes], [torch.tensor(c).long() for c in classes]
    leaves = [tensor.requires_grad_() for tensor in (*maps[0], *maps[1], *maps[2], mu, sigma)]
    return (*maps, *truth, mu, sigma, STRIDES), leaves


TRUTHS = {
    "overlapping classes": ([[[2, 2, 30, 38], [10, 5, 28, 20], [4, 4, 20, 30]], [[1, 1, 31, 39]]], [[0, 1, 0], [2]]),
    "same box twice": ([[[2, 2, 30, 38], [2, 2, 30, 38]]], [[1, 1]]),
    "an image without a box": ([[[2, 2, 30, 38]], []], [[1], []]),
    "no box at all": ([[], []], [[], []]),
    "a box without a location": ([[[2, 2, 30, 38], [9, 9, 11, 11]]], [[1, 0]]),
    "no location in any box": ([[[9, 9, 11, 11], [1, 1, 3, 3]]], [[1, 0]]),
    "outside the canvas": ([[[-50, -50, 90, 90], [100, 100, 120, 130]]], [[1, 0]]),
}


@pytest.mark.parametrize(
    "options", [{}, {"location_offset": 0.5, "focal_gamma": 1.5, "reg_weight": 2.0}], ids=["", "options"]
)
@pytest.mark.parametrize("iou_type", ["giou", "linear_iou", "iou"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("truth", TRUTHS)
def test_agrees_with_plain_loops(truth, method, iou_type, options):
    arguments, leaves = make_case(*TRUTHS[truth], mdq=method == "FeatureAlign")
    options = {**METHODS[method], **options, "iou_type": iou_type}
    results = []
    for function in (quality_weighted_loss, loss_by_loops):
        losses = function(*arguments, **options)
        # Different weights, so that a gradient that went into the wrong loss shows.
        total = losses["loss_pos"] + 2 * losses["loss_neg"] + 3 * losses["loss_norm"]
        results.append((losses, torch.autograd.grad(total, leaves, allow_unused=function is loss_by_loops)))
    (found, gradients), (expected, expected_gradients) = results
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-12)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        wanted = torch.zeros_like(gradient) if wanted is None else wanted
        torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_extreme_logits_stay_finite(method):
    arguments, leaves = make_case(*TRUTHS["overlapping classes"], dtype=torch.float32)
    with torch.no_grad():
        for tensor in leaves[:2] + leaves[4:6]:
            tensor.copy_(torch.where(torch.rand_like(tensor) < 0.5, -100.0, 100.0))
        leaves[2].zero_()  # boxes of no extent
    losses = quality_weighted_loss(*arguments, **METHODS[method])
    gradients = torch.autograd.grad(sum(losses.values()), leaves)
    assert all(torch.isfinite(x).all() for x in (*losses.values(), *gradients))


@pytest.mark.parametrize("place", ["cls", "box", "obj", "mu"])
def test_a_nan_is_not_hidden(place):
    arguments, leaves = make_case(*TRUTHS["overlapping classes"])
    index = {"cls": 0, "box": 2, "obj": 4, "mu": 6}[place]
    with torch.no_grad():
        leaves[index].fill_(float("nan"))
    losses = quality_weighted_loss(*arguments)
    assert torch.isnan(sum(losses.values()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    arguments, _ = make_case(*TRUTHS["overlapping classes"], dtype=torch.float32)
    maps = [[x.detach().to(dtype).requires_grad_() for x in group] for group in arguments[:3]]
    found = quality_weighted_loss(*maps, *arguments[3:])
    wide = [[x.detach().float() for x in group] for group in maps]
    expected = quality_weighted_loss(*wide, *arguments[3:])
    for name in expected:
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], expected[name])
    sum(found.values()).backward()
    assert all(x.grad is not None and x.grad.dtype == dtype for group in maps for x in group)


def test_normalizers_from_outside_are_used_as_they_are():
    arguments, _ = make_case(*TRUTHS["overlapping classes"])
    own = quality_weighted_loss(*arguments, normalizers=(1.0, 1.0))
    given = quality_weighted_loss(*arguments, normalizers=(8, torch.tensor(0.5, dtype=torch.float64)))
    torch.testing.assert_close(given["loss_pos"] * 8, own["loss_pos"])
    torch.testing.assert_close(given["loss_neg"] * 0.5, own["loss_neg"])
    torch.testing.assert_close(given["loss_norm"], own["loss_norm"])


@pytest.fixture
def process_group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("normalizers, expected", [(None, 1), ((3.0, 5.0), 0)], ids=["its own", "given"])
def test_the_workers_talk_once_a_step_or_not_at_all(normalizers, expected):
    arguments, leaves = make_case(*TRUTHS["overlapping classes"])
    with CommDebugMode() as communication:
        losses = quality_weighted_loss(*arguments, normalizers=normalizers, reduce=True)
        torch.autograd.grad(sum(losses.values()), leaves)
    assert communication.get_total_counts() == expected


@pytest.mark.parametrize(
    "change, message",
    [
        ({"cls_logits": lambda x: x[:1]}, "one entry a level, got 1, 2, 2 and 2"),
        ({"box_ltrb": lambda x: [x[0][:, :3], x[1]]}, r"box_ltrb\[0\] must be \(2, 4, 5, 4\)"),
        ({"cls_logits": lambda x: [x[0][0], x[1]]}, r"cls_logits\[0\] must be \(N, K, H, W\)"),
        ({"cls_logits": lambda x: [x[0].long(), x[1]]}, r"cls_logits\[0\] must be a float tensor"),
        ({"obj_logits": lambda x: [x[0], x[1].to("meta")]}, r"obj_logits\[1\] is on meta, cls_logits\[0\] on cpu"),
        ({"gt_boxes": lambda x: [x[0].to("meta"), x[1]]}, r"gt_boxes\[0\] is on meta, cls_logits\[0\] on cpu"),
        ({"gt_classes": lambda x: [x[0].to("meta"), x[1]]}, r"gt_classes\[0\] is on meta, cls_logits\[0\] on cpu"),
        ({"mu": lambda x: x.to("meta")}, r"mu is on meta, cls_logits\[0\] on cpu"),
        ({"sigma": lambda x: x.to("meta")}, r"sigma is on meta, cls_logits\[0\] on cpu"),
        ({"gt_boxes": lambda x: x[:1]}, "one entry an image"),
        ({"gt_classes": lambda x: x[:1]}, "one entry an image"),
        ({"gt_classes": lambda x: [x[0][:1], x[1]]}, r"gt_classes\[0\] must be \(3,\)"),
        ({"gt_boxes": lambda x: [x[0][:, :3], x[1]]}, r"gt_boxes\[0\] must be \(G, 4\)"),
        ({"gt_classes": lambda x: [x[0].float(), x[1]]}, r"gt_classes\[0\] must hold integers"),
        ({"gt_classes": lambda x: [x[0] > 0, x[1]]}, r"gt_classes\[0\] must hold integers"),
        ({"gt_classes": lambda x: [x[0] + 2, x[1]]}, r"gt_classes\[0\] .* for 3 classes"),
        ({"gt_classes": lambda x: [x[0] - 2, x[1]]}, r"gt_classes\[0\] .* for 3 classes"),
        ({"mu": lambda x: x[:, :2]}, r"mu must be \(K, 2\)"),
        ({"sigma": lambda x: x[0]}, "mu and sigma differ"),
        ({"strides": lambda x: (8, 0)}, r"strides\[1\] must be positive"),
        ({"strides": lambda x: (float("nan"), 16)}, r"strides\[0\] must be positive"),
        ({"iou_type": lambda x: "diou"}, "iou_type must be one of giou"),
        ({"focal_gamma": lambda x: 0.5}, "focal_gamma must be 0 or at least 1"),
        ({"focal_gamma": lambda x: float("nan")}, "focal_gamma must be 0 or at least 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    names = ("cls_logits", "box_ltrb", "obj_logits", "gt_boxes", "gt_classes", "mu", "sigma", "strides")
    arguments = dict(zip(names, make_case(*TRUTHS["overlapping classes"])[0], strict=True))
    for name, function in change.items():
        arguments[name] = function(arguments.get(name))
    with pytest.raises(ValueError, match=message):
        quality_weighted_loss(**arguments)
