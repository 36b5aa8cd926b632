"""FeatureAlignFPN: shapes, names, where the global attention acts and which cells it may look at."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, Backbone, build_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import nn

from fa_detectron.errors import UserError
from fa_detectron.modeling import FeatureAlignFPN, add_feature_align_config
from fa_detectron.modeling.backbone.fpn import resize_mask

CHANNELS = {"res3": 8, "res4": 12, "res5": 16}
STRIDES = {"res3": 8, "res4": 16, "res5": 32}


class TinyBottomUp(Backbone):
    """Average-pools the image to strides 8, 16, 32 and repeats its channels."""

    def __init__(self):
        super().__init__()
        self._out_features = list(CHANNELS)
        self._out_feature_channels = CHANNELS
        self._out_feature_strides = STRIDES

    def forward(self, images):
        pooled = {k: nn.functional.avg_pool2d(images, s, ceil_mode=True) for k, s in STRIDES.items()}
        return {k: v.repeat(1, CHANNELS[k], 1, 1)[:, : CHANNELS[k]] for k, v in pooled.items()}


class RecordingAttention(nn.Module):
    def forward(self, x, padding_mask):
        self.x, self.padding_mask = x, padding_mask
        return x + 1.0


def make_fpn(global_attention=None, fuse_type="sum"):
    torch.manual_seed(0)
    return FeatureAlignFPN(
        TinyBottomUp(),
        list(CHANNELS),
        4,
        top_block=LastLevelP6P7(4, 4, in_feature="p5"),
        fuse_type=fuse_type,
        global_attention=global_attention,
    ).eval()


@pytest.mark.parametrize("fuse_type", ["sum", "avg"])
def test_without_attention_it_is_detectron2s_fpn(fuse_type):
    ours = make_fpn(fuse_type=fuse_type)
    reference = FPN(
        bottom_up=TinyBottomUp(),
        in_features=list(CHANNELS),
        out_channels=4,
        top_block=LastLevelP6P7(4, 4, in_feature="p5"),
        fuse_type=fuse_type,
    ).eval()
    reference.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 64, 96)  # (N, 3, H, W)
    got, want = ours(images), reference(images)
    assert list(got) == list(want) == ["p3", "p4", "p5", "p6", "p7"]
    for name in want:
        torch.testing.assert_close(got[name], want[name])
    assert ours.size_divisibility == reference.size_divisibility == 32
    assert {k: (v.channels, v.stride) for k, v in ours.output_shape().items()} == {
        f"p{level}": (4, 2**level) for level in range(3, 8)
    }


def test_attention_sees_c5_and_the_nearest_sampled_mask():
    attention = RecordingAttention()
    fpn = make_fpn(attention)
    images = torch.randn(2, 3, 64, 96)
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, 40:] = True  # row 1 of C5 begins at pixel row 32, which is image: not padding
    mask[1, :, 60:] = True  # column 2 of C5 begins at pixel column 64: padding
    with torch.no_grad():
        maps = fpn(images, mask)
        plain = make_fpn()(images)
    assert torch.equal(attention.x, fpn.bottom_up(images)["res5"])
    expected = torch.zeros(2, 2, 3, dtype=torch.bool)
    expected[1, :, 2] = True
    assert attention.padding_mask.dtype == torch.bool
    assert torch.equal(attention.padding_mask, expected)
    # Before the lateral convolution: every coarser and finer map is touched by the changed C5.
    assert all(not torch.allclose(maps[k], plain[k]) for k in maps)


def test_no_mask_stays_no_mask():
    attention = RecordingAttention()
    make_fpn(attention)(torch.randn(1, 3, 32, 32))
    assert attention.padding_mask is None
    assert resize_mask(None, torch.Size((1, 1))) is None


def test_a_canvas_that_32_does_not_divide():
    maps = make_fpn()(torch.randn(1, 3, 72, 104))
    assert [tuple(m.shape[-2:]) for m in maps.values()] == [(9, 13), (5, 7), (3, 4), (2, 2), (1, 1)]


def resnet_cfg(*overrides):
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.merge_from_list(
        ["MODEL.BACKBONE.NAME", "build_feature_align_resnet_fpn_backbone", "MODEL.RESNETS.DEPTH", "50"]
        + [
            "MODEL.RESNETS.OUT_FEATURES",
            "['res3','res4','res5']",
            "MODEL.FPN.IN_FEATURES",
            "['res3','res4','res5']",
        ]
        + list(overrides)
    )
    return cfg


def test_resnet_builder_gives_the_published_names():
    attention = ["MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION.ENABLED", "True"]
    with torch.device("meta"):
        keys = set(build_backbone(resnet_cfg(*attention), ShapeSpec(channels=3)).state_dict())
        plain = set(build_backbone(resnet_cfg(), ShapeSpec(channels=3)).state_dict())
    for key in ("fpn_lateral3", "fpn_lateral5", "fpn_output4", "top_block.p6", "top_block.p7"):
        assert {f"{key}.weight", f"{key}.bias"} <= plain
    assert "bottom_up.stem.conv1.weight" in plain and "bottom_up.res5.2.conv3.norm.running_var" in plain
    assert "fpn_lateral2.weight" not in plain
    added = keys - plain
    assert added and all(key.startswith("global_attention.layers.") for key in added)
    assert len({key.split(".")[2] for key in added}) == 3
    with torch.device("meta"):
        gated = build_backbone(
            resnet_cfg(*attention, "MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION.GATED", "True"), ShapeSpec(channels=3)
        )
    assert set(gated.state_dict()) - keys == {"global_attention.gate"}


def test_heads_that_do_not_divide_the_channels_are_refused():
    cfg = resnet_cfg(
        "MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION.ENABLED",
        "True",
        "MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION.NUM_HEADS",
        "7",
    )
    with torch.device("meta"), pytest.raises(UserError, match=r"GLOBAL_ATTENTION.* 2048 channels .* 7 heads"):
        build_backbone(cfg, ShapeSpec(channels=3))


def test_p6_may_come_from_c5():
    cfg = get_cfg()
    add_feature_align_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_feature_align_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FEATURE_ALIGN.P6_FEATURE = "res5"
    fpn = build_backbone(cfg).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = fpn.top_block.p6(fpn.bottom_up(images)["res5"])
        assert torch.equal(fpn(images)["p6"], wanted)
    cfg.MODEL.FEATURE_ALIGN.P6_FEATURE = "p4"
    with pytest.raises(UserError, match="P6_FEATURE is 'p4', but must be p5 or res5"):
        build_backbone(cfg)


@pytest.mark.parametrize("cells", [1, 2])
def test_coarsest_maps_of_a_cell_have_true_gradients_in_bfloat16(cells):
    fpn = make_fpn()
    weight = fpn.top_block.p7.weight
    images = torch.randn(2, 3, 32 * cells, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    for amp in (False, True):
        weight.grad = None
        # What a freed block of this size held turns up in the wrong gradient.
        garbage = [torch.full(weight.shape, math.nan, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
        del garbage
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            fpn(images)["p7"].sum().backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.1, atol=0.05 * gradients[0].abs().max().item())
