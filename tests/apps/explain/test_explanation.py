"""Maps against the loss and against their definition, on a small detector that finds things in noise."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("detectron2")

import numpy as np
import torch
from detectron2.structures import BoxMode
from PIL import Image
from torch import nn

from fa_detectron.apps.explain import MAPS, alignment_picture, explain_image, level_picture, prior_picture
from fa_detectron.apps.explain.pictures import figures_text
from fa_detectron.engine import load_config
from fa_detectron.errors import UserError
from fa_detectron.inference import Predictor, Run
from fa_detectron.ops import quality_weighted_loss
from fa_detectron.ops.reference.quality import pair_confidence
from tests.apps.export.tiny import make_model
from tests.engine.tiny import BASE

BOXES, CLASSES = [[4.0, 6.0, 60.0, 50.0], [30.0, 20.0, 90.0, 58.0], [70.0, 2.0, 77.0, 6.0]], [0, 1, 2]
NAMES = ("ring $_", "cone", "speck")


@pytest.fixture(scope="module")
def run() -> Run:
    words = ["INPUT.MIN_SIZE_TEST", "60", "INPUT.MAX_SIZE_TEST", "100"]
    return Run("somewhere", load_config(str(BASE), words), make_model(), NAMES, (1, 2, 3))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An image of 120 x 200 pixels, seen at half its size, and in the padding of a canvas of 64 x 128."""
    path = tmp_path_factory.mktemp("images") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 200, 3), dtype=np.uint8)).save(path)
    annotations = [
        {"bbox": [2 * v for v in box], "bbox_mode": BoxMode.XYXY_ABS, "category_id": label, "iscrowd": 0}
        for box, label in zip(BOXES, CLASSES)
    ]
    crowd = {"bbox": [0, 0, 200, 120], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 1}
    return {"file_name": str(path), "image_id": 1, "height": 120, "width": 200, "annotations": [*annotations, crowd]}


def test_weights_and_qualities_are_those_of_the_loss(run, record):
    model, seen = run.model, explain_image(run, record)
    assert seen.image.shape == (60, 100, 3) and torch.equal(seen.boxes, torch.tensor(BOXES))
    assert seen.alignment.measured.tolist() == [True, True, False]
    box, location = seen.pairs
    bags = torch.zeros(3).index_add(0, box, seen.weight)
    assert torch.allclose(bags, torch.tensor([1.0, 1.0, 0.0]))  # the third box holds no location
    with torch.no_grad():
        item = Predictor(run).model_input(np.asarray(Image.open(record["file_name"])))
        images = model.preprocess([item])
        features = model.backbone(images.tensor, model.padding_mask(images))
        maps = model.head([features[name] for name in model.in_features])
        loss = quality_weighted_loss(
            *maps, [seen.boxes], [seen.classes], model.mu, model.sigma, model.head.strides, normalizers=(1.0, 1.0)
        )
    score = seen.scores[location, seen.classes[box]]
    bag = torch.zeros(3).index_add(0, box, seen.weight * pair_confidence(score, seen.quality, True))
    assert 0.25 * -bag.log().clamp(min=-100).sum() == pytest.approx(float(loss["loss_pos"]), rel=1e-5)


def test_weights_follow_the_runs_own_loss_and_qualities_the_published_form(run, record, monkeypatch):
    published = explain_image(run, record)
    own = {**run.model.loss_options, "iou_type": "iou", "feature_filter": False}
    monkeypatch.setattr(run.model, "loss_options", own)
    other = explain_image(run, record)
    assert torch.equal(other.quality, published.quality) and not torch.allclose(other.weight, published.weight)


def test_maps_have_the_values_of_their_locations(run, record):
    seen = explain_image(run, record)
    start = 0
    for level, (height, width) in enumerate(seen.sizes):
        maps = {kind: seen.level_map(kind, level) for kind in MAPS}
        for cell in range(height * width):
            x, y = (int(v) for v in seen.locations[start + cell])
            if x >= 100 or y >= 60:
                continue
            inside = [g for g, (x1, y1, x2, y2) in enumerate(BOXES) if x1 < x < x2 and y1 < y < y2]
            of_pair = [i for i, a in enumerate(seen.pairs[1].tolist()) if a == start + cell]
            assert len(of_pair) == len(inside)
            scores = seen.scores[start + cell]
            expected = max(scores[CLASSES[g]] for g in inside) if inside else scores.max()
            assert maps["score"][y, x] == expected
            for kind in ("quality", "weight"):
                expected = max((getattr(seen, kind)[i] for i in of_pair), default=0)
                assert maps[kind][y, x] == expected
        start += height * width


def test_merged_maps_stay_within_their_boxes(run, record):
    seen = explain_image(run, record)
    covered = torch.zeros(60, 100, dtype=torch.bool)
    for x1, y1, x2, y2 in BOXES:
        covered[int(y1) : int(y2), int(x1) : int(x2)] = True
    for kind in ("quality", "weight"):
        merged = seen.merged_map(kind)
        assert merged.shape == (60, 100) and not merged[~covered].any()
        assert 0 < merged.max() <= getattr(seen, kind).max()
    assert (seen.merged_map("score") > 0).all()


def test_pictures_of_several_runs(run, record):
    first, second = explain_image(run, record), explain_image(run, {**record, "annotations": []})
    assert "2 boxes, 1 left out" in figures_text(first)
    assert figures_text(second) == "no box to measure"
    rows = [alignment_picture([("a $", first), ("b", second)][:n], NAMES, ["all: 0.1"] * n) for n in (1, 2)]
    assert rows[0].width == rows[1].width and rows[0].height < rows[1].height
    columns = [level_picture([("a $", first), ("b", second)][:n]) for n in (1, 2)]
    assert columns[0].height == columns[1].height and columns[0].width < columns[1].width
    assert len(np.unique(np.asarray(rows[1]).reshape(-1, 3), axis=0)) > 100


def test_priors_of_one_and_of_several_levels(run):
    shared = make_model()
    shared.mu, shared.sigma = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(-2 * torch.ones(3, 2))
    picture = prior_picture([("MDQ $", run), ("one Gaussian", dataclasses.replace(run, model=shared))])
    assert picture.width > 5 * 200 and picture.height > 2 * 200


def test_bad_input(run, record, tmp_path: Path):
    with pytest.raises(UserError, match="no ground truth"):
        explain_image(run, {key: record[key] for key in record if key != "annotations"})
    with pytest.raises(UserError, match=r"gone\.png"):
        explain_image(run, {**record, "file_name": str(tmp_path / "gone.png")})
    with pytest.raises(UserError, match="META_ARCHITECTURE is Identity"):
        explain_image(dataclasses.replace(run, model=nn.Identity()), record)
