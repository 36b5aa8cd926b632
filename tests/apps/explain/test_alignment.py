"""The measure of docs/explain.md on pairs made by hand."""

import math

import pytest

pytest.importorskip("detectron2")

import numpy as np
import torch

from fa_detectron.apps.explain import align_boxes, average


def pairs(*boxes: dict[int, tuple[float, float]]) -> tuple[torch.Tensor, ...]:
    """Each box as {location: (score, quality)}: box, location, score, quality."""
    rows = [(g, a, q, r) for g, inside in enumerate(boxes) for a, (q, r) in inside.items()]
    box, location, score, quality = zip(*rows) if rows else ((), (), (), ())
    return torch.tensor(box).long(), torch.tensor(location).long(), torch.tensor(score), torch.tensor(quality)


def test_the_share_of_the_best_quality_that_the_best_score_loses():
    found = align_boxes(*pairs({3: (0.2, 0.8), 5: (0.9, 0.6)}, {7: (0.1, 0.1), 8: (0.3, 0.5)}), torch.tensor([0, 0]))
    assert found.misalignment.tolist() == pytest.approx([0.25, 0])
    assert found.rank_agreement.tolist() == pytest.approx([-1, 1])
    assert found.best_scored.tolist() == [5, 8] and found.best_box.tolist() == [3, 8]
    mean = average([found])
    assert (mean.images, mean.boxes, mean.left_out) == (1, 2, 0)
    assert mean.misalignment == pytest.approx(0.125) and mean.rank_agreement == pytest.approx(0)


def test_only_the_order_of_the_scores_and_the_ratio_of_the_qualities_count():
    generator = torch.Generator().manual_seed(0)
    score, quality = torch.rand(2, 30, generator=generator)
    box, location = torch.arange(30) // 10, torch.arange(30)
    classes = torch.tensor([0, 1, 0])
    plain = align_boxes(box, location, score, quality, classes)
    other = align_boxes(box, location, 0.1 * score**3, 0.25 * quality, classes)
    assert torch.allclose(plain.misalignment, other.misalignment)
    assert torch.equal(plain.rank_agreement, other.rank_agreement)
    for g in range(3):
        ranks = [np.argsort(np.argsort(x[10 * g : 10 * g + 10].numpy())) for x in (score, quality)]
        assert float(plain.rank_agreement[g]) == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_equal_values():
    tied = {0: (0.5, 0.8), 1: (0.5, 0.4), 2: (0.1, 0.2)}
    flat = {10: (0.3, 0.1), 11: (0.3, 0.9)}
    found = align_boxes(*pairs(tied, flat), torch.tensor([0, 0]))
    assert found.misalignment.tolist() == pytest.approx([1 - 0.6 / 0.8, 1 - 0.5 / 0.9])
    # Ranks 1.5, 1.5, 0 and 2, 1, 0; scores that say nothing have no correlation.
    assert found.rank_agreement.tolist() == pytest.approx([math.sqrt(3) / 2, 0])


def test_shared_locations_and_boxes_without_a_choice_are_left_out():
    """Locations 1 and 2 lie in two boxes of class 0; the box of class 1 around all of them does not matter."""
    first = {0: (0.2, 0.5), 1: (0.9, 0.01), 3: (0.4, 0.4)}
    second = {1: (0.9, 0.9), 2: (0.5, 0.5)}
    third = {0: (0.2, 0.1), 1: (0.3, 0.4), 2: (0.1, 0.1)}
    fourth = {2: (0.4, 0.4)}
    boxes = pairs(first, second, third, fourth)
    found = align_boxes(*boxes, torch.tensor([0, 0, 1, 0]))
    assert found.measured.tolist() == [True, False, True, False]
    assert found.misalignment[found.measured].tolist() == pytest.approx([0.2, 0])
    assert found.best_scored.tolist() == [3, -1, 1, -1]
    mean = average([found, found])
    assert (mean.images, mean.boxes, mean.left_out) == (2, 4, 4)
    assert mean.misalignment == pytest.approx(0.1)


def test_without_boxes():
    mean = average([align_boxes(*pairs(), torch.zeros(0, dtype=torch.int64))])
    assert (mean.images, mean.boxes, mean.left_out) == (1, 0, 0) and math.isnan(mean.misalignment)
