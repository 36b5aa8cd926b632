"""The predictor finds what the evaluation found, whatever way an image comes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fa_detectron.errors import UserError
from fa_detectron.inference import ImageReader, Predictor
from tests.inference.conftest import CLASSES


def assert_same(one, other):
    assert one.image_size == other.image_size
    torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(one.pred_boxes.tensor, other.pred_boxes.tensor, atol=1e-3, rtol=1e-4)
    assert torch.equal(one.pred_classes, other.pred_classes)


def test_it_finds_what_the_runs_evaluation_found(trained, predictor):
    written = json.loads((trained.folder / "inference" / "coco_instances_results.json").read_text())
    for number in range(3):
        expected = [result for result in written if result["image_id"] == number]
        found = predictor(trained.images / f"{number}.png")
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found.scores, [r["score"] for r in expected], atol=1e-5)
        boxes = found.pred_boxes.tensor.clone()  # (D, 4)
        boxes[:, 2:] -= boxes[:, :2]
        np.testing.assert_allclose(boxes, [r["bbox"] for r in expected], atol=1e-3)
        assert [predictor.category_ids[c] for c in found.pred_classes] == [r["category_id"] for r in expected]


def test_attributes(predictor):
    assert predictor.class_names == CLASSES


def test_kinds_of_images_give_the_same(trained, predictor):
    path = trained.images / "1.png"
    array = ImageReader().read(path)
    expected = predictor(str(path))
    for image in (path, Image.open(path), array, torch.from_numpy(array).permute(2, 0, 1)):
        assert_same(predictor(image), expected)


def test_channel_order_matters(trained):
    array = np.zeros((64, 64, 3), np.uint8)
    array[10:40, 10:40, 0] = 255
    bgr = Predictor.from_run(trained.folder, device="cpu", colour="BGR")
    rgb = Predictor(bgr.run)
    assert_same(bgr(array[:, :, ::-1]), rgb(array))
    assert not torch.equal(bgr(array).scores, rgb(array).scores)


def test_a_list_gives_what_single_images_give(trained, predictor):
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (64, 96), (30, 40), (64, 96), (63, 64)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    whole = Predictor(predictor.run, batch_size=5)
    for found, image in zip(whole(images), images, strict=True):
        assert_same(found, predictor(image))
    assert predictor([]) == []


@pytest.mark.parametrize("size", [(1, 1), (50, 10000), (10000, 50), (1, 5000)])
def test_extreme_sizes(predictor, size):
    found = predictor(np.full((*size, 3), 99, np.uint8))
    assert found.image_size == size
    boxes = found.pred_boxes.tensor
    assert len(boxes) and boxes.isfinite().all()
    assert (boxes >= 0).all() and (boxes[:, 2] <= size[1]).all() and (boxes[:, 3] <= size[0]).all()


def test_score_threshold(trained, predictor):
    path = trained.images / "0.png"
    everything = predictor(path)
    middle = float(everything.scores.median())
    assert_same(Predictor(predictor.run, score_threshold=middle)(path), everything[everything.scores >= middle])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, "from 0 to 1"),
        ({"batch_size": 0}, "batch size 0"),
        ({"colour": "HSV"}, "'HSV': expected RGB or BGR"),
    ],
)
def test_impossible_options_are_refused(predictor, options, message):
    with pytest.raises(UserError, match=message):
        Predictor(predictor.run, **options)


def test_a_threshold_below_the_models_is_refused(trained):
    with pytest.raises(UserError, match=r"leaves out scores up to 0\.2; override MODEL\.FEATURE_ALIGN\.SCORE"):
        Predictor.from_run(
            trained.folder,
            device="cpu",
            score_threshold=0.1,
            overrides=["MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST", "0.2"],
        )


def test_the_bad_image_of_a_list_is_named(predictor):
    with pytest.raises(UserError, match="image 2: "):
        predictor([np.zeros((4, 4, 3), np.uint8)] * 2 + [np.zeros((4, 4, 5), np.uint8)])


def test_one_view_adds_nothing(trained, predictor):
    words = ["TEST.AUG.MIN_SIZES", "(64,)", "TEST.AUG.MAX_SIZE", "128", "TEST.AUG.FLIP", "False"]
    augmented = Predictor.from_run(trained.folder, device="cpu", tta=True, overrides=words)
    plain, found = predictor(trained.images / "0.png"), augmented(trained.images / "0.png")
    # Fusing sees the boxes clipped to the image, where more of them are the same object; scores stay as they are.
    assert found.image_size == (64, 64) and 0 < len(found) <= len(plain)
    assert torch.cdist(found.scores[:, None], plain.scores[:, None]).min(1).values.max() < 1e-5
    assert found.scores[0] == pytest.approx(float(plain.scores[0]), abs=1e-5)
