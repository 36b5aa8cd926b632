"""The scenes of the built-in set: the same everywhere, with truth boxes that fit what can be seen."""

import hashlib

import numpy as np

from fa_detectron.data.builtin import scenes as builtin_scenes
from fa_detectron.data.builtin.dataset import SPLITS, VERSION, scene_size
from fa_detectron.data.builtin.scenes import CLASS_NAMES, MIN_PIXELS, render_scene

# A change of the generator changes the hash: raise VERSION, so that everybody's copy is made anew.
HASHES = {2: "bf0ae20810632e3a"}


def _scenes(split: str, count: int):
    return [render_scene((SPLITS[split][0], index), *scene_size(index)) for index in range(count)]


def test_pixels_and_boxes_are_those_of_the_version():
    digest = hashlib.sha256()
    for split in SPLITS:
        for scene in _scenes(split, 24):
            for array in (scene.image, scene.boxes, scene.classes, scene.areas):
                digest.update(str(array.shape).encode() + array.tobytes())
    assert {VERSION: digest.hexdigest()[:16]} == HASHES


def test_boxes_lie_in_the_image_and_hold_enough_pixels():
    for index, scene in enumerate(_scenes("train", 40)):
        height, width = scene_size(index)
        assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
        x1, y1, x2, y2 = scene.boxes.T
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
        assert (scene.areas <= (x2 - x1) * (y2 - y1)).all() and (scene.areas >= 0.3 * MIN_PIXELS).all()
        assert ((0 <= scene.classes) & (scene.classes < len(CLASS_NAMES))).all()


def test_boxes_are_tight_around_what_later_shapes_leave_visible(monkeypatch):
    """Painting the recorded outlines one over the other, independently of the generator, gives the same boxes."""
    patches = []
    monkeypatch.setattr(builtin_scenes, "_paint", lambda rng, image, patch, radius: patches.append(patch))
    compared = 0
    for seed in range(30):
        patches.clear()
        scene = render_scene((7, seed), 256, 320)
        seen = np.zeros((256, 320), dtype=int)
        for i, patch in enumerate(patches):
            seen[patch.rows, patch.cols][patch.distance < 0] = i + 1
        expected = set()
        for i in range(len(patches)):
            ys, xs = np.nonzero(seen == i + 1)
            expected.add((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, len(xs)))
        found = {(*box, area) for box, area in zip(scene.boxes.tolist(), scene.areas.tolist())}
        assert found <= expected
        compared += len(found)
    assert compared > 100


def test_sizes_run_from_small_to_large_and_every_class_occurs():
    scenes = _scenes("train", 120)
    areas = np.concatenate([s.areas for s in scenes])
    small, large = (areas < 32**2).mean(), (areas > 96**2).mean()
    assert small > 0.3 and large > 0.02 and 1 - small - large > 0.25
    counts = np.bincount(np.concatenate([s.classes for s in scenes]), minlength=len(CLASS_NAMES))
    assert (counts > 0.1 * counts.sum()).all()
    assert any(len(s.boxes) == 0 for s in scenes)  # an image without a box belongs to the data


def test_splits_share_no_scene():
    train = {s.image.tobytes() for s in _scenes("train", 20)}
    assert not any(s.image.tobytes() in train for s in _scenes("val", 20))
