"""The fake kernels promise what the real ones return: shapes, dtypes and strides. opcheck looks at no strides."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from fa_detectron.ops import deform_conv2d, deform_conv2d_levels, native
from tests.ops import loss_cases, test_native_decode
from tests.ops.deform_loops import make_case
from tests.ops.test_deform_conv import KINDS
from tests.ops.test_deform_conv_layouts import channels_last, strided, transposed
from tests.ops.test_deform_conv_levels import make_levels
from tests.ops.test_native_loss_operator import operator_arguments

pytestmark = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
OPS = torch.ops.fa_detectron
LAYOUTS = {
    "contiguous": Tensor.contiguous,
    "channels_last": channels_last,
    "strided": strided,
    "transposed": transposed,
    "expanded": lambda x: x[:1].expand(2, -1, -1, -1),
}
SIZES = {"maps": {}, "one pixel": {"size": (1, 1)}, "one channel": {"c": 1}, "one output": {"o": 1}}


def on_meta(tensor: Tensor) -> Tensor:
    """The same without memory, where an operator's fake kernel runs."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def described(results: object) -> list[tuple]:
    return [(tuple(x.shape), x.dtype, x.stride()) for x in tree_leaves(results)]


@torch.no_grad()
def assert_the_fake_is_like_the_real(operator: Callable, arguments: tuple) -> object:
    results = operator(*arguments)
    assert described(operator(*tree_map_only(Tensor, on_meta, arguments))) == described(results)
    return results


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_deform_conv2d(layout: str, size: str, dtype: torch.dtype) -> None:
    case = make_case(**SIZES[size], dtype=torch.float32)
    change = LAYOUTS[layout]
    input, weight, bias = change(case.input.to(dtype)), case.weight.to(dtype), case.bias.to(dtype)
    points = change(case.offset), change(case.mask)  # float32 beside half features
    numbers = [1, 1], [1, 1], [1, 1]
    output = assert_the_fake_is_like_the_real(OPS.deform_conv2d, (input, weight, *points, bias, *numbers))
    for needed in ([True] * 5, [False] * 5, [True, False, False, True, False], [False, True, True, False, True]):
        assert_the_fake_is_like_the_real(
            OPS.deform_conv2d_backward, (change(output), input, weight, *points, *numbers, needed)
        )


@pytest.mark.parametrize("kind", ["stride and dilation", "groups", "no mask", "no bias"])
def test_deform_conv2d_of_other_shapes(kind: str) -> None:
    case = make_case(**KINDS[kind])
    case.input = channels_last(case.input)
    numbers = list(case.stride), list(case.padding), list(case.dilation)
    tensors = case.input, case.weight, case.offset, case.mask
    output = assert_the_fake_is_like_the_real(OPS.deform_conv2d, (*tensors, case.bias, *numbers))
    needed = [True, True, True, case.mask is not None, True]
    assert_the_fake_is_like_the_real(OPS.deform_conv2d_backward, (output, *tensors, *numbers, needed))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_deform_conv2d_levels(layout: str, dtype: torch.dtype) -> None:
    features, raw, weight, bias = make_levels(dtype=torch.float32)
    change = LAYOUTS[layout]
    # Not all levels alike: the last but one keeps its own layout.
    features = [x.to(dtype) if index == 2 else change(x.to(dtype)) for index, x in enumerate(features)]
    raw, weight, bias = [change(x) for x in raw], weight.to(dtype), bias.to(dtype)
    grads = assert_the_fake_is_like_the_real(OPS.deform_conv2d_levels, (features, raw, weight, bias))
    for needed in ([True] * 4, [False] * 4, [True, False, False, True], [False, True, True, False]):
        assert_the_fake_is_like_the_real(
            OPS.deform_conv2d_levels_backward, ([change(x) for x in grads], features, raw, weight, needed)
        )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_the_loss_and_decoding(layout: str) -> None:
    arguments = loss_cases.make_case(dtype=torch.float32)
    for group in arguments[:3]:
        group[:] = [LAYOUTS[layout](x) for x in group]
    for_statistics, for_loss = operator_arguments(arguments)
    assert_the_fake_is_like_the_real(OPS.quality_statistics, for_statistics)
    assert_the_fake_is_like_the_real(OPS.quality_loss, for_loss)
    for with_gradient in (False, True):
        assert_the_fake_is_like_the_real(OPS.quality_loss_forward, (*for_loss, with_gradient))
    maps = [[LAYOUTS[layout](x) for x in group] for group in test_native_decode.make_maps()]
    for topk, most in ((1000, 100), (10, 100), (0, 100), (1000, 0)):
        assert_the_fake_is_like_the_real(OPS.decode_detections, (*maps, [8.0, 16.0], 0.0, 0.05, topk, 0.6, most))


def test_one_compiled_graph_serves_any_size() -> None:
    """What the fake kernels ask of the sizes ties the graph neither to landscapes nor to few rows and columns."""
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(graph)
        return graph.forward

    def both(features: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        single = deform_conv2d(features, offset, weight, padding=1, mask=mask)
        return single, deform_conv2d_levels([features], [torch.cat([offset, mask], dim=1)], weight, None)[0]

    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True, dynamic=True, backend=count)
    weight = torch.randn(6, 8, 3, 3)
    # The first sizes differ from all channels: equal numbers would be taken as one.
    for n, height, width in ((2, 5, 11), (3, 6, 4), (2, 3, 3), (2, 20, 30), (4, 40, 10)):
        maps = [torch.randn(n, channels, height, width) for channels in (8, 18, 9)]
        for mine, theirs in zip(compiled(*maps, weight), both(*maps, weight), strict=True):
            torch.testing.assert_close(mine, theirs)
    assert len(graphs) == 1
