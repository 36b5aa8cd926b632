"""Views are mapped back to the image, fused as the formula says, and evaluated beside the plain detector."""

import json

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Boxes, Instances
from torch import nn

from fa_detectron.engine import load_config
from fa_detectron.errors import UserError
from fa_detectron.modeling.test_time_augmentation import DenseTTA, fuse_views, resize_shortest_edge
from tests.engine.conftest import run


class BrightSpot(nn.Module):
    """Finds the bright rectangle of an image exactly; notes the sizes of the images that it sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, batch):
        outputs = []
        for item in batch:
            _, h, w = item["image"].shape
            self.seen.append((h, w))
            rows, columns = torch.where(item["image"][0] > 127)
            box = torch.tensor([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=torch.float32)
            box *= torch.tensor([item["width"] / w, item["height"] / h] * 2)
            found = Instances((item["height"], item["width"]), pred_boxes=Boxes(box))
            found.scores, found.pred_classes = torch.tensor([0.75]), torch.tensor([4])
            outputs.append({"instances": found})
        return outputs


def wrap(model, **options):
    defaults = {"min_sizes": [40, 80], "max_size": 200, "flip": True, "nms_threshold": 0.6, "max_detections": 100}
    return DenseTTA(model, **{**defaults, **options})


def test_views_come_back_to_the_image():
    image = torch.zeros(3, 80, 120, dtype=torch.uint8)
    image[:, 20:60, 8:48] = 255
    model = BrightSpot()
    (output,) = wrap(model)([{"image": image, "height": 160, "width": 240}])
    found = output["instances"]
    assert model.seen == [(40, 60)] * 2 + [(80, 120)] * 2
    assert found.image_size == (160, 240)
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[16.0, 40.0, 96.0, 120.0]]), atol=1.0, rtol=0)
    assert found.scores.tolist() == [0.75] and found.pred_classes.tolist() == [4]


def test_without_flip_the_image_is_not_mirrored():
    model = BrightSpot()
    image = torch.full((3, 30, 30), 255, dtype=torch.uint8)
    wrap(model, flip=False)([{"image": image}, {"image": image}])
    assert model.seen == [(40, 40), (80, 80)] * 2


def fuse_by_loops(views, threshold, limit):
    """The docstring of fuse_views, a detection at a time."""
    everything = [(s, b, c, v) for v, (bs, ss, cs) in enumerate(views) for b, s, c in zip(bs, ss, cs)]
    everything.sort(key=lambda item: -item[0])

    def iou(a, b):
        w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)

    kept = []
    for item in everything:
        if not any(k[2] == item[2] and iou(k[1], item[1]) > threshold for k in kept):
            kept.append(item)
    fused = []
    for _, box, label, _ in kept:
        cluster = [item for item in everything if item[2] == label and iou(box, item[1]) >= threshold]
        total = sum(item[0] for item in cluster)
        mean = [sum(item[0] * item[1][i] for item in cluster) / total for i in range(4)]
        best = [max((item[0] for item in cluster if item[3] == v), default=0.0) for v in range(len(views))]
        fused.append((sum(best) / len(views), mean, label))
    return sorted(fused, key=lambda item: -item[0])[:limit]


@pytest.mark.parametrize("limit", [100, 5])
def test_fusion_is_the_formula(limit):
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(6, 2, generator=generator) * 80 + 20
    views = []
    for count in (9, 0, 14, 6):
        middle = centres[torch.randint(6, (count,), generator=generator)] + torch.randn(count, 2, generator=generator)
        size = 12 + 3 * torch.rand(count, 2, generator=generator)
        scores = torch.rand(count, generator=generator)
        views.append((torch.cat([middle - size, middle + size], 1), scores, torch.arange(count) % 2))
    boxes, scores, classes = fuse_views(views, 0.6, limit)
    expected = fuse_by_loops([tuple(part.tolist() for part in view) for view in views], 0.6, limit)
    assert len(expected) == min(limit, len(boxes)) and len(expected) < 29
    torch.testing.assert_close(scores, torch.tensor([item[0] for item in expected]))
    torch.testing.assert_close(boxes, torch.tensor([item[1] for item in expected]))
    assert classes.tolist() == [item[2] for item in expected]


def test_nothing_found_is_nothing():
    nothing = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    boxes, scores, classes = fuse_views([nothing, nothing], 0.6, 100)
    assert boxes.shape == (0, 4) and scores.shape == (0,) and classes.dtype == torch.int64


@pytest.mark.parametrize("size", [(50, 70), (70, 50), (33, 1000)])
def test_resizing_is_detectron2s(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = ResizeShortestEdge(40, 100).get_transform(image).apply_image(image)
    np.testing.assert_array_equal(resize_shortest_edge(image, 40, 100), expected)


def test_a_line_keeps_a_pixel_of_its_shorter_side():
    assert resize_shortest_edge(np.zeros((1, 9000, 3), np.uint8), 40, 100).shape == (1, 100, 3)


@pytest.mark.parametrize("key, value", [("MIN_SIZES", "()"), ("MIN_SIZES", "(0,)"), ("MAX_SIZE", "0")])
def test_impossible_sizes_are_refused(trained, key, value):
    cfg = load_config(str(trained.folder / "config.yaml"), [f"TEST.AUG.{key}", value])
    with pytest.raises(UserError, match=r"TEST\.AUG"):
        DenseTTA(cfg, BrightSpot())


def test_evaluation_reports_both(trained, tmp_path, capsys):
    done = run(
        *("--config-file", trained.folder / "config.yaml", "--eval-only"),
        *("MODEL.WEIGHTS", trained.folder / "model_final.pth", "OUTPUT_DIR", tmp_path),
        *("TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 64)", "TEST.AUG.MAX_SIZE", "100"),
    )
    assert {"bbox", "bbox_TTA"} == set(done.results)
    assert {"AP", "AP-block"} <= set(done.results["bbox_TTA"])
    assert "Results on data/set.json, with test-time augmentation" in capsys.readouterr().out
    plain, augmented = (
        json.loads((tmp_path / "eval" / "data-set" / folder / "coco_instances_results.json").read_text())
        for folder in ("inference", "inference_TTA")
    )
    assert {r["image_id"] for r in augmented} == {0, 1, 2}
    assert plain != augmented
