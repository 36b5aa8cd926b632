"""mmdetection's AutoAssign: every name, the same numbers, and files that are something else."""

import ast
import shlex
import sys
import types

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.modeling import build_model

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.checkpoint.convert_mmdet import convert, convert_names, main
from fa_detectron.engine import load_config
from fa_detectron.errors import UserError
from fa_detectron.ops.reference.quality import find_pairs, make_grid
from tests.checkpoint import mmdet_model
from tests.engine.tiny import BASE

R50 = BASE.parent / "COCO-Detection" / "autoassign_R_50_FPN_1x.yaml"
TINY = ["MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "MODEL.FPN.OUT_CHANNELS", "64", "MODEL.FEATURE_ALIGN.NUM_CONVS", "1"]


def keys_of(report: str) -> list[str]:
    """The KEY VALUE words that the command prints."""
    words = shlex.split(report.partition("--config-file")[2].replace("\\\n", " "))
    return words[1:]


def test_every_name_of_r50_is_one_of_the_detectors():
    state = mmdet_model.state_dict(depth=50, channels=256, convs=4, classes=80, meta=True)
    converted = convert_names({f"module.{name}": value for name, value in state.items()})
    assert not converted.left_over and not converted.missing
    options = [str(word) for pair in converted.options().items() for word in pair]
    cfg = load_config(str(R50), [*options, "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"])
    wanted = {k: v.shape for k, v in build_model(cfg).state_dict().items() if not k.endswith("num_batches_tracked")}
    assert {k: v.shape for k, v in converted.weights.items()} == wanted


def test_the_converted_detector_computes_what_mmdetections_formulas_do(tmp_path):
    state = mmdet_model.state_dict()
    torch.save({"meta": {"config": "backbone=dict(style='pytorch')", "CLASSES": ("a", "b", "c")}, "state_dict": state},
               tmp_path / "in.pth")  # fmt: skip
    report = convert(str(tmp_path / "in.pth"), str(tmp_path / "out.pth"))
    assert f"{len([k for k in state if 'num_batches' not in k])} tensors converted, 0 left over" in report
    assert "classes: a, b, c" in report and "ResNet of pytorch style" in report
    cfg = load_config(str(R50), [*keys_of(report), *TINY, "MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    FeatureAlignCheckpointer(model).load(cfg.MODEL.WEIGHTS, strict=True)

    images = torch.randn(2, 3, 96, 128)
    with torch.no_grad():
        wanted = mmdet_model.fpn_maps(state, mmdet_model.resnet_maps(state, images))
        maps = model.backbone(images)
        found = [maps[name] for name in model.in_features]
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(model.head(found), mmdet_model.head_maps(state, found), strict=True):
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_priors_mean_the_same():
    state = mmdet_model.state_dict()
    weights = convert_names(state).weights
    boxes, labels = torch.tensor([[3.0, 5.0, 60.0, 50.0], [20.0, 8.0, 90.0, 44.0]]), torch.tensor([2, 0])
    grid = make_grid([(8, 12), (4, 6)], (8, 16), 0.0, torch.zeros(()))
    pairs = find_pairs(grid, boxes, labels, weights["mu"], weights["sigma"])
    assert len(pairs.box) > 40
    for box, location, value in zip(pairs.box.tolist(), pairs.location.tolist(), pairs.gaussian):
        point, stride = grid.location[location].tolist(), float(grid.stride[location])
        wanted = mmdet_model.center_prior(state, point, boxes[box].tolist(), labels[box], stride)
        torch.testing.assert_close(value, wanted)


def test_p6_of_p5_is_recognised():
    state = mmdet_model.state_dict()
    assert convert_names(state).options()["MODEL.FEATURE_ALIGN.P6_FEATURE"] == "res5"
    state["neck.fpn_convs.3.conv.weight"] = state["neck.fpn_convs.4.conv.weight"]
    assert convert_names(state).options()["MODEL.FEATURE_ALIGN.P6_FEATURE"] == "p5"


def test_names_that_mean_nothing_here_are_reported(tmp_path):
    torch.save({**mmdet_model.state_dict(), "bbox_head.cls_convs.0.conv.conv_offset.weight": torch.zeros(1),
                "ema_backbone_conv1": torch.zeros(2)}, tmp_path / "in.pth")  # fmt: skip
    report = convert(str(tmp_path / "in.pth"), str(tmp_path / "out.pth"))
    assert "2 left over" in report
    assert "left over: bbox_head.cls_convs.0.conv.conv_offset.weight, ema_backbone_conv1" in report
    values = [ast.literal_eval(word) for word in keys_of(report)[1::2] if word.startswith("[")]
    assert values == [[102.9801, 115.9465, 122.7717], [1.0, 1.0, 1.0]] and "caffe style" in report


class HistoryBuffer:
    def __init__(self):
        self._log_history, self._max_length = np.arange(3.0), 10


class Evil:
    def __reduce__(self):
        return (open, ("trap", "w"))


@pytest.fixture
def mmengine(monkeypatch):
    """mmengine as far as a checkpoint of mmdetection 3 knows it."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    buffer = type("HistoryBuffer", (HistoryBuffer,), {"__module__": module.__name__})
    module.HistoryBuffer = buffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return buffer


def test_checkpoints_of_mmdetection_3_are_read(tmp_path, mmengine):
    content = {
        "meta": {"dataset_meta": {"classes": ("a", "b", "c")}, "cfg": 'style="pytorch"', "seed": np.float64(3)},
        "message_hub": {"log_scalars": {"loss": mmengine()}},
        "state_dict": mmdet_model.state_dict(),
    }
    torch.save(content, tmp_path / "in.pth")
    assert "classes: a, b, c" in convert(str(tmp_path / "in.pth"), str(tmp_path / "out.pth"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"a": torch.zeros(1)}}, "of its 1 tensors 0 are known.*not known: a"),
        ({"state_dict": {"a": 3}}, "'a', which is no tensor"),
        ({"state_dict": []}, "no 'state_dict'"),
        ([1], "no 'state_dict'"),
        ({"state_dict": Evil()}, r"refused.*open"),
        (b"text", "refused|not a readable checkpoint"),
        (None, "No such file"),
    ],
)
def test_other_files_are_refused_and_nothing_is_written(tmp_path, content, message, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if isinstance(content, bytes):
        (tmp_path / "in.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / "in.pth")
    with pytest.raises(UserError, match=f"in.pth: .*({message})"):
        convert("in.pth", "out.pth")
    assert not {path.name for path in tmp_path.iterdir()} - {"in.pth"}


def test_the_command(tmp_path, monkeypatch, capsys):
    torch.save(mmdet_model.state_dict(), tmp_path / "in.pth")
    monkeypatch.setattr(
        sys, "argv", ["convert", str(tmp_path / "in.pth"), str(tmp_path / "out.pth"), "--style", "pytorch"]
    )
    main()
    assert "RGB" in capsys.readouterr().out and (tmp_path / "out.pth").is_file()
    with pytest.raises(UserError, match="is the file to convert"):
        convert(str(tmp_path / "in.pth"), str(tmp_path / "in.pth"))
