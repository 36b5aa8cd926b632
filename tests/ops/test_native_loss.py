"""The native loss against the plain-PyTorch reference, and its manners as a PyTorch operator."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fa_detectron.ops import native, quality_weighted_loss, reference

pytestmark = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")

METHODS = {
    "AutoAssign": {"feature_filter": False, "quality_prior": False},
    "FeatureAlign": {"feature_filter": True, "quality_prior": True},
}
WEIGHTS = {"loss_pos": 1.0, "loss_neg": -2.0, "loss_norm": 3.0}  # upstream gradients that differ


def make_case(
    sizes=((7, 9), (4, 5)), strides=(8, 16), counts=(3, 1), classes=4, mdq=True, dtype=torch.float64, seed=0, spread=1.0
):
    """Arguments of the loss: head maps of the given (H, W) a level, ``counts`` boxes an image."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    n, extent = len(counts), torch.tensor([sizes[0][1], sizes[0][0]]) * float(strides[0])
    maps = (
        [(normal(n, classes, *size) * spread).to(dtype) for size in sizes],
        [((normal(n, 4, *size).abs() * 1.5 * s) + 0.1).to(dtype) for size, s in zip(sizes, strides)],
        [(normal(n, 1, *size) * spread).to(dtype) for size in sizes],
    )
    boxes = []
    for count in counts:
        centre = torch.rand(count, 2, generator=generator, dtype=torch.float64) * extent
        half = torch.rand(count, 2, generator=generator, dtype=torch.float64) * extent / 2
        boxes.append(torch.cat([centre - half, centre + half], dim=1).to(dtype))
    labels = [torch.randint(0, classes, (count,), generator=generator) for count in counts]
    shape = (len(sizes), classes, 2) if mdq else (classes, 2)
    mu, sigma = (0.3 * normal(*shape)).to(dtype), (1 + 0.2 * normal(*shape)).to(dtype)
    return [*maps, boxes, labels, mu, sigma, strides]


def evaluate(function, arguments, weights=WEIGHTS, **options):
    """The three losses and the gradients of their weighted sum by all float inputs."""
    cls, box, obj, boxes, labels, mu, sigma, strides = arguments
    leaves = [
        x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in (*cls, *box, *obj, mu, sigma)
    ]
    levels = len(cls)
    maps = [leaves[i * levels : (i + 1) * levels] for i in range(3)]
    losses = function(*maps, boxes, labels, *leaves[-2:], strides, **options)
    total = sum(weights[name] * value for name, value in losses.items())
    return [*losses.values()], torch.autograd.grad(total, leaves)


def relative_error(found, expected):
    if found.numel() == 0:
        return 0.0
    # A gradient that is exactly 0 everywhere has no scale of its own.
    return ((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-20)).item()


def assert_agrees(arguments, tolerance, oracle_dtype=None, **options):
    found = evaluate(quality_weighted_loss, arguments, **options)
    if oracle_dtype is not None:
        cls, box, obj, boxes, labels, mu, sigma, strides = arguments
        wide = [[x.to(oracle_dtype) for x in group] for group in (cls, box, obj, boxes)]
        arguments = [*wide, labels, mu.to(oracle_dtype), sigma.to(oracle_dtype), strides]
    expected = evaluate(reference.quality_weighted_loss, arguments, **options)
    errors = [relative_error(f, e) for found_part, part in zip(found, expected) for f, e in zip(found_part, part)]
    assert max(errors) < tolerance, errors


