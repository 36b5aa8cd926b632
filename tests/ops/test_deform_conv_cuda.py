"""The deformable convolution on a GPU: against the CPU in float64, its streams and devices, determinism, autocast."""

import pytest
import torch

from fa_detectron.ops import deform_conv2d, deform_conv2d_levels, native
from tests.ops.deform_loops import Case, make_case
from tests.ops.test_deform_conv import KINDS, gradients
from tests.ops.test_deform_conv_levels import make_levels, run

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(
        torch.cuda.is_available() and not native.status().cuda_version, reason="built without CUDA operators"
    ),
]


def on(case: Case, device: str) -> Case:
    return Case(*(value.to(device) if isinstance(value, torch.Tensor) else value for value in case.arguments()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_the_cpus(kind: str, dtype: torch.dtype) -> None:
    case = make_case(**KINDS[kind])
    expected, wanted = gradients(deform_conv2d, case)
    output, found = gradients(deform_conv2d, on(case.to(dtype), "cuda"))
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4
    for mine, theirs in zip([output, *found], [expected, *wanted], strict=True):
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(mine.cpu().double(), theirs, rtol=tolerance, atol=tolerance * scale)


def test_levels() -> None:
    features, raw, weight, bias = make_levels()
    expected, wanted = run(deform_conv2d_levels, features, raw, weight, bias)
    moved = [[t.detach().cuda().requires_grad_() for t in group] for group in (features, raw, (weight, bias))]
    outputs, found = run(deform_conv2d_levels, moved[0], moved[1], *moved[2])
    for mine, theirs in zip(outputs + found, expected + wanted, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype: torch.dtype) -> None:
    case = on(make_case(c=40, dtype=torch.float32), "cuda").leaves()
    with torch.autocast("cuda", dtype):
        output = deform_conv2d(*case.arguments())
    assert output.dtype == dtype
    output.float().sum().backward()
    assert all(tensor.grad.dtype == torch.float32 for tensor in case.tensors())


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_wild_coordinates(value: float) -> None:
    case = make_case(c=40)
    case.offset[:, 0::2] = value
    expected = deform_conv2d(*case.arguments())
    found = deform_conv2d(*on(case, "cuda").arguments()).cpu()
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_the_current_stream_is_used() -> None:
    case = on(make_case(c=64, size=(64, 64), dtype=torch.float32), "cuda")
    expected = deform_conv2d(*case.arguments())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        graph_input = case.input * 1
        found = deform_conv2d(graph_input, *case.arguments()[1:])
    stream.synchronize()
    torch.testing.assert_close(found, expected)


def test_the_inputs_device_is_used() -> None:
    device = f"cuda:{torch.cuda.device_count() - 1}"  # another than the current one, where there are several
    case = make_case()
    found = deform_conv2d(*on(case, device).arguments())
    assert found.device == torch.device(device)
    torch.testing.assert_close(found.cpu(), deform_conv2d(*case.arguments()))


def test_deterministic_mode_names_the_atomics() -> None:
    case = on(make_case(), "cuda")
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="deform_conv2d_backward"):
            gradients(deform_conv2d, case)
    finally:
        torch.use_deterministic_algorithms(False)
