"""Times the native loss with all gradients against the eager peer and torch.compile of it.

python benchmarks/quality_loss.py            # 2 images of 800 x 1344, 80 classes; 8, 40 and 300 boxes an image
"""

import torch
from common import interleave, parse_arguments, peak_extra_memory, ratio, report, summarize
from eager_loss import eager_loss

from fa_detectron.ops import quality_weighted_loss
from fa_detectron.ops.reference.quality import find_pairs, flatten_maps

STRIDES = (8, 16, 32, 64, 128)


def make_inputs(num_boxes: int, images: int, height: int, width: int, classes: int, device: str) -> list:
    """Head outputs as early in a training (scores low, boxes a few cells wide) and boxes of 20 to 400 pixels."""
    generator = torch.Generator().manual_seed(0)
    maps: list[list[torch.Tensor]] = [[], [], []]
    for stride in STRIDES:
        size = (-(-height // stride), -(-width // stride))
        maps[0].append(torch.randn(images, classes, *size, generator=generator) - 4)
        maps[1].append(torch.rand(images, 4, *size, generator=generator) * 8 * stride)
        maps[2].append(torch.randn(images, 1, *size, generator=generator))
    extent = torch.tensor([width, height], dtype=torch.float32)
    boxes, labels = [], []
    for _ in range(images):
        side = 20 * torch.exp(3 * torch.rand(num_boxes, 2, generator=generator))
        centre = torch.rand(num_boxes, 2, generator=generator) * extent
        corners = torch.cat([centre - side / 2, centre + side / 2], dim=1)
        boxes.append(corners.clamp(min=0).minimum(extent.repeat(2)).to(device))
        labels.append(torch.randint(0, classes, (num_boxes,), generator=generator).to(device))
    mu, sigma = torch.zeros(len(STRIDES), classes, 2), torch.ones(len(STRIDES), classes, 2)
    leaves = [[x.to(device).requires_grad_() for x in group] for group in (*maps, [mu, sigma])]
    return [*leaves[:3], boxes, labels, *leaves[3], STRIDES]


@torch.no_grad()
def count_pairs(inputs: list) -> int:
    """Pairs of a box and a location inside it, which is what the loss's time may grow with."""
    *maps, boxes, classes, mu, sigma, strides = inputs
    grid, _, _ = flatten_maps(*maps, strides, 0.0)
    return sum(len(find_pairs(grid, *truth, mu, sigma).box) for truth in zip(boxes, classes, strict=True))


def step(function, inputs: list) -> tuple:
    """Losses and all gradients."""
    losses = function(*inputs)
    leaves = [x for group in inputs[:3] for x in group] + inputs[5:7]
    return losses, torch.autograd.grad(sum(losses.values()), leaves)


def main() -> None:
    parser = parse_arguments(__doc__)
    parser.add_argument("--boxes", type=int, nargs="+", default=[8, 40, 300])
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1344], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the eager peer, too (minutes)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = []
    for boxes in arguments.boxes:
        inputs = make_inputs(boxes, arguments.images, *arguments.size, arguments.classes, arguments.device)
        functions = {"native": quality_weighted_loss, "eager": eager_loss}
        if arguments.compile:
            functions["compiled"] = torch.compile(eager_loss)
        found, expected = (step(functions[name], inputs) for name in ("native", "eager"))
        for name in found[0]:
            torch.testing.assert_close(found[0][name], expected[0][name], rtol=1e-4, atol=0)
        del found, expected
        cases = {name: (lambda f=f, x=inputs: step(f, x)) for name, f in functions.items()}
        times = interleave(cases, arguments.repeats)
        row = {"boxes an image": boxes, "pairs inside": count_pairs(inputs), "native ms": summarize(times["native"])}
        for name in functions:
            if name != "native":
                row[f"{name} ms"] = summarize(times[name])
                row[f"native is x {name}"] = ratio(times[name], times["native"])
        if arguments.device == "cpu":
            row["native extra MiB"] = peak_extra_memory(cases["native"])
            row["eager extra MiB"] = peak_extra_memory(cases["eager"])
        rows.append(row)
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
