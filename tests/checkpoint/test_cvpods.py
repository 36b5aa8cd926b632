"""cvpods' AutoAssign loads as it is: its names, its 80 rows of priors, a wrong class count, another method."""

import logging

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.modeling import build_model

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.engine import load_config
from fa_detectron.errors import UserError
from tests.engine.tiny import BASE

R50 = BASE.parent / "COCO-Detection" / "autoassign_R_50_FPN_1x.yaml"
SMALL = ["MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32",
         "MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.FPN.OUT_CHANNELS", "32", "MODEL.WEIGHTS", "",
         "MODEL.DEVICE", "cpu"]  # fmt: skip


def cvpods_state(classes: int = 80, prior_rows: int = 80) -> dict[str, torch.Tensor]:
    """The names of AutoAssign (ResNet-50) in cvpods, written down from its modules; narrow, so that it is quick."""
    state: dict[str, torch.Tensor] = {}

    def conv(name, out, into, size, bias=True, norm=False):
        state[f"{name}.weight"] = torch.randn(out, into, size, size)
        if bias:
            state[f"{name}.bias"] = torch.randn(out)
        if norm:
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{name}.norm.{part}"] = torch.rand(out)

    def plain(name, out, into, size):
        conv(f"backbone.bottom_up.{name}", out, into, size, bias=False, norm=True)

    plain("stem.conv1", 8, 3, 7)
    into = 8
    for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
        middle, out = 8 * 2 ** (stage - 2), 32 * 2 ** (stage - 2)
        for block in range(blocks):
            name = f"res{stage}.{block}"
            if block == 0:
                plain(f"{name}.shortcut", out, into, 1)
            plain(f"{name}.conv1", middle, into, 1)
            plain(f"{name}.conv2", middle, middle, 3)
            plain(f"{name}.conv3", out, middle, 1)
            into = out
    for stage in (3, 4, 5):
        conv(f"backbone.fpn_lateral{stage}", 32, 32 * 2 ** (stage - 2), 1)
        conv(f"backbone.fpn_output{stage}", 32, 32, 3)
    for level in ("p6", "p7"):
        conv(f"backbone.top_block.{level}", 32, 32, 3)
    for subnet in ("cls_subnet", "bbox_subnet"):
        for i in (0, 3, 6, 9):
            conv(f"head.{subnet}.{i}", 32, 32, 3)
            state[f"head.{subnet}.{i + 1}.weight"], state[f"head.{subnet}.{i + 1}.bias"] = torch.rand(2, 32)
    for name, out in (("cls_score", classes), ("bbox_pred", 4), ("obj_score", 1)):
        conv(f"head.{name}", out, 32, 3)
    for i in range(5):
        state[f"head.scales.{i}.scale"] = torch.rand(1)
    state["mu"], state["sigma"] = torch.randn(prior_rows, 2), torch.rand(prior_rows, 2)
    return state


def detector(*options):
    return build_model(load_config(str(R50), [*SMALL, *map(str, options)]))


def saved(tmp_path, state):
    torch.save({"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "iteration": 89999},
               tmp_path / "cvpods.pth")  # fmt: skip
    return str(tmp_path / "cvpods.pth")


def test_it_loads_as_it_is(tmp_path):
    state, model = cvpods_state(), detector()
    FeatureAlignCheckpointer(model).load(saved(tmp_path, state), strict=True)
    loaded = model.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(value, loaded[name]) for name, value in state.items())


def test_of_80_rows_of_priors_fewer_classes_use_the_first(tmp_path):
    state, model = cvpods_state(classes=20), detector("MODEL.FEATURE_ALIGN.NUM_CLASSES", 20)
    FeatureAlignCheckpointer(model).load(saved(tmp_path, state), strict=True)
    assert torch.equal(model.mu, state["mu"][:20]) and torch.equal(model.sigma, state["sigma"][:20])


def test_the_first_of_80_rows_of_priors_serve_every_level_of_mdq(tmp_path):
    options = ("MODEL.FEATURE_ALIGN.NUM_CLASSES", 20, "MODEL.FEATURE_ALIGN.MDQ", True)
    state, model = cvpods_state(classes=20), detector(*options)
    FeatureAlignCheckpointer(model).load(saved(tmp_path, state))
    assert all(torch.equal(level, state["mu"][:20]) for level in model.mu)


def test_a_wrong_class_count_keeps_the_rest_and_says_so(tmp_path, caplog):
    state, model = cvpods_state(), detector("MODEL.FEATURE_ALIGN.NUM_CLASSES", 3)
    start = model.head.cls_score.weight.clone()
    path = saved(tmp_path, state)
    with pytest.raises(UserError, match="the file has 80 classes, the config 3"):
        FeatureAlignCheckpointer(model).load(path, strict=True)
    logging.getLogger("fa_detectron").propagate = True
    with caplog.at_level("INFO", logger="fa_detectron.checkpoint.fit"):
        FeatureAlignCheckpointer(model).load(path)
    kept = [name for name in state if name.startswith("backbone.")]
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in kept)
    assert torch.equal(model.head.bbox_pred.weight, state["head.bbox_pred.weight"])
    assert torch.equal(model.head.cls_score.weight, start)
    assert "the file has 80 classes, the config 3" in caplog.text and "4 of another shape" in caplog.text
    assert f"the {len(state) - 4} tensors that fit are kept, {len(kept)} of them the backbone's" in caplog.text


def test_another_methods_parts_are_reported(tmp_path, caplog):
    state = cvpods_state() | {"shift_generator.cell_anchors.0": torch.zeros(1, 4)}
    logging.getLogger("fa_detectron").propagate = True
    with caplog.at_level("INFO", logger="fa_detectron.checkpoint.fit"):
        FeatureAlignCheckpointer(detector("MODEL.FEATURE_ALIGN.DE_SUBNET", True)).load(saved(tmp_path, state))
    assert "left over in the file: " in caplog.text and "shift_generator.cell_anchors.0" in caplog.text
    assert "are not in the file" in caplog.text
