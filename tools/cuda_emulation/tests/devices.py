"""The deformable convolution's CUDA kernels as each kind of device runs them: only the emulation can pretend to be one.

Not collected by itself: tools/cuda_emulation/run.sh runs it beside tests/ops.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor

from fa_detectron.ops import deform_conv2d
from tests.ops.deform_loops import Case, make_case
from tests.ops.test_deform_conv import gradients

assert "FA_EMULATION_ORDER" in os.environ, "tools/cuda_emulation/run.sh runs this file"
DEVICES = ["9.0", "8.0", "8.9", "7.5"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
FORMATS = [torch.contiguous_format, torch.channels_last]
# Maps wider and narrower than the kernels' patches, of sizes that are and are not multiples of a vector.
CHUNK = "256"  # positions: several chunks of whole rows, whose patches have windows
KINDS = {
    "whole patches": {"c": 64, "o": 16, "size": (16, 32)},
    "parts of patches": {"c": 72, "o": 8, "size": (11, 30)},
    "narrow": {"n": 3, "c": 64, "o": 8, "size": (9, 7)},
    "groups": {"c": 64, "o": 16, "groups": 2, "offset_groups": 2, "size": (9, 26)},
    "stride": {"c": 32, "o": 8, "stride": (2, 2), "dilation": (2, 1), "size": (19, 53)},
    "far offsets": {"c": 64, "o": 8, "size": (17, 25), "spread": 9.0},
    "no mask, large kernel": {"c": 16, "o": 4, "kernel": (5, 4), "padding": (2, 2), "masked": False, "size": (9, 26)},
}


def assert_right(case: Case, dtype: torch.dtype, found: list[Tensor]) -> None:
    """Against torchvision in float64, from the same rounded values."""
    output, wanted = gradients(torchvision.ops.deform_conv2d, case.to(torch.float64))
    eps = max(torch.finfo(dtype).eps, 1e-6 if dtype == torch.float32 else 1e-12)
    for mine, theirs in zip(found, [output, *wanted], strict=True):
        assert mine.dtype in (dtype, torch.float32)
        torch.testing.assert_close(mine.double(), theirs, rtol=8 * eps, atol=8 * eps * theirs.abs().max().item())


def make(kind: str, dtype: torch.dtype, memory_format: torch.memory_format) -> Case:
    case = make_case(**KINDS[kind], dtype=torch.float32)
    points = {"offset": case.offset, "mask": case.mask}
    case = case.to(dtype)
    if dtype in (torch.bfloat16, torch.float16):  # float32, as autocast has them
        case.offset, case.mask = points.values()
    case.input = case.input.contiguous(memory_format=memory_format)
    return case


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("device", DEVICES)
def test_values_and_gradients(
    device: str, dtype: torch.dtype, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FA_EMULATION_DEVICE", device)
    monkeypatch.setenv("FA_CUDA_CHUNK", CHUNK)
    every = device == "9.0" and dtype != torch.float64  # tests/ops runs in float64
    for kind in KINDS if every else ["parts of patches"]:
        case = make(kind, dtype, memory_format)
        output, found = gradients(deform_conv2d, case)
        assert_right(case, dtype, [output, *found])


def kernels_of(case: Case, log: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The kernels that forward and backward launch, by name, those of the scatter with their template arguments."""
    with monkeypatch.context() as patched:
        patched.setenv("FA_EMULATION_LOG", str(log))
        gradients(deform_conv2d, case)
    launches = [json.loads(line) for line in log.read_text().splitlines()]
    log.unlink()
    names = {launch["kernel"].partition("<")[0]: launch["caller"].partition("[with ")[2] for launch in launches}
    return {name + (f" {text}" if name in ("scatter_kernel", "window_kernel") else "") for name, text in names.items()}


@pytest.mark.parametrize(
    ("device", "dtype", "kernel", "words"),
    [
        ("9.0", torch.bfloat16, "window_kernel", "kVectors = true"),
        ("8.0", torch.bfloat16, "window_kernel", "kVectors = false"),
        ("8.9", torch.float32, "scatter_kernel", "kAdded = 1; bool kFixed = false"),
        ("9.0", torch.float64, "scatter_kernel", "kAdded = 1; bool kFixed = false"),
        ("9.0", "memory", "scatter_kernel", "kAdded = 4; bool kFixed = false"),
        ("9.0", "deterministic", "scatter_kernel", "kAdded = 1; bool kFixed = true"),
    ],
)
def test_each_device_runs_the_kernels_that_it_should(
    device: str, dtype: torch.dtype | str, kernel: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FA_EMULATION_DEVICE", device)
    monkeypatch.setenv("FA_CUDA_CHUNK", CHUNK)
    if dtype == "memory":
        monkeypatch.setenv("FA_CUDA_SCATTER", "memory")
    torch.use_deterministic_algorithms(dtype == "deterministic")
    try:
        case = make("whole patches", torch.float32 if isinstance(dtype, str) else dtype, torch.contiguous_format)
        launched = kernels_of(case, tmp_path / "log", monkeypatch)
    finally:
        torch.use_deterministic_algorithms(False)
    (scatter,) = (text for text in launched if text.startswith(("scatter", "window")))
    assert scatter.startswith(kernel) and words in scatter
    assert launched - {scatter} == {"planes_to_rows_kernel", "rows_to_planes_kernel", "columns_kernel", "points_kernel"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_in_memory_by_vectors(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FA_CUDA_SCATTER", "memory")
    case = make("parts of patches", dtype, torch.contiguous_format)
    output, found = gradients(deform_conv2d, case)
    assert_right(case, dtype, [output, *found])


@pytest.mark.parametrize("number", ["1", "7", "64", "100000"])
def test_any_size_of_chunk(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FA_CUDA_CHUNK", number)
    case = make("narrow", torch.bfloat16, torch.contiguous_format)
    output, found = gradients(deform_conv2d, case)
    assert_right(case, torch.bfloat16, [output, *found])


@pytest.mark.parametrize("number", ["0", "-1", "many", "1e3", "2000000"])
def test_a_chunk_of_no_size_is_refused(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FA_CUDA_CHUNK", number)
    with pytest.raises(ValueError, match=f"FA_CUDA_CHUNK={number} is no number of positions"):
        deform_conv2d(*make_case().arguments())


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", DTYPES)
def test_deterministic_mode(dtype: torch.dtype) -> None:
    case = make("parts of patches", dtype, torch.contiguous_format)
    output, found = gradients(deform_conv2d, case)
    assert_right(case, dtype, [output, *found])
    for again in (gradients(deform_conv2d, case) for _ in range(2)):  # each in another order of threads and blocks
        assert all(torch.equal(mine, same) for mine, same in zip([output, *found], [again[0], *again[1]], strict=True))


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["upstream", "weight", "mask"])
def test_in_deterministic_mode_no_number_is_left_beside_one_that_is_not_finite(name: str, value: float) -> None:
    # Every image is a block of its own; the first ones are closed before the last one's value is met.
    case = make_case(n=4, c=64, size=(12, 12), dtype=torch.float32).leaves()
    upstream = torch.ones(4, 6, 12, 12)
    with torch.no_grad():
        {"upstream": upstream, "weight": case.weight, "mask": case.mask}[name][-1, -1, 1, 1] = value
    output = deform_conv2d(*case.arguments())
    assert torch.autograd.grad(output, case.input, upstream)[0].isnan().all()
