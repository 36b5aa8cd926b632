"""Times native decoding against eager PyTorch: sigmoid, topk, batched_nms.

python benchmarks/decode.py            # batch 1, 800 x 1344, 80 classes; trained-like scores, and all scores pass
"""

import torch
from common import interleave, parse_arguments, ratio, report, summarize
from torchvision.ops import batched_nms

from fa_detectron.ops import decode_detections

STRIDES = (8, 16, 32, 64, 128)


def make_maps(scores: str, images: int, height: int, width: int, classes: int, device: str) -> tuple[list, list, list]:
    """Head outputs (N, K, H, W), (N, 4, H, W) pixels, (N, 1, H, W) a level."""
    generator = torch.Generator().manual_seed(0)
    maps: tuple[list, list, list] = ([], [], [])
    for stride in STRIDES:
        size = (-(-height // stride), -(-width // stride))
        spread = torch.randn(images, classes, *size, generator=generator)
        box = (2 + 6 * torch.rand(images, 4, *size, generator=generator)) * stride
        # A trained head: nearly every location is sure that nothing is there, a few dozen see an object.
        cls = spread + 2 if scores == "all pass" else spread * 1.2 - 6.5
        obj = torch.randn(images, 1, *size, generator=generator) + (2 if scores == "all pass" else -1)
        if scores != "all pass":
            seen = torch.rand(images, 1, *size, generator=generator) < 0.01
            cls += 6 * seen * (torch.rand(images, classes, *size, generator=generator) < 0.03)
            obj += 3 * seen
        for group, values in zip(maps, (cls, box, obj), strict=True):
            group.append(values.to(device))
    return maps


@torch.no_grad()
def eager_decode(cls_logits: list, box_ltrb: list, obj_logits: list, strides: tuple) -> list:
    """The peer: all scores, topk a level, torchvision's batched_nms."""
    parts: list[list[tuple]] = [[] for _ in cls_logits[0]]
    for cls, box, obj, stride in zip(cls_logits, box_ltrb, obj_logits, strides, strict=True):
        _, k, height, width = cls.shape
        scores = (cls.sigmoid() * obj.sigmoid()).permute(0, 2, 3, 1).flatten(1)  # (N, H*W*K)
        best, index = scores.topk(min(1000, height * width), dim=1)
        ltrb = box.flatten(2).transpose(1, 2)  # (N, H*W, 4)
        y, x = torch.meshgrid(
            torch.arange(height, device=cls.device) * stride,
            torch.arange(width, device=cls.device) * stride,
            indexing="ij",
        )
        points = torch.stack([x.flatten(), y.flatten()], dim=1)  # (H*W, 2)
        for image in range(len(cls)):
            passed = best[image] > 0.05
            score, place = best[image][passed], index[image][passed] // k
            corners = torch.cat([points[place] - ltrb[image, place, :2], points[place] + ltrb[image, place, 2:]], dim=1)
            parts[image].append((corners, score, index[image][passed] % k))
    results = []
    for part in parts:
        boxes, scores, classes = (torch.cat(x) for x in zip(*part, strict=True))
        kept = batched_nms(boxes, scores, classes, 0.6)[:100]
        results.append((boxes[kept], scores[kept], classes[kept]))
    return results


def main() -> None:
    parser = parse_arguments(__doc__)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1344], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    rows = []
    for scores in ("trained-like", "all pass"):
        maps = make_maps(scores, arguments.images, *arguments.size, arguments.classes, arguments.device)
        found, expected = decode_detections(*maps, STRIDES), eager_decode(*maps, STRIDES)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[1], other[1], rtol=1e-5, atol=0)
        cases = {
            "native": lambda m=maps: decode_detections(*m, STRIDES),
            "eager": lambda m=maps: eager_decode(*m, STRIDES),
        }
        times = interleave(cases, arguments.repeats)
        rows.append(
            {
                "scores": scores,
                "detections": sum(len(x[0]) for x in found),
                "native ms": summarize(times["native"]),
                "eager ms": summarize(times["eager"]),
                "native is x eager": ratio(times["eager"], times["native"]),
            }
        )
    report(rows, arguments.json)


if __name__ == "__main__":
    main()
