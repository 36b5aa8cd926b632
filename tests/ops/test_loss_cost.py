"""The loss looks at the locations that the boxes cover, not at all pairs of both: in memory and in time."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.common import peak_extra_memory
from fa_detectron.ops import native, quality_weighted_loss, reference

BOXES, STRIDES = 3000, (8, 16, 32, 64, 128)
SIZES = [(800 // s, 1344 // s) for s in STRIDES]
# MiB of one float32 tensor (boxes, locations); published code makes about ten of them.
ONE_TENSOR = BOXES * sum(h * w for h, w in SIZES) * 4 / 2**20

native_only = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")


def make_step(loss: Callable[..., dict], count: int, side: float, taller: int = 1) -> Callable[[], tuple[Tensor, ...]]:
    """The losses and their gradients over one image of 800 x 1344 with ``count`` boxes of ``side`` pixels.

    The map may be several times ``taller`` than the part that the boxes lie in.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = [(taller * h, w) for h, w in SIZES]
    maps = [[torch.rand(1, c, *size, generator=generator).requires_grad_() for size in sizes] for c in (2, 4, 1)]
    generator.manual_seed(1)  # the same boxes, however tall the map
    room = torch.tensor([1344.0, 800.0]) - side
    corner = torch.rand(count, 2, generator=generator) * room
    boxes = torch.cat([corner, corner + side], dim=1)
    mu, sigma = torch.zeros(5, 2, 2, requires_grad=True), torch.ones(5, 2, 2, requires_grad=True)
    labels = torch.randint(0, 2, (count,), generator=generator)
    leaves = [*maps[0], *maps[1], *maps[2], mu, sigma]

    def step() -> tuple[Tensor, ...]:
        losses = loss(*maps, [boxes], [labels], mu, sigma, STRIDES)
        return torch.autograd.grad(sum(losses.values()), leaves)

    return step


def extra_memory(loss: Callable[..., dict]) -> float:
    """MiB that 3000 small boxes take more than 64, which is twice what plain PyTorch looks at together."""
    return peak_extra_memory(make_step(loss, BOXES, 32)) - peak_extra_memory(make_step(loss, 64, 32))


@native_only
def test_natively_no_memory_grows_with_the_boxes() -> None:
    assert extra_memory(quality_weighted_loss) < 0.02 * ONE_TENSOR


def test_plain_pytorch_makes_no_tensor_over_pairs_either() -> None:
    """It keeps some twenty tensors over the locations inside boxes, here 21 a box: 0.2 to 0.5 of that one tensor."""
    assert extra_memory(reference.quality_weighted_loss) < 0.75 * ONE_TENSOR


def seconds_of_boxes(count: int, taller: int = 1) -> float:
    """What small boxes add to the time of a step without any: of one thread's processor, whatever else runs there."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        steps = [make_step(quality_weighted_loss, number, 16.0, taller) for number in (0, count)]
        best = [float("inf")] * 2
        for _ in range(5):
            for index, step in enumerate(steps):
                start = time.thread_time()
                step()
                best[index] = min(best[index], time.thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return best[1] - best[0]


@native_only
def test_natively_the_time_of_a_box_is_that_of_its_locations() -> None:
    """Four times as many locations beside the boxes: over pairs they would take four times the time."""
    seconds, on_a_taller_map = seconds_of_boxes(3000), seconds_of_boxes(3000, taller=4)
    assert on_a_taller_map < 1.5 * seconds, f"{1e3 * on_a_taller_map:.1f} ms against {1e3 * seconds:.1f} ms"


@native_only
def test_natively_the_time_grows_no_faster_than_the_boxes() -> None:
    """Each box's locations against all other boxes would take 16 times the time of a quarter of the boxes."""
    few, many = seconds_of_boxes(750), seconds_of_boxes(3000)
    assert many < 8 * few, f"{1e3 * many:.1f} ms against {1e3 * few:.1f} ms"
