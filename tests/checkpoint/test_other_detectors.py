"""Starting from RetinaNet, FCOS, Faster R-CNN and AutoAssign: what means the same comes over, and the log says what.

The state dicts are those of Detectron2's own modules with the settings of the model zoo, narrower, so that it is quick.
"""

import logging
import pickle

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from torch import nn

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.checkpoint.other_detectors import adapt_names
from fa_detectron.engine import load_config
from fa_detectron.errors import UserError
from tests.checkpoint.test_cvpods import SMALL, cvpods_state, detector
from tests.engine.tiny import BASE

BACKBONE = 265  # tensors of ResNet-50
CONFIGS = BASE.parent


# What the zoo's base configs set.
RETINANET = {
    "META_ARCHITECTURE": "RetinaNet",
    "BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    "RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "ANCHOR_GENERATOR.SIZES": [[size, size * 2 ** (1 / 3), size * 2 ** (2 / 3)] for size in (32, 64, 128, 256, 512)],
}
FASTER_RCNN = {
    "META_ARCHITECTURE": "GeneralizedRCNN",
    "BACKBONE.NAME": "build_resnet_fpn_backbone",
    "RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "ROI_HEADS.NAME": "StandardROIHeads",
    "ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "ROI_BOX_HEAD.NUM_FC": 2,
    "ROI_BOX_HEAD.FC_DIM": 16,
}


def zoo_state(options: dict) -> dict[str, torch.Tensor]:
    cfg = get_cfg()
    cfg.merge_from_list([*SMALL, *(word for key, value in options.items() for word in (f"MODEL.{key}", value))])
    torch.manual_seed(0)
    return build_model(cfg).state_dict()


def retinanet_state() -> dict[str, torch.Tensor]:
    return zoo_state(RETINANET)


def fcos_state() -> dict[str, torch.Tensor]:
    """RetinaNet's backbone with Detectron2's FCOS head, with GroupNorm as in its config."""
    fcos = pytest.importorskip("detectron2.modeling.meta_arch.fcos")

    def norm(channels: int) -> nn.GroupNorm:  # "GN", which PyTorch refuses for the one channel that Detectron2 tries
        return nn.GroupNorm(min(32, channels), channels)

    head = fcos.FCOSHead(input_shape=[ShapeSpec(channels=32)] * 5, conv_dims=[32] * 4, num_classes=80, norm=norm)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    state = {name: value for name, value in retinanet_state().items() if not name.startswith(("head.", "anchor"))}
    return state | {f"head.{name}": value for name, value in head.state_dict().items()}


