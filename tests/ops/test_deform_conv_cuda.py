"""The deformable convolution on a GPU: against the CPU in float64, its streams and devices, determinism, autocast."""

import os
from collections.abc import Iterator

import pytest
import torch
import torchvision

from fa_detectron.ops import deform_conv2d, deform_conv2d_levels, native
from tests.ops.deform_loops import Case, make_case
from tests.ops.test_deform_conv import KINDS, gradients
from tests.ops.test_deform_conv_layouts import LAYOUTS, channels_last
from tests.ops.test_deform_conv_levels import make_levels, run

# PyTorch asks for this in the deterministic mode; it is read at the first product.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype: torch.dtype) -> None:
    case = on(make_case(c=40, dtype=torch.float32).to(dtype), "cuda")
    output, found = gradients(deform_conv2d, case)
    expected, wanted = gradients(deform_conv2d, case.to(torch.float32))
    eps = torch.finfo(dtype).eps
    for mine, theirs in zip([output, *found], [expected, *wanted], strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.float(), theirs, rtol=4 * eps, atol=4 * eps * theirs.abs().max().item())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout) -> None:
    case = on(make_case(c=36), "cuda")
    expected, wanted = gradients(deform_conv2d, case)
    for name in ("input", "offset", "weight", "mask"):
        setattr(case, name, layout(getattr(case, name)).detach())
    leaves = [x.requires_grad_() for x in case.tensors()]
    output = deform_conv2d(*case.arguments())
    upstream = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape).cuda()
    torch.testing.assert_close(output, expected)
    for mine, theirs in zip(torch.autograd.grad(output, leaves, upstream), wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_batch_of_no_image() -> None:
    output, found = gradients(deform_conv2d, on(make_case(n=0), "cuda"))
    assert output.numel() == 0 and all(not gradient.any() for gradient in found)


def test_an_expanded_batch_and_only_the_gradients_asked_for() -> None:
    case = on(make_case(n=1), "cuda")
    once = deform_conv2d(*case.arguments())
    for name in ("input", "offset", "mask"):
        setattr(case, name, getattr(case, name).expand(3, -1, -1, -1))
    torch.testing.assert_close(deform_conv2d(*case.arguments()), once.expand(3, -1, -1, -1))
    _, wanted = gradients(deform_conv2d, case)
    for place, name in enumerate(("input", "offset", "weight", "bias", "mask")):
        leaf = getattr(case, name).detach().clone().requires_grad_()
        output = deform_conv2d(*(case.__dict__ | {name: leaf}).values())
        upstream = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape).cuda()
        torch.testing.assert_close(torch.autograd.grad(output, leaf, upstream)[0], wanted[place])


def test_a_cuda_graph_follows_new_values() -> None:
    case = on(make_case(c=40, dtype=torch.float32), "cuda")
    fresh = torch.randn_like(case.input)
    expected = deform_conv2d(*case.arguments())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        deform_conv2d(*case.arguments())
    torch.cuda.current_stream().wait_stream(stream)
    kept, graph = case.input.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = deform_conv2d(*case.arguments())
    for values in (fresh, kept):
        case.input.copy_(values)
        graph.replay()
        torch.testing.assert_close(output, deform_conv2d(*case.arguments()))
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [("offset", "offset is on cpu"), ("weight", "weight is on cpu"), ("input", "weight is on cuda.*input on cpu")],
)
def test_a_tensor_on_the_cpu_is_refused_in_words(name: str, words: str) -> None:
    case = on(make_case(), "cuda")
    setattr(case, name, getattr(case, name).cpu())
    with pytest.raises(ValueError, match=words):
        torch.ops.fa_detectron.deform_conv2d(
            case.input, case.weight, case.offset, case.mask, case.bias, [1, 1], [1, 1], [1, 1]
        )


def test_the_current_stream_is_used() -> None:
    case = on(make_case(c=64, size=(64, 64), dtype=torch.float32), "cuda")
    expected = deform_conv2d(*case.arguments())
    late = torch.zeros_like(case.input)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # cycles: work on another stream would read the zeros
        late.copy_(case.input)
        found = deform_conv2d(late, *case.arguments()[1:])
    stream.synchronize()
    torch.testing.assert_close(found, expected)


