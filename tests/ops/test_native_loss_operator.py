"""The native loss as a PyTorch operator: registration, threads, instruction sets, autocast, refusals."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fa_detectron.ops import native, quality_weighted_loss
from tests.ops.loss_cases import evaluate, make_case

pytestmark = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")


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


def operator_arguments(arguments):
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
        backward = (*for_loss, torch.tensor([1.0, 0.5, 2.0]), *outputs, hold_negative)
        torch.library.opcheck(operators.quality_loss_backward.default, backward)


def test_compiles_as_one_graph():
    torch._dynamo.reset()
    arguments = make_case(dtype=torch.float32)
    compiled = torch.compile(quality_weighted_loss, fullgraph=True, backend="aot_eager")
    for case in (arguments, make_case(dtype=torch.float32, counts=(5, 2), seed=1)):
        found, expected = evaluate(compiled, case), evaluate(quality_weighted_loss, case)
        assert all(torch.equal(f, e) for f, e in zip(itertools.chain(*found), itertools.chain(*expected)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(dtype):
    arguments = make_case(dtype=torch.float32)
    half = [[x.to(dtype) for x in group] for group in arguments[:3]]
    expected = quality_weighted_loss(*[[x.float() for x in group] for group in half], *arguments[3:])
    with torch.autocast("cpu", dtype):
        found = quality_weighted_loss(*half, *arguments[3:])
        direct = torch.ops.fa_detectron.quality_statistics(
            *half, *arguments[3:7], [8.0, 16.0], 0.0, True, True, 5.0, "giou"
        )
        _, for_loss = operator_arguments([*half, *arguments[3:]])
        losses = torch.ops.fa_detectron.quality_loss(*for_loss)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert direct[1].dtype == torch.float32
    assert losses.dtype == torch.float32 and torch.equal(losses[2], expected["loss_norm"])  # without a divisor


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_layout_of_divisors_and_upstream_gradient(dtype):
    """The sum of the losses sends the same number back to all three, with a stride of 0."""
    _, for_loss = operator_arguments(make_case(dtype=dtype))
    leaves = [x.requires_grad_() for levels in for_loss[:3] for x in levels]
    loss = torch.ops.fa_detectron.quality_loss
    expected = torch.autograd.grad(loss(*for_loss), leaves, torch.ones(3, dtype=dtype))
    divisors = torch.stack([for_loss[9], torch.full((2,), 77.0, dtype=torch.float64)], dim=1)[:, 0]
    losses = loss(*for_loss[:9], divisors, *for_loss[10:])
    assert torch.equal(losses, loss(*for_loss))
    assert all(torch.equal(f, e) for f, e in zip(torch.autograd.grad(losses.sum(), leaves), expected))


def test_the_operator_refuses_wrong_classes_and_shapes():
    arguments = make_case()
    for_statistics, for_loss = operator_arguments(arguments)
    wrong = list(for_statistics)
    wrong[4] = [torch.full_like(x, 4) for x in arguments[4]]
    with pytest.raises(ValueError, match=r"gt_classes\[0\]\[0\] = 4 is not in \[0, 4\)"):
        torch.ops.fa_detectron.quality_statistics(*wrong)
    wrong = list(for_statistics)
    wrong[1] = [x[:, :3] for x in arguments[1]]
    with pytest.raises(ValueError, match=r"box_ltrb\[0\] must be \(2, 4, 7, 9\)"):
        torch.ops.fa_detectron.quality_statistics(*wrong)
    wrong = list(for_loss)
    wrong[7] = wrong[7][:1]
    with pytest.raises(ValueError, match="statistics and max_iou must be what quality_statistics returned"):
        torch.ops.fa_detectron.quality_loss(*wrong)


def test_a_class_that_is_none_is_refused():
    """On the host, or where that cannot look without waiting, by a kernel (here: the emulated one)."""
    for_statistics, _ = operator_arguments(make_case(counts=(3,)))
    for_statistics[3][0][:] = torch.tensor([2.0, 2.0, 40.0, 30.0])
    for_statistics[4][0][1:] = torch.tensor([4, -1])
    words = r"gt_classes\[0\]\[1\] = 4 is not in \[0, 4\)|a condition that a kernel requires is false"
    with pytest.raises((ValueError, RuntimeError), match=words):  # a kernel's failure is a RuntimeError
        torch.ops.fa_detectron.quality_statistics(*for_statistics)


def test_the_statistics_of_a_box_without_location_are_0():
    arguments = make_case(counts=(2,))
    arguments[3] = [torch.tensor([[2.0, 2.0, 40.0, 30.0], [9.0, 9.0, 11.0, 11.0]], dtype=torch.float64)]
    for_statistics, _ = operator_arguments(arguments)
    statistics, _, _ = torch.ops.fa_detectron.quality_statistics(*for_statistics)
    assert statistics[0].any() and not statistics[1].any()


CAPABILITY_CHECK = """
import torch
from fa_detectron.ops import native
from tests.ops import loss_cases, test_native_loss, test_native_loss_operator
assert native.status().cpu_capability == "{level}", native.status()
case = loss_cases.make_case(((40, 53), (20, 27)), counts=(12, 0), classes=5, dtype=torch.float32)
for iou_type in ("giou", "linear_iou", "iou"):
    for options in loss_cases.METHODS.values():
        loss_cases.assert_agrees(case, 1e-4, torch.float64, iou_type=iou_type, **options)
loss_cases.assert_agrees(loss_cases.make_case(), 1e-9)
test_native_loss_operator.test_the_same_bits_for_any_number_of_threads(torch.float32)
test_native_loss.test_saturated_logits_agree()
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


def test_a_tangent_is_refused_in_words():
    (first, *rest), *others = make_case()

    def loss(logits):
        return quality_weighted_loss([logits, *rest], *others)["loss_pos"]

    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(loss, (first.detach(),), (torch.ones_like(first),))
