"""Native decoding against the plain-PyTorch reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fa_detectron.ops import decode_detections, native, reference

pytestmark = pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")


def make_maps(sizes=((13, 17), (7, 9)), n=2, k=5, dtype=torch.float32, seed=0, shift=0.0, extent=30.0):
    generator = torch.Generator().manual_seed(seed)
    return (
        [(torch.randn((n, k, *size), generator=generator) * 2 + shift).to(dtype) for size in sizes],
        [(torch.rand((n, 4, *size), generator=generator) * extent).to(dtype) for size in sizes],
        [torch.randn((n, 1, *size), generator=generator).to(dtype) for size in sizes],
    )


def assert_same(maps, strides, **options):
    """Same detections in the same order; scores may round differently in their last place."""
    found = decode_detections(*maps, strides, **options)
    expected = reference.decode_detections(*maps, strides, **options)
    assert len(found) == len(expected)
    for (boxes, scores, classes), (want_boxes, want_scores, want_classes) in zip(found, expected):
        assert classes.tolist() == want_classes.tolist()
        assert torch.equal(boxes, want_boxes)
        torch.testing.assert_close(scores, want_scores, rtol=1e-6, atol=0)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), min_size=1, max_size=3),
    n=st.integers(0, 3),
    k=st.integers(1, 6),
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 0.5]),
    threshold=st.sampled_from([-1.0, 0.0, 0.05, 0.7]),
    topk=st.sampled_from([0, 1, 10, 1000]),
    nms=st.sampled_from([0.0, 0.3, 0.6, 1.0]),
    limit=st.sampled_from([0, 1, 7, 100]),
    dtype=st.sampled_from([torch.float64, torch.bfloat16]),
)
@settings(max_examples=80, deadline=None)
def test_agrees_with_the_reference(sizes, n, k, seed, offset, threshold, topk, nms, limit, dtype):
    maps = make_maps(sizes, n, k, dtype, seed)
    options = {"location_offset": offset, "score_threshold": threshold, "topk": topk, "nms_threshold": nms}
    if dtype == torch.bfloat16:  # many equal scores: equal in both, since the exact sigmoid rounds one way
        maps = tuple([x.float() for x in group] for group in maps)
        maps[2][0].round_()
    assert_same(maps, [8 * 2**i for i in range(len(sizes))], max_detections=limit, **options)


@pytest.mark.parametrize("shift", [-5.0, 3.0], ids=["few pass", "all pass"])
def test_a_big_level_in_several_parts(shift):
    assert_same(make_maps(((90, 130), (45, 65)), n=2, k=9, dtype=torch.float64, shift=shift, extent=60.0), (8, 16))


@pytest.mark.parametrize("value", [0.0, 40.0, -40.0, float("inf"), -float("inf"), float("nan")])
def test_equal_scores_and_extreme_logits(value):
    maps = make_maps(((70, 80),), n=1, k=9)  # so many classes that the last ones come after the first cut to topk
    maps[0][0].fill_(value)
    maps[2][0].fill_(40.0)
    assert_same(maps, (8,))
    maps[2][0].fill_(value)
    assert_same(maps, (8,))


def test_bad_boxes_do_not_crash():
    maps = make_maps()
    maps[1][0].view(-1)[::3] = float("nan")
    maps[1][1].view(-1)[::3] = float("inf")
    for boxes, scores, classes in decode_detections(*maps, (8, 16)):
        assert len(boxes) == len(scores) == len(classes)


def test_thousands_of_detections():
    """Boxes that touch nobody: all 1600 candidates stay."""
    maps = make_maps(((40, 40),), n=1, k=2, shift=3.0, extent=3.0)
    assert_same(maps, (8,), topk=1600, max_detections=2000)
    assert len(decode_detections(*maps, (8,), topk=1600, max_detections=2000)[0][0]) == 1600


def crowded_scores(count, seed=0):
    """One row of cells of one class, (1, 1, 1, count) class and objectness logits, all scores within 1e-5 of 0.05."""
    generator = torch.Generator().manual_seed(seed)
    obj = torch.rand(1, 1, 1, count, generator=generator, dtype=torch.float64) * 6 - 2.5
    score = 0.05 * (1 + 1e-5 * (torch.rand(1, 1, 1, count, generator=generator, dtype=torch.float64) - 0.5))
    return torch.logit(score / obj.sigmoid()).float(), obj.float()


@pytest.mark.parametrize("topk", [700, 5000])
def test_scores_are_rounded_once_and_none_is_lost(topk):
    """By threshold or rank: the bounds on the logits that spare most sigmoids are a little too low, never too high."""
    cls, obj = crowded_scores(5000)
    exact = (cls.double().sigmoid().float() * obj.double().sigmoid().float()).flatten()
    order = exact.sort(descending=True, stable=True).indices
    expected = exact[order][exact[order] > 0.05][:topk]
    no_extent = torch.zeros(1, 4, 1, 5000)  # suppresses nobody
    ((_, scores, _),) = decode_detections([cls], [no_extent], [obj], (8,), topk=topk, max_detections=5000)
    assert 0 < len(expected) < 5000 and torch.equal(scores, expected)


def test_duplicates_of_hundreds_of_detections():
    """The second level holds the first one's boxes again, at lower scores."""
    maps = make_maps(((20, 20), (20, 20)), n=1, k=1, shift=3.0, extent=3.0)
    maps[0][1], maps[1][1], maps[2][1] = maps[0][0] - 1, maps[1][0], maps[2][0]
    options = {"score_threshold": 0.0, "max_detections": 1000}
    assert_same(maps, (8, 8), **options)
    assert len(decode_detections(*maps, (8, 8), **options)[0][0]) == 400


