"""Augmented boxes stay on their objects, and what is drawn follows from the seed and the sample's number."""

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from PIL import Image

from fa_detectron.data.training.augmentation import ScaleJitter, mosaic, train_augmentations, visible_shares
from fa_detectron.data.training.mapper import DetectionMapper
from fa_detectron.data.training.stream import NumberedSamples
from fa_detectron.engine import load_config
from fa_detectron.errors import UserError
from tests.engine.tiny import BASE

SIDE = 120


def config(**options: object) -> CfgNode:
    """Sizes of 96 pixels; no flip but where it is asked for."""
    words = ["INPUT.MIN_SIZE_TRAIN", "96", "INPUT.RANDOM_FLIP", "none"]
    return load_config(
        str(BASE), words + [str(word) for key, value in options.items() for word in (f"INPUT.{key}", value)]
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> list[dict]:
    """Images with one object each, a bright rectangle of its own grey level and class on black."""
    folder = tmp_path_factory.mktemp("blocks")
    result = []
    for index, (x, y, w, h) in enumerate([(10, 20, 40, 30), (60, 50, 50, 60), (5, 5, 30, 80), (40, 10, 70, 25)]):
        pixels = np.zeros((SIDE, SIDE + 40 * (index % 2), 3), dtype=np.uint8)
        pixels[y : y + h, x : x + w] = 100 + 50 * index
        path = folder / f"{index}.png"
        Image.fromarray(pixels).save(path)
        box = {"bbox": [x, y, w, h], "bbox_mode": BoxMode.XYWH_ABS, "category_id": index, "iscrowd": 0}
        size = {"height": pixels.shape[0], "width": pixels.shape[1]}
        result.append({"file_name": str(path), "image_id": index, "annotations": [box], **size})
    return result


def samples(records: list[dict], cfg: CfgNode) -> NumberedSamples:
    return NumberedSamples(records, DetectionMapper(cfg, is_train=True), seed=3, mosaic=cfg.INPUT.MOSAIC)


def covered(shape: tuple[int, int], boxes: np.ndarray, margin: float) -> np.ndarray:
    """(H, W) bool of the pixels in any of the boxes (N, 4) xyxy, grown by so many pixels."""
    mask = np.zeros(shape, dtype=bool)
    for x1, y1, x2, y2 in boxes:
        left, top = (max(0, int(np.ceil(v - margin))) for v in (x1, y1))
        right, bottom = (max(0, int(np.floor(v + margin))) for v in (x2, y2))
        mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    "options",
    [
        {"SCALE_JITTER": "(0.4, 2.5)"},
        {"MOSAIC": "1.0"},
        {"SCALE_JITTER": "(0.5, 2.0)", "MOSAIC": "0.5", "RANDOM_FLIP": "horizontal", "CROP.ENABLED": "True"},
    ],
    ids=lambda options: "+".join(options),
)
def test_boxes_stay_on_their_objects(records, options):
    data = samples(records, config(**options))
    sizes, found, several = set(), 0, 0
    for number in range(60):
        item = data[(number, number % 4)]
        image, truth = item["image"].permute(1, 2, 0).numpy(), item["instances"]
        assert truth.image_size == image.shape[:2]
        sizes.add(image.shape[:2])
        several += len(truth) > 1
        boxes = truth.gt_boxes.tensor.numpy()
        for box, label in zip(boxes, truth.gt_classes.tolist()):
            inside = image[covered(image.shape[:2], box[None], -2)]
            assert np.abs(inside.astype(int) - (100 + 50 * label)).max(initial=0) <= 25
            found += 1
        assert not np.any(image[~covered(image.shape[:2], boxes, 2)] > 50)
    assert found >= 40 and max(min(size) for size in sizes) <= 96
    assert len(sizes) > 20 or "SCALE_JITTER" not in options
    assert several > 10 or "MOSAIC" not in options


def test_a_sample_follows_from_seed_and_number(records):
    cfg = config(SCALE_JITTER="(0.5, 2.0)", MOSAIC="0.5", COLOR_JITTER="0.4")
    first, again = (samples(records, cfg) for _ in range(2))
    forwards = [first[(number, number % 4)] for number in range(8)]
    backwards = [again[(number, number % 4)] for number in reversed(range(8))]
    for one, two in zip(forwards, reversed(backwards)):
        assert np.array_equal(one["image"], two["image"])
        assert np.array_equal(one["instances"].gt_boxes.tensor, two["instances"].gt_boxes.tensor)
    other = [first[(number, 0)]["image"] for number in range(4)]
    assert any(image.shape != other[0].shape or not np.array_equal(image, other[0]) for image in other[1:])


