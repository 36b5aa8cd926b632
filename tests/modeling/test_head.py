"""The head against the published implementation, its start and its contract."""

import math

import pytest
import torch

from fa_detectron.modeling.head import FeatureAlignHead
from tests.golden import load_golden, relative_error, state_dict


@pytest.mark.parametrize("method", ["feature_align", "auto_assign"])
def test_agrees_with_the_published_numbers(method):
    data = load_golden("head")
    head = FeatureAlignHead(
        int(data["channels"]),
        int(data["num_classes"]),
        int(data["num_convs"]),
        data["strides"].tolist(),
        de_subnet=method == "feature_align",
    )
    head.load_state_dict(state_dict(data, f"{method}.state."))
    outputs = head([torch.from_numpy(data[f"feature_{level}"]) for level in range(5)])
    for name, maps in zip(("cls_logits", "box_ltrb", "obj_logits"), outputs, strict=True):
        for level, found in enumerate(maps):
            assert relative_error(found, data[f"{method}.{name}_{level}"]) < 1e-4, (name, level)


def test_published_names_and_start():
    head = FeatureAlignHead(32, num_classes=3, num_convs=4, strides=(8, 16), de_subnet=True)
    names = set(head.state_dict())
    assert {"cls_subnet.9.offset.weight", "cls_subnet.9.conv.weight", "bbox_subnet.9.conv.bias"} <= names
    assert "scales.1.scale" in names
    assert head.cls_subnet[9].offset.out_channels == 27
    assert head.cls_score.bias[0].item() == pytest.approx(-math.log(0.98 / 0.02))
    assert head.bbox_pred.bias.tolist() == [4.0] * 4
    assert head.cls_subnet[0].weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert head.cls_subnet[9].offset.weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_the_deformable_convs_keep_their_own_start():
    """The published code initialises plain convs alone; its deformable conv is uniform within 1 / sqrt(9 C)."""
    head = FeatureAlignHead(64, num_classes=3, num_convs=4, strides=(8, 16), de_subnet=True)
    for subnet in (head.cls_subnet, head.bbox_subnet):
        weight = subnet[9].conv.weight
        assert weight.abs().max().item() == pytest.approx(1 / 24, rel=0.01)
        assert weight.std().item() == pytest.approx(1 / 24 / 3**0.5, rel=0.02)
        assert not subnet[9].conv.bias.any()


def test_distances_are_pixels_in_float32_under_autocast():
    head = FeatureAlignHead(32, num_classes=2, num_convs=1, strides=(8, 16), de_subnet=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, ltrb, _ = head([torch.randn(1, 32, 4, 4), torch.randn(1, 32, 2, 2)])
    assert [x.dtype for x in ltrb] == [torch.float32, torch.float32]
    assert [round(x.mean().item() / 4) for x in ltrb] == [8, 16]  # the box bias starts at 4 cells
    for x in ltrb:
        assert (x != x.bfloat16()).float().mean() > 0.9  # float32 from the convolution on, not rounded before


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="divisible by 32"):
        FeatureAlignHead(40, 2, 1, (8,), de_subnet=False)
    with pytest.raises(ValueError, match="built for 2 levels, got 1"):
        FeatureAlignHead(32, 2, 1, (8, 16), de_subnet=False)([torch.zeros(1, 32, 4, 4)])


def test_a_map_of_one_cell_and_one_value_a_group():
    head = FeatureAlignHead(32, num_classes=2, num_convs=1, strides=(128,), de_subnet=True)
    assert all(torch.isfinite(maps[0]).all() for maps in head([torch.randn(1, 32, 1, 1)]))
