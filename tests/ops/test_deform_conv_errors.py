"""What deform_conv2d does not take, refused in words; natively or, with FA_NO_NATIVE=1, on the fallback."""

import pytest
import torch
from torch import Tensor

from fa_detectron.ops import deform_conv2d, deform_conv2d_levels, native
from tests.ops.deform_loops import make_case
from tests.ops.test_deform_conv_levels import make_levels

native_only = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
OPS = torch.ops.fa_detectron
# Of make_case(): input (2, 4, 6, 7), weight (6, 4, 3, 3), offset (2, 18, 6, 7), mask (2, 9, 6, 7), bias (6,), float32.
SHAPES = {
    "input of 3 dimensions": ({"input": (4, 6, 7)}, "input must"),
    "weight of 3 dimensions": ({"weight": (6, 4, 3)}, "weight must"),
    "offset of 3 dimensions": ({"offset": (18, 6, 7)}, "offset must"),
    "input without channels": ({"input": (2, 0, 6, 7)}, "input has no element"),
    "input without rows": ({"input": (2, 4, 0, 7)}, "input has no element"),
    "input without columns": ({"input": (2, 4, 6, 0)}, "input has no element"),
    "weight without outputs": ({"weight": (0, 4, 3, 3)}, "weight has no element"),
    "weight without channels": ({"weight": (6, 0, 3, 3)}, "weight has no element"),
    "weight without taps": ({"weight": (6, 4, 0, 3)}, "weight has no element"),
    "channels that are no multiple": ({"weight": (6, 3, 3, 3)}, "4 channels"),
    "outputs that do not divide into the groups": ({"weight": (5, 2, 3, 3)}, r"weight .*5, 2, 3, 3"),
    "no offset": ({"offset": (2, 0, 6, 7)}, "offset has 0 channels"),
    "half an offset": ({"offset": (2, 17, 6, 7)}, "offset has 17 channels"),
    "channels that do not divide into offset groups": ({"offset": (2, 54, 6, 7), "mask": (2, 27, 6, 7)}, "offset"),
    "offsets of other rows": ({"offset": (2, 18, 5, 7)}, "offset has the shape"),
    "offsets of other columns": ({"offset": (2, 18, 6, 8)}, "offset has the shape"),
    "offsets of other images": ({"offset": (1, 18, 6, 7)}, "offset has the shape"),
    "mask of 3 dimensions": ({"mask": (9, 6, 7)}, "mask has the shape"),
    "mask of other taps": ({"mask": (2, 8, 6, 7)}, "mask has the shape"),
    "mask of other rows": ({"mask": (2, 9, 7, 7)}, "mask has the shape"),
    "mask of other images": ({"mask": (1, 9, 6, 7)}, "mask has the shape"),
    "bias of other outputs": ({"bias": (5,)}, "bias has the shape"),
    "bias of 2 dimensions": ({"bias": (6, 1)}, "bias has the shape"),
    "kernel of more rows than the input": ({"weight": (6, 4, 9, 1)}, "kernel"),
    "kernel larger than the padded input": ({"weight": (6, 4, 9, 9), "offset": (2, 162, 6, 7)}, "kernel"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str) -> None:
    sizes, words = SHAPES[name]
    case = make_case(dtype=torch.float32)
    for argument, size in sizes.items():
        setattr(case, argument, torch.zeros(size))
    with pytest.raises(ValueError, match=words):
        deform_conv2d(*case.arguments())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("stride", (0, 1), "stride"),
        ("stride", (1, -1), "stride"),
        ("padding", (-1, 0), "padding"),
        ("padding", (0, -1), "padding"),
        ("dilation", (0, 1), "dilation"),
        ("dilation", (1, 0), "dilation"),
        ("stride", (1, 1, 1), "two numbers"),
        ("dilation", (1,), "two numbers"),
        ("stride", 1.5, "two numbers"),
    ],
)
def test_numbers(name: str, value: float | tuple[int, ...], words: str) -> None:
    case = make_case(dtype=torch.float32)
    setattr(case, name, value)
    with pytest.raises(ValueError, match=words):
        deform_conv2d(*case.arguments())


@pytest.mark.parametrize("name", ["weight", "bias", "offset", "mask"])
@pytest.mark.parametrize(
    ("dtype", "features"),
    [(torch.float64, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.float64)],
)
def test_a_dtype_that_differs(name: str, dtype: torch.dtype, features: torch.dtype) -> None:
    case = make_case(dtype=features)
    setattr(case, name, getattr(case, name).to(dtype))
    with pytest.raises(ValueError, match=f"{name} is"):
        deform_conv2d(*case.arguments())


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_features_of_float32_beside_half_input(name: str) -> None:
    case = make_case(dtype=torch.float32).to(torch.bfloat16)
    setattr(case, name, getattr(case, name).float())  # offset and mask may be, these not
    with pytest.raises(ValueError, match=f"{name} is"):
        deform_conv2d(*case.arguments())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_a_dtype_that_is_none_of_the_four(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="input must be float32, float64, float16 or bfloat16"):
        deform_conv2d(*make_case().to(dtype).arguments())


