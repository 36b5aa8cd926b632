"""Times a whole training step of the small CPU recipe against the same with its peers' operators.

python benchmarks/training_step.py --threads 2     # configs/small_data.yaml, 4 images of 256 x 341, 3 classes, 12 boxes

The peers: torchvision's deformable conv with the eager loss; plain convs in place of the deformable ones, offsets
included, with the native loss. A step is forward, loss, backward and optimizer, on a batch as BCCD's.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
from common import interleave, parse_arguments, peak_extra_memory, ratio, report, summarize
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from eager_loss import eager_loss
from torch import Tensor, nn

from fa_detectron.engine.config_file import load_config
from fa_detectron.engine.solver import build_optimizer
from fa_detectron.layers import DeformBlock
from fa_detectron.modeling.meta_arch import FeatureAlign

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "small_data.yaml"


class TorchvisionBlock(DeformBlock):
    """The De-Subnet's block by torchvision's operator, a level at a time."""

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        outputs = []
        for feature in features:
            raw = self.offset(feature)  # (N, 27, H, W)
            parts = raw[:, :18], self.conv.weight, self.conv.bias
            outputs.append(torchvision.ops.deform_conv2d(feature, *parts, padding=1, mask=raw[:, 18:].sigmoid()))
        return outputs


class PlainBlock(DeformBlock):
    """A plain conv, the speed of light."""

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [self.conv(feature) for feature in features]


class EagerDetector(FeatureAlign):
    """The detector with the eager loss."""

    def losses(self, predictions: tuple, batched_inputs: list[dict], normalizers: None = None) -> dict[str, Tensor]:
        truth = [x["instances"] for x in batched_inputs]
        boxes, classes = [x.gt_boxes.tensor for x in truth], [x.gt_classes for x in truth]
        priors = self.mu, self.sigma, self.head.strides
        offset = self.location_offset
        return eager_loss(*predictions, boxes, classes, *priors, location_offset=offset, **self.loss_options)


def make_model(cfg: CfgNode) -> FeatureAlign:
    """The recipe's detector, with offsets of about 2 pixels, as trained ones have, instead of the start's 0.2."""
    torch.manual_seed(0)
    model = build_model(cfg).train()
    for module in model.modules():
        if isinstance(module, DeformBlock):
            nn.init.normal_(module.offset.weight, std=0.1)
    return model


def variant(model: FeatureAlign, block: type[DeformBlock], detector: type[FeatureAlign]) -> FeatureAlign:
    """A copy with the same weights and other operators."""
    model = copy.deepcopy(model)
    model.__class__ = detector
    for module in model.modules():
        if isinstance(module, DeformBlock):
            module.__class__ = block
    return model


def make_batch(images: int, height: int, width: int, boxes: int, classes: int) -> list[dict]:
    """Noise with boxes of a sixth to a half of the image's side, in Detectron2's format."""
    generator = torch.Generator().manual_seed(0)
    batch = []
    for _ in range(images):
        extent = torch.tensor([width, height], dtype=torch.float32)
        side = extent * (1 / 6 + torch.rand(boxes, 2, generator=generator) / 3)
        corner = torch.rand(boxes, 2, generator=generator) * (extent - side)
        truth = Instances((height, width))
        truth.gt_boxes = Boxes(torch.cat([corner, corner + side], dim=1))
        truth.gt_classes = torch.randint(0, classes, (boxes,), generator=generator)
        pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        batch.append({"image": pixels, "instances": truth})
    return batch


def make_step(cfg: CfgNode, model: FeatureAlign, batch: list[dict]) -> Callable[[], dict[str, Tensor]]:
    optimizer = build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # all its work, but the variants keep equal weights

    def step() -> dict[str, Tensor]:
        torch.manual_seed(0)  # the same dropout
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        return losses

    return step


def main() -> None:
    parser = parse_arguments(__doc__)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[256, 341], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--boxes", type=int, default=12)
    parser.add_argument("--classes", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.FEATURE_ALIGN.NUM_CLASSES", str(arguments.classes)]
    cfg = load_config(str(CONFIG), overrides)
    model = make_model(cfg)
    batch = make_batch(arguments.images, *arguments.size, arguments.boxes, arguments.classes)
    models = {
        "native": model,
        "peers": variant(model, TorchvisionBlock, EagerDetector),
        "plain": variant(model, PlainBlock, FeatureAlign),
    }
    steps = {name: make_step(cfg, model, batch) for name, model in models.items()}
    found, expected = steps["native"](), steps["peers"]()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=0)
    del found, expected
    times = interleave(steps, arguments.repeats, seconds=90)
    row = {
        "images": f"{arguments.images} x {arguments.size[0]} x {arguments.size[1]}",
        "native ms": summarize(times["native"]),
        "torchvision + eager loss ms": summarize(times["peers"]),
        "native is x torchvision + eager": ratio(times["peers"], times["native"]),
        "plain convs ms": summarize(times["plain"]),
        "native takes x plain convs": ratio(times["native"], times["plain"]),
        "native extra MiB": peak_extra_memory(steps["native"]),
        "torchvision + eager extra MiB": peak_extra_memory(steps["peers"]),
    }
    report([row], arguments.json)


if __name__ == "__main__":
    main()
