"""What is not asked for is not computed: seen in the memory that the operators allocate, a byte exactly."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from fa_detectron.ops import deform_conv2d, deform_conv2d_levels, native, quality_weighted_loss
from tests.ops import loss_cases
from tests.ops.deform_loops import make_case
from tests.ops.test_deform_conv_levels import make_levels

pytestmark = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
OPS = torch.ops.fa_detectron


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """More channel blocks are worked on together by more threads, which takes more memory."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.no_grad()
def allocated(call: Callable[[], object]) -> int:
    """Bytes of all tensors that the call makes, those it frees again included."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # without a GPU driver the profiler reports an error of its own
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as run:
        call()
    events = [event for event in run.profiler.kineto_results.events() if event.name() == "[memory]"]
    return sum(max(event.nbytes(), 0) for event in events)


class Recorder(TorchDispatchMode):
    """The arguments of an operator's calls."""

    def __init__(self, operator: Callable) -> None:
        super().__init__()
        self.operator, self.calls = operator, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is self.operator:
            self.calls.append(args)
        return function(*args, **(kwargs or {}))


# ---- the operators


def test_the_deformable_convolution_saves_each_gradient() -> None:
    case = make_case(n=1, c=40, o=24, size=(20, 20), dtype=torch.float32)
    tensors = (case.input, case.weight, case.offset, case.mask)
    grad = OPS.deform_conv2d(*tensors, case.bias, [1, 1], [1, 1], [1, 1])

    def backward(needed: list[bool]) -> tuple[Tensor, ...]:
        return OPS.deform_conv2d_backward(grad, *tensors, [1, 1], [1, 1], [1, 1], needed)

    everything = allocated(lambda: backward([True] * 5))
    for left_out, tensor in enumerate((*tensors, case.bias)):
        needed = [index != left_out for index in range(5)]
        assert backward(needed)[left_out].numel() == 0
        assert allocated(lambda: backward(needed)) <= everything - tensor.nbytes  # noqa: B023
    assert allocated(lambda: backward([False] * 4 + [True])) == case.bias.nbytes
    assert allocated(lambda: backward([False] * 5)) == 0


def test_the_convolution_of_levels_saves_each_gradient() -> None:
    features, raw, weight, bias = make_levels(n=1, dtype=torch.float32)
    with torch.no_grad():
        grads = deform_conv2d_levels(features, raw, weight, bias)

    def backward(needed: list[bool]) -> list[Tensor]:
        return OPS.deform_conv2d_levels_backward(grads, features, raw, weight, needed)

    everything = allocated(lambda: backward([True] * 4))
    for left_out, tensors in enumerate((features, raw, [weight], [bias])):
        needed = [index != left_out for index in range(4)]
        assert allocated(lambda: backward(needed)) <= everything - sum(x.nbytes for x in tensors)  # noqa: B023
    assert allocated(lambda: backward([False] * 3 + [True])) == bias.nbytes
    assert allocated(lambda: backward([False] * 4)) == 0


def test_the_loss_makes_no_gradient_where_nobody_asks() -> None:
    arguments = loss_cases.make_case(((40, 50), (20, 25)), classes=20, dtype=torch.float32)
    logits = arguments[0]
    for asked in (False, True):
        for level in logits:
            level.requires_grad_(asked)
        assert allocated(lambda: quality_weighted_loss(*arguments)) < sum(x.nbytes for x in logits)


# ---- what autograd asks them for


@pytest.mark.parametrize("name", ["input", "weight", "offset", "mask", "bias"])
def test_autograd_asks_for_what_has_a_leaf(name: str) -> None:
    case = make_case()
    getattr(case, name).requires_grad_()
    with Recorder(OPS.deform_conv2d_backward.default) as recorder:
        deform_conv2d(*case.arguments()).sum().backward()
    ((*_, needed),) = recorder.calls
    assert needed == [other == name for other in ("input", "weight", "offset", "mask", "bias")]


@pytest.mark.parametrize("place", range(4), ids=["inputs", "offset_masks", "weight", "bias"])
def test_autograd_asks_the_levels_for_what_has_a_leaf(place: int) -> None:
    features, raw, weight, bias = make_levels()
    for index, group in enumerate((features, raw, [weight], [bias])):
        for tensor in group:
            tensor.requires_grad_(index == place)
    with Recorder(OPS.deform_conv2d_levels_backward.default) as recorder:
        sum(x.sum() for x in deform_conv2d_levels(features, raw, weight, bias)).backward()
    ((*_, needed),) = recorder.calls
    assert needed == [index == place for index in range(4)]


def test_the_loss_hands_its_negative_gradients_to_the_first_backward() -> None:
    """Which spares the pass over all classes; a second backward finds them used up."""
    arguments = loss_cases.make_case(dtype=torch.float32)
    leaves = [x.requires_grad_() for x in arguments[0]]
    loss = sum(quality_weighted_loss(*arguments).values())
    with Recorder(OPS.quality_loss_backward.default) as recorder:
        torch.autograd.grad(loss, leaves, retain_graph=True)
        torch.autograd.grad(loss, leaves)
    assert [hold_negative for *_, hold_negative in recorder.calls] == [True, False]