def test_off_draws_nothing_and_changes_nothing(records):
    """What the published configs draw stays what it was."""
    cfg = config()
    standard = [object()]
    assert train_augmentations(cfg, standard) == standard

    def drawn(record: dict) -> float:
        return np.random.uniform()

    assert NumberedSamples(records, drawn, 3, 0.0)[(5, 0)] == NumberedSamples(records, drawn, 3)[(5, 0)]


def test_colour_changes_pixels_and_no_box(records):
    plain, coloured = (samples(records, config(COLOR_JITTER=value))[(1, 1)] for value in (0.0, 0.5))
    assert plain["image"].shape == coloured["image"].shape and not np.array_equal(plain["image"], coloured["image"])
    assert np.array_equal(plain["instances"].gt_boxes.tensor, coloured["instances"].gt_boxes.tensor)


def test_red_stays_red_in_either_order_of_channels(tmp_path):
    """Saturation weighs the channels of RGB; a BGR model gets the same image in its own order."""
    Image.fromarray(np.full((40, 40, 3), (200, 60, 20), dtype=np.uint8)).save(tmp_path / "red.png")
    record = {"file_name": str(tmp_path / "red.png"), "height": 40, "width": 40, "annotations": []}
    rgb, bgr = (
        samples([record], config(COLOR_JITTER="0.5", FORMAT=order))[(2, 0)]["image"] for order in ("RGB", "BGR")
    )
    assert rgb[0, 0, 0] > rgb[2, 0, 0] and np.array_equal(rgb, bgr.flip(0))


@pytest.mark.parametrize("least, kept", [("0.0", True), ("0.5", False)])
def test_a_box_that_a_crop_leaves_too_little_of_goes(records, least, kept):
    """A quarter of the image, again and again: most crops leave a part of the object."""
    cfg = config(**{"CROP.ENABLED": "True", "CROP.TYPE": "relative", "CROP.SIZE": "(0.5, 0.5)", "MIN_VISIBLE": least})
    data = samples(records[:1], cfg)
    scale = 96 / 60  # the crop is half of 120 x 120 pixels
    areas = [data[(n, 0)]["instances"].gt_boxes.area().sum().item() / (40 * 30 * scale**2) for n in range(60)]
    assert any(0 < share < 0.45 for share in areas) == kept and any(share == 0 for share in areas)


def test_jitter_shows_an_object_wherever_it_can():
    from detectron2.data import transforms as T

    boxes = np.array([[0.0, 0.0, 6.0, 6.0]])
    jitter = ScaleJitter(T.ResizeShortestEdge(64, 64), (4.0, 4.0), 0.5)
    np.random.seed(0)
    for _ in range(50):
        transform = jitter.get_transform(np.zeros((64, 64, 3), dtype=np.uint8), boxes)
        assert visible_shares(transform.apply_box(boxes), 64, 64)[0] >= 0.5
    tiny = jitter.get_transform(np.zeros((1, 3, 3), dtype=np.uint8), np.zeros((0, 4)))
    assert min(tiny.apply_image(np.zeros((1, 3, 3), dtype=np.uint8)).shape) >= 1


def test_a_mosaic_of_pixels_is_one():
    np.random.seed(0)
    parts = [(np.full((1, 1, 3), grey, dtype=np.uint8), []) for grey in (10, 20, 30, 40)]
    image, annotations = mosaic(parts, 0.0)
    assert image.shape == (1, 1, 3) and annotations == []


@pytest.mark.parametrize(
    "key, value",
    [("SCALE_JITTER", "(2.0, 0.5)"), ("SCALE_JITTER", "(0.0, 1.0)"), ("SCALE_JITTER", "(1.5,)"),
     ("COLOR_JITTER", "1.0"), ("MIN_VISIBLE", "1.5"), ("MOSAIC", "-0.1")],
)  # fmt: skip
def test_values_outside_their_range_are_refused(key, value):
    with pytest.raises(UserError, match=rf"INPUT\.{key} is .*, but must be "):
        DetectionMapper(config(**{key: value}), is_train=True)
