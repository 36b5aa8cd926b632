"""The loss's and decoding's operators called by themselves: they check again what the Python functions check first."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fa_detectron.ops import native
from tests.ops import loss_cases, test_native_decode
from tests.ops.test_native_loss_operator import operator_arguments

pytestmark = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
OPS = torch.ops.fa_detectron
Change = dict[str, Callable]


def refuse(operator: Callable, arguments: tuple, change: Change, words: str) -> None:
    """Calls the operator's functions on the arguments of their names; the call must raise with these words."""
    names = [argument.name for argument in operator.default._schema.arguments]
    changed = dict(zip(names, arguments, strict=True))
    for name, function in change.items():
        changed[name] = function(changed[name])
    with torch.no_grad(), pytest.raises(ValueError, match=words):
        operator(**changed)


def first(function: Callable[[Tensor], Tensor]) -> Callable:
    """Changes the first tensor of a list."""
    return lambda tensors: [function(tensors[0]), *tensors[1:]]


def all_of(function: Callable[[Tensor], Tensor]) -> Callable:
    return lambda tensors: [function(x) for x in tensors]


# Maps of both: 2 images, levels of 7 x 9 and 4 x 5 (loss), 13 x 17 and 7 x 9 (decoding).
MAPS = [
    ({"cls_logits": lambda x: x[:1]}, "need one entry a level, got 1, 2, 2 and 2"),
    ({"box_ltrb": lambda x: x[:1]}, "need one entry a level, got 2, 1, 2 and 2"),
    ({"obj_logits": lambda x: x[:1]}, "need one entry a level, got 2, 2, 1 and 2"),
    ({"strides": lambda x: x[:1]}, "need one entry a level, got 2, 2, 2 and 1"),
    ({"cls_logits": first(lambda x: x[0])}, r"cls_logits\[0\] must be \(N, K, H, W\)"),
    ({"cls_logits": first(Tensor.flatten)}, r"cls_logits\[0\] must be \(N, K, H, W\)"),
    ({"cls_logits": lambda x: [x[0], x[1][0]]}, r"cls_logits\[1\] must be \(N, K, H, W\)"),
    ({"cls_logits": lambda x: [x[0], x[1][:1]]}, r"cls_logits\[1\] must be \(2,"),
    ({"cls_logits": lambda x: [x[0], x[1][:, :2]]}, r"cls_logits\[1\] must be \(2,"),
    ({"box_ltrb": first(lambda x: x[:, :3])}, r"box_ltrb\[0\] must be \(2, 4,"),
    ({"box_ltrb": first(lambda x: x[:, :, 1:])}, r"box_ltrb\[0\] must be \(2, 4,"),
    ({"obj_logits": first(lambda x: x[..., 1:])}, r"obj_logits\[0\] must be \(2, 1,"),
    ({"obj_logits": first(lambda x: x[:1])}, r"obj_logits\[0\] must be \(2, 1,"),
    ({"box_ltrb": first(Tensor.half)}, r"box_ltrb\[0\]"),
    ({"obj_logits": first(Tensor.double)}, r"obj_logits\[0\]"),
    ({name: all_of(Tensor.half) for name in ("cls_logits", "box_ltrb", "obj_logits")}, "must be float32 or float64"),
]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *MAPS,
        ({"strides": lambda x: [8.0, 0.0]}, r"strides\[1\] must be positive"),
        ({"gt_boxes": lambda x: x[:1]}, "need one entry an image"),
        ({"gt_classes": lambda x: x[:1]}, "need one entry an image"),
        ({"gt_boxes": first(lambda x: x[:, :3])}, r"gt_boxes\[0\] must be \(G, 4\)"),
        ({"gt_boxes": first(lambda x: x[0])}, r"gt_boxes\[0\] must be \(G, 4\)"),
        ({"gt_classes": first(lambda x: x[:2])}, r"gt_classes\[0\] must be \(3,\)"),
        ({"gt_classes": first(lambda x: x[:, None])}, r"gt_classes\[0\] must be \(3,\)"),
        ({"gt_classes": first(lambda x: x * 0 + 4)}, r"gt_classes\[0\]\[0\] = 4 is not in \[0, 4\)"),
        ({"gt_classes": first(lambda x: x * 0 - 1)}, r"gt_classes\[0\]\[0\] = -1 is not in \[0, 4\)"),
        ({"mu": lambda x: x[:, :3]}, r"mu must be \(K, 2\) or \(L, K, 2\)"),
        ({"sigma": lambda x: x[..., :1]}, r"sigma must be \(K, 2\) or \(L, K, 2\)"),
        ({"sigma": lambda x: x[0]}, "mu and sigma differ in shape"),
        ({"mu": Tensor.double}, "mu must be"),
        ({"sigma": Tensor.half}, "sigma must be"),
        ({"iou_type": lambda x: "diou"}, "iou_type must be giou, linear_iou or iou, got diou"),
    ],
)
def test_statistics(change: Change, words: str) -> None:
    arguments, _ = operator_arguments(loss_cases.make_case(dtype=torch.float32))
    refuse(OPS.quality_statistics, arguments, change, words)