@given(
    heights=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=3),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    classes=st.integers(1, 5),
    mdq=st.booleans(),
    method=st.sampled_from(sorted(METHODS)),
    iou_type=st.sampled_from(["giou", "linear_iou", "iou"]),
    offset=st.sampled_from([0.0, 0.5]),
    gamma=st.sampled_from([2.0, 1.5, 0.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_agrees_with_the_reference(heights, counts, classes, mdq, method, iou_type, offset, gamma, seed):
    arguments = make_case(heights, [8 * 2**i for i in range(len(heights))], counts, classes, mdq, seed=seed)
    options = {"iou_type": iou_type, "location_offset": offset, "focal_gamma": gamma, **METHODS[method]}
    assert_agrees(arguments, 1e-9, **options)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("iou_type", ["giou", "linear_iou", "iou"])
def test_float32_is_as_close_to_the_exact_values_as_promised(method, iou_type):
    arguments = make_case(((40, 53), (20, 27)), counts=(12, 0, 30), classes=7, dtype=torch.float32)
    assert_agrees(arguments, 1e-4, torch.float64, iou_type=iou_type, **METHODS[method])


def test_many_boxes_over_several_chunks():
    assert_agrees(make_case(((60, 70), (30, 35)), counts=(150,), classes=3), 1e-9)


def test_boxes_of_one_location():
    """Their prior weight is 1 whatever the rounding: the value is its own extreme."""
    arguments = make_case(counts=(6,), classes=1, dtype=torch.float32)
    corner = torch.tensor([[8.0, 8], [16, 24], [40, 8], [24, 32], [32, 40], [56, 16]])
    arguments[3] = [torch.cat([corner - 3, corner + 4], dim=1)]
    assert_agrees(arguments, 1e-4, torch.float64)


def test_saturated_logits_agree():
    arguments = make_case(dtype=torch.float32, spread=60.0)
    assert_agrees(arguments, 1e-4)
    for level in (*arguments[0], *arguments[2]):
        level.copy_(torch.where(level > 0, 100.0, -100.0))
    assert_agrees(arguments, 1e-4)


@pytest.mark.parametrize("iou_type", ["giou", "linear_iou"])
def test_equal_sides_share_the_gradient(iou_type):
    """Predictions that touch sides of their box exactly: min and max tie."""
    arguments = make_case(counts=(1, 1))
    arguments[3] = [torch.tensor([[4.0, 4.0, 44.0, 36.0]], dtype=torch.float64)] * 2
    for level, stride in zip(arguments[1], arguments[7]):
        _, _, height, width = level.shape
        x, y = torch.arange(width) * float(stride), torch.arange(height).unsqueeze(1) * float(stride)
        for index, side in enumerate((x - 4 + 0 * y, y - 4 + 0 * x, 44 - x + 0 * y, 36 - y + 0 * x)):
            level[0, index] = side.clamp(min=0) + (1 if index == 2 else 0)
            level[1, index] = side.clamp(min=0)
    assert_agrees(arguments, 1e-9, iou_type=iou_type)


def test_boxes_of_no_extent():
    arguments = make_case()
    for level in arguments[1]:
        level.zero_()
    assert_agrees(arguments, 1e-9)
    arguments[3][0][0] = torch.tensor([20.0, 20.0, 10.0, 10.0])  # inverted: holds no location
    assert_agrees(arguments, 1e-9)


def test_a_small_sigma_has_no_gradient():
    arguments = make_case()
    arguments[6][0, :, 0] = torch.tensor([0.0, 1e-4, -1e-3, -1.0])
    assert_agrees(arguments, 1e-9)


@pytest.mark.parametrize("place", [0, 1, 2, 3, 5, 6], ids=["cls", "box", "obj", "gt_boxes", "mu", "sigma"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_bad_numbers_do_not_crash_and_a_nan_shows(place, value):
    arguments = make_case(counts=(4, 2))
    target = arguments[place]
    for tensor in target if isinstance(target, list) else [target]:
        tensor.view(-1)[::3] = value
    losses, gradients = evaluate(quality_weighted_loss, arguments)
    expected, _ = evaluate(reference.quality_weighted_loss, arguments)
    assert all(gradient is not None for gradient in gradients)
    if place == 3:
        return  # such a box holds no location, or all; what its overlaps are is nobody's business
    if value != value:
        assert torch.isnan(sum(losses))
    assert [torch.isnan(x).item() for x in losses] == [torch.isnan(x).item() for x in expected]


@pytest.mark.parametrize("layout", ["channels_last", "expanded", "strided"])
def test_any_layout(layout):
    arguments = make_case(counts=(2, 2))
    expected, _ = evaluate(quality_weighted_loss, arguments)
    change = {
        "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "expanded": lambda x: x[:1].expand_as(x),
        "strided": lambda x: torch.stack([x, x], dim=-1)[..., 0],
    }[layout]
    for group in arguments[:3]:
        group[:] = [change(x) for x in group]
    arguments[3] = [change(torch.stack([x, x]))[0] if layout == "strided" else x for x in arguments[3]]
    if layout == "expanded":
        assert_agrees(arguments, 1e-9)
        return
    found, gradients = evaluate(quality_weighted_loss, arguments)
    assert all(torch.equal(f, e) for f, e in zip(found, expected))
    assert all(torch.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_bits_for_any_number_of_threads(dtype):
    arguments = make_case(((50, 67), (25, 34)), counts=(20, 9), classes=6, dtype=dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            results.append(evaluate(quality_weighted_loss, arguments))
    finally:
        torch.set_num_threads(before)
    for losses, gradients in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(itertools.chain(*results[0]), [*losses, *gradients]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", WEIGHTS)
def test_gradcheck(method, loss):
    """Of one loss; the negative loss's M has no gradient by definition, so its inputs are held where M comes from."""
    cls, box, obj, boxes, labels, mu, sigma, strides = make_case(((3, 4), (2, 2)), counts=(2, 1), classes=2)
    free = {"loss_pos": (cls, box, obj, [mu], [sigma]), "loss_neg": (cls, obj), "loss_norm": ([mu], [sigma])}[loss]
    leaves = [x.requires_grad_() for group in free for x in group]
    normalizers = (3.0, 5.0)  # from the batch they would move with mu and sigma, without a gradient

    def value(*_):
        return quality_weighted_loss(
            cls, box, obj, boxes, labels, mu, sigma, strides, normalizers=normalizers, **METHODS[method]
        )[loss]

    # Perturbs the leaves in place: the function reads them from its closure.
    assert torch.autograd.gradcheck(value, leaves, atol=1e-7, rtol=1e-5)


def operator_arguments(arguments, **changes):
    """As the operators take them: of quality_statistics and of quality_loss."""
    options = [list(map(float, arguments[7])), 0.0, True, True, 5.0, "giou"]
    shared = arguments[:7]
    with torch.no_grad():
        statistics, max_iou, background = torch.ops.fa_detectron.quality_statistics(*shared, *options)
    divisors = torch.tensor([3.0, background.item()], dtype=torch.float64)
    return (*shared, *options), (*shared, statistics, max_iou, divisors, *options, 0.25, 2.0)


def test_opcheck():
    arguments = make_case(dtype=torch.float32)
    for_statistics, for_loss = operator_arguments(arguments)
    operators = torch.ops.fa_detectron
    torch.library.opcheck(operators.quality_statistics.default, for_statistics)
    for tensor in (*arguments[0], *arguments[1], *arguments[2], arguments[5], arguments[6]):
        tensor.requires_grad_()
    torch.library.opcheck(operators.quality_loss.default, for_loss)
    for tensor in (*arguments[0], *arguments[1], *arguments[2], arguments[5], arguments[6]):
        tensor.requires_grad_(False)
    for with_gradient in (False, True):
        torch.library.opcheck(operators.quality_loss_forward.default, (*for_loss, with_gradient))
    _, *negative = operators.quality_loss_forward(*for_loss, True)
    for hold_negative in (False, True):
        cls, obj = ([x.clone() for x in levels] for levels in negative)
        outputs = (cls, [torch.empty_like(x) for x in for_loss[1]], obj, *map(torch.empty_like, for_loss[5:7]))
        backward = (torch.tensor([1.0, 0.5, 2.0]), *for_loss, *outputs, hold_negative)
        torch.library.opcheck(operators.quality_loss_backward.default, backward)


def test_compiles_as_one_graph():
    torch._dynamo.reset()
    arguments = make_case(dtype=torch.float32)
    compiled = torch.compile(quality_weighted_loss, fullgraph=True, backend="aot_eager")
    for case in (arguments, make_case(dtype=torch.float32, counts=(5, 2), seed=1)):
        found, expected = evaluate(compiled, case), evaluate(quality_weighted_loss, case)
        assert all(torch.equal(f, e) for f, e in zip(itertools.chain(*found), itertools.chain(*expected)))


def test_autocast_computes_in_float32():
    arguments = make_case(dtype=torch.float32)
    half = [[x.bfloat16() for x in group] for group in arguments[:3]]
    expected = quality_weighted_loss(*[[x.float() for x in group] for group in half], *arguments[3:])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quality_weighted_loss(*half, *arguments[3:])
        direct = torch.ops.fa_detectron.quality_statistics(
            *half, *arguments[3:7], [8.0, 16.0], 0.0, True, True, 5.0, "giou"
        )
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert direct[1].dtype == torch.float32


def test_a_second_derivative_is_refused_in_words():
    arguments = make_case()
    arguments[0][0].requires_grad_()
    loss = quality_weighted_loss(*arguments)["loss_neg"]
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, arguments[0][0], create_graph=True)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_second_backward_gives_the_same_gradients(scale):
    """The first one has used up what forward left for it."""
    arguments = make_case(dtype=torch.float32)
    leaves = [x.requires_grad_() for levels in arguments[:3] for x in levels]
    loss = scale * sum(quality_weighted_loss(*arguments).values())
    first = [x.clone() for x in torch.autograd.grad(loss, leaves, retain_graph=True)]
    second = torch.autograd.grad(loss, leaves, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    third = torch.autograd.grad(loss, leaves)
    assert all(torch.equal(a, b) for a, b in zip(first, third))


def test_the_operator_refuses_wrong_classes_and_shapes():
    arguments = make_case()
    for_statistics, for_loss = operator_arguments(arguments)
    wrong = list(for_statistics)
    wrong[4] = [torch.full_like(x, 4) for x in arguments[4]]
    with pytest.raises(RuntimeError, match=r"gt_classes\[0\]\[0\] = 4 is not in \[0, 4\)"):
        torch.ops.fa_detectron.quality_statistics(*wrong)
    wrong = list(for_statistics)
    wrong[1] = [x[:, :3] for x in arguments[1]]
    with pytest.raises(RuntimeError, match=r"box_ltrb\[0\] must be \(2, 4, 7, 9\)"):
        torch.ops.fa_detectron.quality_statistics(*wrong)
    wrong = list(for_loss)
    wrong[7] = wrong[7][:1]
    with pytest.raises(RuntimeError, match="statistics and max_iou must be what quality_statistics returned"):
        torch.ops.fa_detectron.quality_loss(*wrong)


CAPABILITY_CHECK = """
import torch
from fa_detectron.ops import native
from tests.ops import test_native_loss as here
assert native.status().cpu_capability == "{level}", native.status()
case = here.make_case(((40, 53), (20, 27)), counts=(12, 0), classes=5, dtype=torch.float32)
for iou_type in ("giou", "linear_iou", "iou"):
    for options in here.METHODS.values():
        here.assert_agrees(case, 1e-4, torch.float64, iou_type=iou_type, **options)
here.assert_agrees(here.make_case(), 1e-9)
here.test_the_same_bits_for_any_number_of_threads(torch.float32)
here.test_saturated_logits_agree()
"""


def run_python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("level", ["default", "avx2", "avx512"])
def test_every_instruction_set(level):
    run = run_python(CAPABILITY_CHECK.format(level=level), FA_CPU_CAPABILITY=level)
    if "but this processor goes up to" in run.stderr:
        return  # nothing to hold: the operator has refused in words
    assert run.returncode == 0, run.stderr
