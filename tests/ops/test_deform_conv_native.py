"""What only the native deformable convolution has: registration, threads, instruction sets, autocast, refusals."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from fa_detectron.ops import deform_conv2d, deform_conv2d_levels, native
from tests.ops.deform_loops import make_case
from tests.ops.test_deform_conv import KINDS, gradients
from tests.ops.test_deform_conv_levels import make_levels

pytestmark = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
OPS = torch.ops.fa_detectron
LEVELS = ["default", "avx2", "avx512"]
AVAILABLE = LEVELS[: LEVELS.index(native.status().cpu_capability) + 1] if native.loaded() else []


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_opcheck(masked: bool, channels_last: bool) -> None:
    case = make_case(masked=masked, biased=masked)
    if channels_last:
        case.input = case.input.contiguous(memory_format=torch.channels_last)
    case = case.leaves()
    arguments = (case.input, case.weight, case.offset, case.mask, case.bias, [1, 1], [1, 1], [1, 1])
    torch.library.opcheck(OPS.deform_conv2d.default, arguments)
    with torch.no_grad():
        grad = OPS.deform_conv2d(*arguments)
        plain = [value.detach() if isinstance(value, torch.Tensor) else value for value in arguments]
        torch.library.opcheck(
            OPS.deform_conv2d_backward.default,
            (grad, *plain[:4], *plain[5:], [True, False, True, masked, True]),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_opcheck_levels() -> None:
    features, raw, weight, bias = make_levels()
    torch.library.opcheck(OPS.deform_conv2d_levels.default, (features, raw, weight, bias))
    with torch.no_grad():
        grads = deform_conv2d_levels(features, raw, weight, bias)
        plain = [t.detach() for t in features], [t.detach() for t in raw], weight.detach()
        torch.library.opcheck(
            OPS.deform_conv2d_levels_backward.default,
            (grads, *plain, [True, True, False, True]),
            test_utils=("test_schema", "test_faketensor"),
        )


def test_compile_without_graph_breaks() -> None:
    features, raw, weight, bias = make_levels(sizes=((5, 6), (3, 3)))

    def step(features, raw, weight, bias):
        levels = deform_conv2d_levels(features, raw, weight, bias)
        single = deform_conv2d(features[0], raw[0][:, :18], weight, bias, padding=1, mask=raw[0][:, 18:])
        return sum(level.square().mean() for level in levels) + single.square().mean()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    inputs = [*features, *raw, weight, bias]
    expected, found = step(features, raw, weight, bias), compiled(features, raw, weight, bias)
    torch.testing.assert_close(found, expected)
    for mine, theirs in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(mine, theirs)


def assert_the_same_bits_for_any_number_of_threads(call: Callable[[], list[torch.Tensor]]) -> None:
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(call())
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(results[0], other, strict=True))


@pytest.mark.parametrize("size", [(9, 11), (40, 50), (100, 101)])
def test_one_and_two_threads_agree_bitwise(size: tuple[int, int]) -> None:
    features, raw, weight, bias = make_levels(n=2, sizes=(size, (3, 4)), dtype=torch.float32)

    def call() -> list[torch.Tensor]:
        outputs = deform_conv2d_levels(features, raw, weight, bias)
        grads = torch.autograd.grad([out.square().sum() for out in outputs], [*features, *raw, weight, bias])
        return [*outputs, *grads]

    assert_the_same_bits_for_any_number_of_threads(call)


@pytest.mark.parametrize(
    "kind", ["many channels", "stride and dilation", "groups", "depthwise", "more taps than a block"]
)
def test_one_and_two_threads_agree_bitwise_off_the_fast_path(kind: str) -> None:
    case = make_case(**KINDS[kind] | {"size": (40, 50)}, dtype=torch.float32)

    def call() -> list[torch.Tensor]:
        output, found = gradients(deform_conv2d, case)
        return [output, *found]

    assert_the_same_bits_for_any_number_of_threads(call)


@pytest.mark.parametrize("capability", AVAILABLE)
def test_every_instruction_set_passes_the_tests(capability: str) -> None:
    files = [f"tests/ops/test_deform_conv{part}.py" for part in ("", "_layouts", "_levels")]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files],
        env=os.environ | {"FA_CPU_CAPABILITY": capability, "CI": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]


def test_an_unknown_instruction_set_is_refused_in_words() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import fa_detectron.ops"],
        env=os.environ | {"FA_CPU_CAPABILITY": "avx10"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0 and "FA_CPU_CAPABILITY=avx10 is not one of" in run.stderr


def test_channels_last_stays_channels_last() -> None:
    case = make_case(c=36, o=8)
    case.input = case.input.contiguous(memory_format=torch.channels_last).requires_grad_()
    output = deform_conv2d(*case.arguments())
    assert output.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(output.sum(), case.input)
    assert grad.is_contiguous(memory_format=torch.channels_last)


def test_second_derivative_and_vmap_are_refused_in_words() -> None:
    case = make_case().leaves()
    (first,) = torch.autograd.grad(deform_conv2d(*case.arguments()).square().sum(), case.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(first.sum(), case.weight)
    with pytest.raises(RuntimeError, match=r"does not work under torch\.vmap"):
        torch.vmap(lambda input: deform_conv2d(input, *case.arguments()[1:]))(case.input[None])
    features, raw, weight, bias = make_levels()
    loss = deform_conv2d_levels(features, raw, weight, bias)[0].square().sum()
    (first,) = torch.autograd.grad(loss, weight, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(first.sum(), weight)
    with pytest.raises(RuntimeError, match=r"does not work under torch\.vmap"):
        torch.vmap(lambda kernel: deform_conv2d_levels(features, raw, kernel, bias)[0])(weight[None])


def test_a_forked_worker_can_call_it() -> None:
    case = make_case(size=(30, 30), dtype=torch.float32)
    expected = deform_conv2d(*case.arguments())  # the parent's threads exist before the fork

    class OneCall(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> torch.Tensor:
            return deform_conv2d(*case.arguments())

    loader = torch.utils.data.DataLoader(
        OneCall(), batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60
    )
    assert all(torch.equal(found, expected) for found in loader)