def load(tmp_path, state: dict, model, caplog, as_pickle: bool = False) -> str:
    """Load it as MODEL.WEIGHTS would be; the log."""
    path = tmp_path / ("zoo.pkl" if as_pickle else "zoo.pth")
    if as_pickle:  # as the model zoo has it
        arrays = {name: value.numpy() for name, value in state.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    else:
        torch.save({"model": state}, path)
    logging.getLogger("fa_detectron").propagate = True
    caplog.clear()
    with caplog.at_level("INFO", logger="fa_detectron.checkpoint.fit"):
        FeatureAlignCheckpointer(model).load(str(path), checkpointables=[])
    return caplog.text


def same(model, ours: str, state: dict, theirs: str) -> bool:
    return torch.equal(model.state_dict()[ours], state[theirs])


def test_retinanet_gives_backbone_fpn_and_towers(tmp_path, caplog):
    """Its towers have no norms, so that its fourth convolution has the number of our third."""
    state, model = retinanet_state(), detector("MODEL.FEATURE_ALIGN.NUM_CLASSES", 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    log = load(tmp_path, state, model, caplog, as_pickle=True)
    for subnet in ("cls_subnet", "bbox_subnet"):
        for theirs, ours in ((0, 0), (2, 3), (4, 6), (6, 9)):
            assert same(model, f"head.{subnet}.{ours}.weight", state, f"head.{subnet}.{theirs}.weight")
        assert torch.equal(model.state_dict()[f"head.{subnet}.4.weight"], before[f"head.{subnet}.4.weight"])
    assert all(same(model, name, state, name) for name in state if name.startswith("backbone.bottom_up."))
    assert same(model, "backbone.fpn_output4.weight", state, "backbone.fpn_output4.weight")
    assert same(model, "backbone.top_block.p7.bias", state, "backbone.top_block.p7.bias")
    assert torch.equal(model.head.cls_score.weight, before["head.cls_score.weight"])
    assert f"backbone {BACKBONE} of {BACKBONE} tensors, FPN 15 of 16 tensors, towers 16 of 32 tensors" in log
    assert "predictions 0 of 11 tensors, priors 0 of 2 tensors" in log
    assert "backbone.top_block.p6.weight is (32, 256, 3, 3) in the file, (32, 32, 3, 3) in the model" in log
    assert "head.cls_score.weight (of 9 anchors)" in log and "left over in the file" in log


def test_p6_of_c5_takes_retinanets_and_the_de_subnet_its_last_convolution(tmp_path, caplog):
    options = ("MODEL.FEATURE_ALIGN.P6_FEATURE", "res5", "MODEL.FEATURE_ALIGN.DE_SUBNET", True)
    state, model = retinanet_state(), detector(*options)
    assert "FPN 16 of 16 tensors, towers 16 of 36 tensors" in load(tmp_path, state, model, caplog)
    assert same(model, "backbone.top_block.p6.weight", state, "backbone.top_block.p6.weight")
    assert same(model, "head.cls_subnet.9.conv.weight", state, "head.cls_subnet.6.weight")


def test_as_many_anchors_as_there_are_classes_do_not_fit(tmp_path, caplog):
    """720 classes: the shape of 9 anchors of 80."""
    state, model = retinanet_state(), detector("MODEL.FEATURE_ALIGN.NUM_CLASSES", 720)
    before = model.head.cls_score.weight.clone()
    load(tmp_path, state, model, caplog)
    assert torch.equal(model.head.cls_score.weight, before)


def test_fcos_gives_its_boxes_and_centerness_too(tmp_path, caplog):
    state, model = fcos_state(), detector("MODEL.FEATURE_ALIGN.NUM_CLASSES", 3)
    log = load(tmp_path, state, model, caplog)
    assert "towers 32 of 32 tensors, predictions 4 of 11 tensors" in log
    assert "head.cls_score.weight is (80, 32, 3, 3) in the file, (3, 32, 3, 3) in the model" in log
    assert same(model, "head.obj_score.weight", state, "head.ctrness.weight")
    assert same(model, "head.bbox_pred.weight", state, "head.bbox_pred.weight")
    assert same(model, "head.cls_subnet.10.bias", state, "head.cls_subnet.10.bias")


def test_faster_rcnn_gives_backbone_and_fpn(tmp_path, caplog):
    state, model = zoo_state(FASTER_RCNN), detector()
    log = load(tmp_path, state, model, caplog)
    assert f"backbone {BACKBONE} of {BACKBONE} tensors, FPN 12 of 16 tensors, towers 0 of 32 tensors" in log
    assert same(model, "backbone.fpn_lateral5.weight", state, "backbone.fpn_lateral5.weight")
    assert "left over in the file: " in log and " not in the model: " in log


@pytest.mark.parametrize("classes, taken", [(80, "priors 2 of 2"), (3, "priors 0 of 2")])
def test_autoassigns_priors_are_those_of_every_level(tmp_path, caplog, classes, taken):
    """Where the classes are as many: cvpods' names, and those that the conversion from mmdetection gives."""
    state, model = cvpods_state(), detector("MODEL.FEATURE_ALIGN.NUM_CLASSES", classes, "MODEL.FEATURE_ALIGN.MDQ", True)
    log = load(tmp_path, {f"module.{name}": value for name, value in state.items()}, model, caplog)
    assert f"towers 32 of 32 tensors, predictions {11 if classes == 80 else 9} of 11 tensors, {taken}" in log
    assert all(torch.equal(level, state["mu"]) for level in model.mu) == (classes == 80)


@pytest.mark.parametrize("config", ["autoassign_R_50_FPN_1x", "feature_align_dagger_R_50_FPN_1x"])
def test_ones_own_weights_keep_their_names(config):
    state = build_model(load_config(str(CONFIGS / "COCO-Detection" / f"{config}.yaml"), SMALL)).state_dict()
    adapted = adapt_names(state, state)
    assert adapted.keys() == state.keys() and all(torch.equal(adapted[name], value) for name, value in state.items())


def test_evaluation_takes_no_other_detector(tmp_path):
    torch.save({"model": fcos_state()}, tmp_path / "fcos.pth")
    with pytest.raises(UserError, match="of another model than the config"):
        FeatureAlignCheckpointer(detector()).load(str(tmp_path / "fcos.pth"), strict=True)