def test_any_layout():
    maps = make_maps(dtype=torch.float64)
    expected = decode_detections(*maps, (8, 16))
    last = [[x.contiguous(memory_format=torch.channels_last) for x in group] for group in maps]
    strided = [[torch.stack([x, x], dim=-1)[..., 1] for x in group] for group in maps]
    for changed in (last, strided):
        for found, wanted in zip(decode_detections(*changed, (8, 16)), expected):
            assert all(torch.equal(a, b) for a, b in zip(found, wanted))


def test_the_same_detections_for_any_number_of_threads():
    maps = make_maps(((90, 130), (45, 65)), k=9, shift=2.0)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(decode_detections(*maps, (8, 16)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for one, other in zip(results[0], result) for a, b in zip(one, other))


def test_opcheck():
    options = (0.0, 0.05, 1000, 0.6, 100)
    torch.library.opcheck(torch.ops.fa_detectron.decode_detections.default, (*make_maps(), [8.0, 16.0], *options))
    small = make_maps(((1, 2),), n=1)
    torch.library.opcheck(torch.ops.fa_detectron.decode_detections.default, (*small, [8.0], *options))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_float32(dtype):
    maps = [[x.to(dtype) for x in group] for group in make_maps(shift=1.0)]
    expected = decode_detections(*maps, (8, 16))
    with torch.autocast("cpu", dtype):
        found = decode_detections(*maps, (8, 16))
        boxes, *_ = torch.ops.fa_detectron.decode_detections(*maps, [8.0, 16.0], 0.0, 0.05, 1000, 0.6, 100)
    assert all(torch.equal(a, b) for one, other in zip(found, expected) for a, b in zip(one, other))
    assert boxes.dtype == torch.float32


def test_the_operator_refuses_wrong_shapes():
    cls, box, obj = make_maps()
    with pytest.raises(ValueError, match=r"box_ltrb\[1\] must be \(2, 4, 7, 9\)"):
        torch.ops.fa_detectron.decode_detections(cls, [box[0], box[1][:, :3]], obj, [8.0, 16.0], 0.0, 0.05, 9, 0.6, 9)
    with pytest.raises(ValueError, match="float32 or float64"):
        torch.ops.fa_detectron.decode_detections(
            *[[x.half() for x in group] for group in (cls, box, obj)], [8.0, 16.0], 0.0, 0.05, 9, 0.6, 9
        )


def test_a_tangent_of_the_boxes_is_refused_in_words():
    cls, (first, *rest), obj = make_maps()
    with pytest.raises(RuntimeError, match="no forward-mode derivative"):
        torch.func.jvp(lambda box: decode_detections(cls, [box, *rest], obj, (8, 16))[0][0], (first,), (first,))
