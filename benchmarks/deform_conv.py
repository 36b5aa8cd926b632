"""Times the native deformable convolution against torchvision's, a plain convolution and the matrix products alone.

python benchmarks/deform_conv.py --threads 2      # six maps of a detector, 3x3, offsets of N(0, 2) pixels

Forward and the backward of all five gradients apart; memory is what one call takes at its peak, results included. The
products are those of the weight, the columns (made beforehand) and their gradients, by PyTorch's BLAS: they are the
arithmetic that any deformable convolution has to do, and leave out all sampling.
"""

from collections.abc import Callable

import torch
import torchvision
from common import interleave, parse_arguments, peak_extra_memory, ratio, report, summarize
from torch import Tensor
from torch.nn.functional import conv2d

from fa_detectron.ops import deform_conv2d

SHAPES = [(1, 256, 100, 168), (1, 256, 50, 84), (1, 256, 25, 42), (1, 256, 13, 21), (1, 64, 64, 64), (2, 64, 64, 64)]


def make_tensors(shape: tuple[int, int, int, int], spread: float, device: str) -> dict[str, Tensor]:
    """Input, offset, weight, bias and mask as leaves, and the gradient of the output."""
    n, c, height, width = shape
    random = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random).to(device)

    tensors = {
        "input": normal(n, c, height, width),
        "offset": normal(n, 18, height, width) * spread,
        "weight": normal(c, c, 3, 3) * 0.02,
        "bias": normal(c),
        "mask": normal(n, 9, height, width).sigmoid(),
    }
    for tensor in tensors.values():
        tensor.requires_grad_()
    return tensors | {"grad": normal(n, c, height, width)}


def make_cases(tensors: dict[str, Tensor]) -> dict[str, tuple[Callable, Callable]]:
    """Forward and backward of each peer."""
    x, offset, weight, bias, mask = (tensors[name] for name in ("input", "offset", "weight", "bias", "mask"))
    forwards = {
        "native": lambda: deform_conv2d(x, offset, weight, bias, padding=1, mask=mask),
        "plain": lambda: conv2d(x, weight, bias, padding=1),
        "torchvision": lambda: torchvision.ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask),
    }
    cases = {}
    for name, forward in forwards.items():
        output = forward()
        leaves = [x, weight, bias] if name == "plain" else [x, offset, weight, bias, mask]

        def backward(output: Tensor = output, leaves: list[Tensor] = leaves) -> tuple[Tensor, ...]:
            return torch.autograd.grad(output, leaves, tensors["grad"], retain_graph=True)

        cases[name] = (forward, backward)
    return cases


def make_products(tensors: dict[str, Tensor]) -> tuple[Callable, Callable]:
    """Forward: weight by columns; backward: weight by gradient, and gradient by columns."""
    weight = tensors["weight"].detach().flatten(1)  # (C, 9C)
    grad = tensors["grad"].flatten(2)  # (N, C, HW)
    columns = torch.randn(len(grad), weight.shape[1], grad.shape[2], device=grad.device)  # (N, 9C, HW)

    def backward() -> tuple[Tensor, Tensor]:
        return weight.t() @ grad, grad @ columns.transpose(1, 2)

    return lambda: weight @ columns, backward


def check(cases: dict[str, tuple[Callable, Callable]]) -> None:
    """The peers compute the same."""
    for kind in (0, 1):
        for mine, theirs in zip(*(torch.atleast_1d(cases[name][kind]()) for name in ("native", "torchvision"))):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def main() -> None:
    parser = parse_arguments(__doc__)
    parser.add_argument("--spread", type=float, default=2.0, help="standard deviation of the offsets in pixels")
    parser.add_argument("--device", default="cpu")
    numbers = range(len(SHAPES))
    parser.add_argument("--shapes", type=int, nargs="+", choices=numbers, help="which of the shapes (all)")
    parser.add_argument("--without-torchvision", action="store_true", help="its backward takes 10 s at the first shape")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = []
    for number in arguments.shapes or numbers:
        shape = SHAPES[number]
        tensors = make_tensors(shape, arguments.spread, arguments.device)
        cases = make_cases(tensors)
        if arguments.without_torchvision:
            del cases["torchvision"]
        else:
            check(cases)
        cases["products"] = make_products(tensors)
        for kind, name in enumerate(("forward", "backward")):
            times = interleave({peer: case[kind] for peer, case in cases.items()}, arguments.repeats)
            row = {
                "N, C, H, W": ", ".join(map(str, shape)),
                "pass": name,
                "native ms": summarize(times["native"]),
                "plain conv ms": summarize(times["plain"]),
                "native takes x plain conv": ratio(times["native"], times["plain"]),
                "products alone ms": summarize(times["products"]),
                "native takes x products": ratio(times["native"], times["products"]),
            }
            if "torchvision" in times:
                row["torchvision ms"] = summarize(times["torchvision"])
                row["native is x torchvision"] = ratio(times["torchvision"], times["native"])
            if arguments.device == "cpu":
                row["native extra MiB"] = peak_extra_memory(cases["native"][kind])
            rows.append(row)
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
