"""Native decoding where its CUDA kernels take another path: many ties, many candidates, layouts, levels."""

import logging

import pytest
import torch

from fa_detectron.ops import decode_detections, native
from tests.ops.test_native_decode import assert_same, make_maps

pytestmark = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
LOGITS = (-3.0, 0.0, 3.0)


def quantized(maps, levels=3):
    """So few different logits that each score is shared by hundreds of pairs."""
    generator = torch.Generator().manual_seed(1)
    values = torch.tensor(LOGITS[:levels])
    for group in (maps[0], maps[2]):
        for x in group:
            x.copy_(values[torch.randint(0, levels, x.shape, generator=generator)])
    return maps


@pytest.mark.parametrize("topk", [1, 31, 255, 256, 257, 1000, 1999])
@pytest.mark.parametrize("levels", [1, 3])
def test_ties_at_the_last_place(levels, topk):
    """2000 locations of 3 classes with 1 or 9 different scores: first pairs first, wherever the cut is."""
    maps = quantized(make_maps(((40, 50), (10, 20)), n=2, k=3, extent=5.0), levels)
    assert_same(maps, (8, 16), topk=topk, score_threshold=0.0, max_detections=3000)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 1e-35, 0.2])
def test_ties_of_scores_that_are_zero(threshold):
    maps = quantized(make_maps(((20, 30),), n=1, k=2, extent=5.0))
    maps[2][0][:, :, :12] = -200.0  # its sigmoid is 0
    assert_same(maps, (8,), topk=500, score_threshold=threshold, max_detections=700)


@pytest.mark.parametrize("topk", [8192, 8193, 20000])
def test_more_candidates_than_are_sorted_in_shared_memory(topk):
    maps = make_maps(((95, 100),), n=2, k=2, shift=1.0, extent=10.0)
    assert_same(maps, (8,), topk=topk, max_detections=300)


def test_images_that_differ_in_what_passes():
    maps = make_maps(((30, 40), (15, 20)), n=4, k=80, shift=-1.0, extent=20.0)
    maps[0][0][0] = maps[0][1][0] = -50.0  # nothing in the first image
    maps[0][0][1] += 30.0  # all of the second one's first level
    maps[2][0][1] += 30.0
    maps[0][0][3, :, 4:9] = float("nan")
    assert_same(maps, (8, 16), max_detections=1000)


@pytest.mark.parametrize("limit", [31, 32, 33, 255, 256, 257, 1025])
def test_any_number_of_detections(limit):
    assert_same(make_maps(((30, 40), (15, 20)), n=1, k=1, shift=3.0, extent=4.0), (8, 16), max_detections=limit)


@pytest.mark.parametrize("k", [1, 7, 33])
@pytest.mark.parametrize("layout", ["channels_last", "mixed", "strided"])
def test_any_layout_of_float32(layout, k):
    maps = make_maps(((13, 17), (7, 9), (1, 1)), n=2, k=k, shift=1.0)
    expected = decode_detections(*maps, (8, 16, 32))
    last = [[x.contiguous(memory_format=torch.channels_last) for x in group] for group in maps]
    changed = {
        "channels_last": last,
        "mixed": [last[0][:1] + maps[0][1:], last[1], maps[2]],
        "strided": [[torch.stack([x, x], dim=-1)[..., 1] for x in group] for group in maps],
    }[layout]
    for found, wanted in zip(decode_detections(*changed, (8, 16, 32)), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("threshold", [0.6, 0.1, 1 / 3, 1e300, -1.0, float("nan")])
def test_an_overlap_is_compared_as_in_double(threshold):
    """The kernels compare float32 with the next float32 below the threshold."""
    assert_same(make_maps(((20, 20),), n=1, k=1, shift=2.0, extent=20.0), (8,), nms_threshold=threshold)


@pytest.mark.parametrize(("levels", "n"), [(8, 1), (9, 1), (12, 2)])
def test_any_number_of_levels(levels, n):
    maps = make_maps([(3 + i, 4) for i in range(levels)], n=n, k=2)
    assert_same(maps, [8] * levels)


def test_more_than_the_cuda_kernels_take_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(native, "_warned", set())
    within = native.within_cuda_limits
    cuda = [torch.empty(3, 1, 1, 1, device="meta")]
    monkeypatch.setattr(native, "_CUDA_DEVICE", "meta")
    with caplog.at_level(logging.WARNING):
        assert within(cuda * 8, 3)
        assert not caplog.records
        assert not within(cuda * 9, 3) and not within(cuda * 9, 3) and not within(cuda, 2)
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "on a GPU they take up to 8 levels and 3 images, got 9 and 3",
        "on a GPU they take up to 8 levels and 2 images, got 1 and 3",
    ]