@pytest.mark.parametrize("name", ["weight", "bias", "offset", "mask"])
def test_another_device(name: str) -> None:
    case = make_case(dtype=torch.float32)
    setattr(case, name, getattr(case, name).to("meta"))
    with pytest.raises(ValueError, match=f"{name} is on meta"):
        deform_conv2d(*case.arguments())


@native_only
@pytest.mark.parametrize("place", range(3), ids=["stride", "padding", "dilation"])
@pytest.mark.parametrize("numbers", [[], [1, 1, 1]])
def test_the_operator_takes_two_numbers_each(place: int, numbers: list[int]) -> None:
    case = make_case(dtype=torch.float32)
    sizes = [numbers if index == place else [1, 1] for index in range(3)]
    with pytest.raises(ValueError, match="stride, padding and dilation need two numbers each"):
        OPS.deform_conv2d(case.input, case.weight, case.offset, case.mask, case.bias, *sizes)


@native_only
def test_a_map_of_more_pixels_than_its_index_holds() -> None:
    """Of one element that is read again and again, so that it takes no memory."""
    input, offset = (torch.zeros(1, c, 1, 1).expand(1, c, 2**15, 2**15 + 1) for c in (1, 2))
    with pytest.raises(ValueError, match="a map may have at most"):
        deform_conv2d(input, offset, torch.zeros(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"raw": (2, 26, 9, 11)}, r"offset_mask\[0\] must be \(N, 27, H, W\)"),
        ({"raw": (27, 9, 11)}, r"offset_mask\[0\] must be \(N, 27, H, W\)"),
        ({"raw": (2, 27, 9, 10)}, "offset has the shape"),
        ({"feature": (2, 35, 9, 11)}, r"inputs\[0\] must be \(N, 36, H, W\)"),
        ({"feature": (36, 9, 11)}, r"inputs\[0\] must be \(N, 36, H, W\)"),
        ({"weight": (20, 36, 1, 3)}, r"weight must be \(O, C, 3, 3\)"),
        ({"weight": (20, 36, 3, 1)}, r"weight must be \(O, C, 3, 3\)"),
        ({"weight": (20, 36, 3)}, r"weight must be \(O, C, 3, 3\)"),
        ({"bias": (19,)}, "bias has the shape"),
    ],
)
def test_levels(change: dict[str, tuple[int, ...]], words: str) -> None:
    features, raw, weight, bias = make_levels()
    new = {name: torch.zeros(size, dtype=torch.float64) for name, size in change.items()}
    features[0], raw[0] = new.get("feature", features[0]), new.get("raw", raw[0])
    with pytest.raises(ValueError, match=words):
        deform_conv2d_levels(features, raw, new.get("weight", weight), new.get("bias", bias))


@pytest.mark.parametrize(("features_kept", "raw_kept"), [(3, 4), (4, 3), (0, 0)])
def test_levels_that_are_not_there(features_kept: int, raw_kept: int) -> None:
    features, raw, weight, bias = make_levels()
    with pytest.raises(ValueError, match="inputs and offset_mask need one entry a level"):
        deform_conv2d_levels(features[:features_kept], raw[:raw_kept], weight, bias)


@pytest.mark.parametrize("place", ["feature", "raw", "weight", "bias"])
def test_one_level_of_another_dtype_or_device(place: str) -> None:
    def changed(change) -> tuple:
        features, raw, weight, bias = make_levels(dtype=torch.float32)
        if place in ("weight", "bias"):
            return (
                features,
                raw,
                change(weight) if place == "weight" else weight,
                change(bias) if place == "bias" else bias,
            )
        group = features if place == "feature" else raw
        group[1] = change(group[1])
        return features, raw, weight, bias

    with pytest.raises(ValueError, match="deform_conv2d"):
        deform_conv2d_levels(*changed(Tensor.double))
    with pytest.raises(ValueError, match="is on"):
        deform_conv2d_levels(*changed(lambda x: x.to("meta")))


@native_only
def test_a_gradient_that_does_not_fit() -> None:
    case = make_case()
    arguments = (case.input, case.weight, case.offset, case.mask, [1, 1], [1, 1], [1, 1], [True] * 5)
    grad = torch.zeros(2, 6, 5, 7, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"grad_output has the shape \[2, 6, 5, 7\]"):
        OPS.deform_conv2d_backward(grad, *arguments)
    features, raw, weight, _ = make_levels()
    with torch.no_grad():
        grads = [torch.zeros(2, 20, 1, 1, dtype=torch.float64)] * len(features)
        with pytest.raises(ValueError, match="deform_conv2d_levels_backward: grad_output"):
            OPS.deform_conv2d_levels_backward(grads, features, raw, weight, [True] * 4)
        with pytest.raises(ValueError, match="1 gradients for 4 levels"):
            OPS.deform_conv2d_levels_backward(grads[:1], features, raw, weight, [True] * 4)