def test_the_inputs_device_is_used() -> None:
    device = f"cuda:{torch.cuda.device_count() - 1}"  # another than the current one, where there are several
    case = make_case()
    found = deform_conv2d(*on(case, device).arguments())
    assert found.device == torch.device(device)
    torch.testing.assert_close(found.cpu(), deform_conv2d(*case.arguments()))


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_deterministic_mode_gives_the_same_bits(dtype: torch.dtype, layout: torch.memory_format) -> None:
    # Offsets of this spread let thousands of samples meet in a pixel of the small map.
    case = on(make_case(n=2, c=64, o=32, size=(40, 56), spread=30.0, dtype=torch.float32).to(dtype), "cuda")
    case.input = case.input.contiguous(memory_format=layout)
    upstream = torch.randn(2, 32, 40, 56, generator=torch.Generator().manual_seed(1)).to(dtype)

    def backward(case: Case) -> list[torch.Tensor]:
        leaves = case.leaves()
        output = deform_conv2d(*leaves.arguments())
        return list(torch.autograd.grad(output, leaves.tensors(), upstream.to(output)))

    found = backward(case)
    for _ in range(5):
        assert all(torch.equal(mine, again) for mine, again in zip(found, backward(case), strict=True))
    wanted = backward(on(case, "cpu").to(torch.float64))
    rtol = 1e-4 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.cpu().double(), theirs, rtol=rtol, atol=rtol * theirs.abs().max().item())


@pytest.mark.usefixtures("deterministic")
def test_deterministic_mode_hides_no_overflow() -> None:
    case = on(make_case(c=40, dtype=torch.float32), "cuda").leaves()
    output = deform_conv2d(*case.arguments())
    upstream = torch.zeros_like(output)
    upstream[0, 0, 2, 2] = float("inf")
    assert not torch.autograd.grad(output, case.input, upstream)[0].isfinite().all()


def extra_bytes(call) -> int:
    """What one warm call takes at its peak, its results included."""
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_workspace_is_bounded(dtype: torch.dtype, layout: torch.memory_format) -> None:
    # 4 images of 100 x 168: the columns of all positions would take 591 MiB in float32.
    case = on(make_case(n=4, c=256, o=256, size=(100, 168), dtype=torch.float32).to(dtype), "cuda")
    for name in ("input", "weight"):
        setattr(case, name, getattr(case, name).contiguous(memory_format=layout))
    case.offset, case.mask = case.offset.float(), case.mask.float()
    case, mib = case.leaves(), 2**20
    result = sum(x.numel() * x.element_size() for x in case.tensors())
    output = deform_conv2d(*case.arguments())
    bytes_of_output = output.numel() * output.element_size()
    grad = torch.ones_like(output)
    # The columns of 8400 positions and what cuBLAS may take (32 MiB); contiguous: a chunk's product, and a block of the
    # input as (H, W, C).
    columns = 8400 * 9 * 256 * case.input.element_size() / mib
    with torch.no_grad():
        forward = extra_bytes(lambda: deform_conv2d(*case.arguments())) - bytes_of_output
    assert forward <= (columns + 34 + (0 if layout == torch.channels_last else 42)) * mib
    # Also the sums of a block's gradient in float32, and the weight's gradient with its chunks' in half precision.
    backward = extra_bytes(lambda: torch.autograd.grad(output, case.tensors(), grad, retain_graph=True)) - result
    assert backward <= (columns + 34 + 42 + 34 + 20) * mib


def test_channels_last_is_neither_copied_nor_left() -> None:
    case = on(make_case(c=64, o=64, size=(64, 64), dtype=torch.float32), "cuda")
    case.input, case.weight = channels_last(case.input), channels_last(case.weight)
    case = case.leaves()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        output = deform_conv2d(*case.arguments())
        upstream = torch.ones_like(output)
        gradient = torch.autograd.grad(output, case.input, upstream)[0]
    for tensor in (output, gradient):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    names = [event.key for event in profile.key_averages()]
    assert any("points_kernel" in name for name in names)
    copies = ("to_rows_kernel", "from_rows_kernel", "rows_to_planes_kernel")
    assert not any(copy in name for name in names for copy in copies)


def test_a_call_waits_for_nothing() -> None:
    case = on(make_case(c=64, size=(64, 64), dtype=torch.float32), "cuda")
    gradients(deform_conv2d, case)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for deterministic in (False, True):
            torch.use_deterministic_algorithms(deterministic)
            leaves = case.leaves()
            deform_conv2d(*leaves.arguments()).sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("offset_groups", [1, 2])
@pytest.mark.parametrize("channels", [8, 12, 64])
def test_chunks_meet_within_an_image(channels: int, offset_groups: int) -> None:
    # More columns than are made at a time, in chunks that end in the middle of a row.
    kernel = 16  # 256 taps
    side = 40 + kernel - 1
    case = make_case(
        n=2, c=channels, o=3, size=(side, side), kernel=(kernel, kernel), padding=(0, 0), offset_groups=offset_groups,
        masked=False, dtype=torch.float32,
    )  # fmt: skip
    case.offset = (16 * case.offset).round() / 16 + 1 / 32  # float32 holds the coordinates, too
    expected, wanted = gradients(torchvision.ops.deform_conv2d, on(case.to(torch.float64), "cuda"))
    output, found = gradients(deform_conv2d, on(case, "cuda"))
    for mine, theirs in zip([output, *found], [expected, *wanted], strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())