STATE = "must be what quality_statistics returned"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cls_logits": lambda x: x[:1]}, "need one entry a level"),
        ({"statistics": lambda x: x[:1]}, STATE),
        ({"statistics": lambda x: x[:, :8]}, STATE),
        ({"statistics": Tensor.float}, STATE),
        ({"statistics": lambda x: x.t().contiguous().t()}, STATE),
        ({"max_iou": lambda x: x[:, 1:]}, STATE),
        ({"max_iou": lambda x: x.t().contiguous().t()}, STATE),
        ({"max_iou": Tensor.double}, STATE),
        ({"divisors": lambda x: x[:1]}, r"divisors must be \(2,\) float64"),
        ({"divisors": Tensor.float}, r"divisors must be \(2,\) float64"),
        ({"iou_type": lambda x: ""}, "iou_type must be giou, linear_iou or iou"),
    ],
)
@pytest.mark.parametrize("with_autograd", [False, True])
def test_loss(change: Change, words: str, with_autograd: bool) -> None:
    _, arguments = operator_arguments(loss_cases.make_case(dtype=torch.float32))
    if with_autograd:
        refuse(OPS.quality_loss, arguments, change, words)
    else:
        refuse(OPS.quality_loss_forward, (*arguments, False), change, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"statistics": lambda x: x[:1]}, STATE),
        ({"grad_losses": lambda x: x[:2]}, r"grad_losses must be \(3,\)"),
        ({"grad_cls": lambda x: x[:1]}, "grad_cls, grad_box and grad_obj need one entry a level"),
        ({"grad_box": lambda x: x[:1]}, "grad_cls, grad_box and grad_obj need one entry a level"),
        ({"grad_obj": lambda x: x[:1]}, "grad_cls, grad_box and grad_obj need one entry a level"),
        ({"grad_cls": first(lambda x: x[:, 1:])}, "grad_cls must be contiguous"),
        ({"grad_cls": first(Tensor.double)}, "grad_cls must be contiguous"),
        ({"grad_box": first(lambda x: x.transpose(2, 3).contiguous().transpose(2, 3))}, "grad_box must be contiguous"),
        ({"grad_obj": first(Tensor.double)}, "grad_obj must be contiguous"),
        ({"grad_mu": lambda x: x[:1]}, "grad_mu must be contiguous"),
        ({"grad_sigma": Tensor.double}, "grad_sigma must be contiguous"),
    ],
)
def test_gradients(change: Change, words: str) -> None:
    _, arguments = operator_arguments(loss_cases.make_case(dtype=torch.float32))
    outputs = [[torch.empty_like(x) for x in levels] for levels in arguments[:3]]
    priors = map(torch.empty_like, arguments[5:7])
    refuse(OPS.quality_loss_backward, (*arguments, torch.ones(3), *outputs, *priors, False), change, words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *MAPS,
        ({"topk": lambda x: -1}, "topk and max_detections must not be negative, got -1 and 100"),
        ({"max_detections": lambda x: -1}, "topk and max_detections must not be negative, got 1000 and -1"),
    ],
)
def test_decoding(change: Change, words: str) -> None:
    arguments = (*test_native_decode.make_maps(), [8.0, 16.0], 0.0, 0.05, 1000, 0.6, 100)
    refuse(OPS.decode_detections, arguments, change, words)


@pytest.mark.parametrize(
    ("name", "place"), [("decode_detections", 2), ("quality_statistics", 5), ("quality_loss", 9)], ids=lambda x: str(x)
)
def test_a_tensor_on_another_device_is_refused_by_the_fake_kernels(name: str, place: int) -> None:
    """A meta tensor among others sends the call to them: they must not make up a result on the CPU."""
    if name == "decode_detections":
        arguments = [*test_native_decode.make_maps(), [8.0, 16.0], 0.0, 0.05, 10, 0.6, 10]
    else:
        arguments = list(operator_arguments(loss_cases.make_case())[name == "quality_loss"])
    moved = arguments[place]
    arguments[place] = moved.to("meta") if isinstance(moved, Tensor) else [x.to("meta") for x in moved]
    with torch.no_grad(), pytest.raises(ValueError, match="tensors are on cpu and meta"):
        getattr(OPS, name)(*arguments)


def test_a_gradient_that_does_not_fit_is_refused_by_the_fake_kernels() -> None:
    input, weight, offset = torch.empty(1, 4, 5, 6), torch.empty(3, 4, 3, 3), torch.empty(1, 18, 5, 6)
    options = (None, [1, 1], [1, 1], [1, 1], [True] * 5)
    with pytest.raises(ValueError, match="grad_output is on meta, input on cpu"):
        OPS.deform_conv2d_backward(torch.empty(1, 3, 5, 6, device="meta"), input, weight, offset, *options)
    with pytest.raises(ValueError, match=r"grad_output has the shape \(7,\), it must be \(1, 3, 5, 6\)"):
        OPS.deform_conv2d_backward(*(x.to("meta") for x in (torch.empty(7), input, weight, offset)), *options)
