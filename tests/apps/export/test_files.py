"""Files that export writes: what they give, what they tell about themselves, and what is refused."""

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("detectron2")
pytest.importorskip("onnxscript")

import numpy as np
import onnx
import torch
from torch import nn

from fa_detectron.apps.export import ExportedDetector, ExportOptions, check_parity, export_model
from fa_detectron.apps.export.network import InferenceNetwork
from fa_detectron.apps.export.nms import shifted_nms
from fa_detectron.engine import load_config
from fa_detectron.errors import UserError
from fa_detectron.inference import Predictor, Run
from tests.apps.export.tiny import TinyBackbone, make_model, noise
from tests.engine.tiny import BASE


@pytest.fixture(scope="module")
def run() -> Run:
    cfg = load_config(str(BASE), ["INPUT.MIN_SIZE_TEST", "160", "MODEL.DEVICE", "cpu"])
    return Run("nowhere", cfg, make_model(), ("a", "b", "c"), (1, 2, 3))


def nodes(path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def assert_agrees(run: Run, exported: ExportedDetector, *sizes: tuple[int, int]) -> None:
    network = InferenceNetwork(run.model, nms=shifted_nms, decompose=False)
    for size in sizes:
        image = noise(*size, seed=size[0])
        with torch.no_grad():
            expected = network(image)
        found = exported.detect(image)
        assert len(expected[1]) > 20
        torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=0.05)
        assert torch.equal(found[2], expected[2])


def test_onnx_of_any_size(run, tmp_path):
    path = str(tmp_path / "model.onnx")
    export_model(run, path, ExportOptions(opset=19))
    exported = ExportedDetector(path)
    assert_agrees(run, exported, (150, 203), (256, 320), (64, 64), (33, 200))  # smaller than what was traced, too
    assert {"DeformConv", "NonMaxSuppression"} <= nodes(path)
    written = onnx.load(path)
    assert written.opset_import[0].version == 19
    dimensions = written.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value or d.dim_param for d in dimensions] == [1, 3, "height", "width"]
    assert set(json.loads(written.metadata_props[0].value)) == set(exported.metadata)
    assert exported.metadata["class_names"] == ["a", "b", "c"] and exported.metadata["channels"] == "BGR"

    image = np.random.default_rng(0).integers(0, 255, (120, 140, 3), dtype=np.uint8)
    parity = check_parity(Predictor(run), exported, [image])
    assert parity.detections > 20 and parity.alone == 0
    assert parity.worst_score < 1e-4 and parity.worst_box < 0.05 and parity.exported_rate > 0


def test_onnx_decomposed_with_nms_outside(run, tmp_path):
    path = str(tmp_path / "model.onnx")
    export_model(run, path, ExportOptions(size=(130, 200), nms=False, decompose=True, opset=23))
    exported = ExportedDetector(path)
    assert_agrees(run, exported, (130, 200))
    assert not {"DeformConv", "NonMaxSuppression"} & nodes(path)
    with pytest.raises(UserError, match=r"takes 130 x 200 pixels .* an image has 100 x 200"):
        exported([{"image": noise(100, 200)[0]}])


def test_program_of_any_size(run, tmp_path):
    path = str(tmp_path / "model.pt2")
    export_model(run, path, ExportOptions())
    exported = ExportedDetector(path)
    assert_agrees(run, exported, (150, 203), (256, 320))
    assert exported.metadata["nms"] is True


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_nothing_to_detect(run, tmp_path, suffix, monkeypatch):
    bias = run.model.head.obj_score.bias
    monkeypatch.setattr(bias, "data", torch.full_like(bias, -20.0))
    path = str(tmp_path / f"model.{suffix}")
    export_model(run, path, ExportOptions(size=(64, 96)))
    exported = ExportedDetector(path)
    boxes, scores, classes = exported.detect(noise(64, 96))
    assert boxes.shape == (0, 4) and scores.shape == classes.shape == (0,)
    assert exported.metadata["size"] == [64, 96]
    assert exported.metadata["resize"] == {"shorter_side": 160, "longest_side": 1333}


def test_a_difference_is_seen(run):
    class Shifted(nn.Module):
        def forward(self, batch):
            instances = run.model(batch)[0]["instances"]
            instances.pred_boxes.tensor[:, 0] -= 0.25
            instances.scores[3] += 0.125
            return [{"instances": instances[torch.arange(len(instances)) != 5]}]

    image = np.random.default_rng(0).integers(0, 255, (160, 160, 3), dtype=np.uint8)
    parity = check_parity(Predictor(run), Shifted(), [image])
    assert parity.worst_box == pytest.approx(0.25, abs=1e-4)
    assert parity.worst_score == pytest.approx(0.125, abs=1e-4)
    assert parity.alone == 1 and parity.alone_margin > 0


class Unexportable(TinyBackbone):
    def forward(self, images):
        if float(images.sum()) > 1e9:
            images = -images
        return super().forward(images)


def test_the_part_that_cannot_be_exported_is_named(run, tmp_path):
    broken = SimpleNamespace(cfg=run.cfg, model=make_model(Unexportable()), class_names=run.class_names)
    with pytest.raises(UserError, match=r"cannot export backbone\.bottom_up \(Unexportable\): .*data-dependent"):
        export_model(broken, str(tmp_path / "model.pt2"), ExportOptions(size=(64, 64)))
    assert not list(tmp_path.iterdir())


@torch.library.custom_op("fa_detectron_test::odd", mutates_args=())
def odd(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


odd.register_fake(torch.empty_like)


class WithForeignOperator(TinyBackbone):
    def forward(self, images):
        return super().forward(torch.ops.fa_detectron_test.odd(images))


def test_the_operator_that_onnx_lacks_is_named(run, tmp_path):
    broken = SimpleNamespace(cfg=run.cfg, model=make_model(WithForeignOperator()), class_names=run.class_names)
    with pytest.raises(UserError, match=r"fa_detectron_test\.odd\.default of backbone\.bottom_up"):
        export_model(broken, str(tmp_path / "model.onnx"), ExportOptions(size=(64, 64)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("model.onnx", {"opset": 18}, "opset 18: choose one from 19 .* to 23"),
        ("model.onnx", {"opset": 99}, "opset 99"),
        ("model.bin", {}, "must end in .onnx .* or .pt2"),
        ("absent/model.pt2", {}, "there is no folder"),
        ("model.pt2", {"size": (0, 5)}, "must be positive"),
    ],
)
def test_refusals(run, tmp_path, name, options, message):
    with pytest.raises(UserError, match=message):
        export_model(run, str(tmp_path / name), ExportOptions(**options))
    assert not list(tmp_path.iterdir())


def test_absent_packages(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(UserError, match="ONNX needs onnxruntime: pip install onnxruntime"):
        export_model(run, str(tmp_path / "model.onnx"), ExportOptions())
    assert not list(tmp_path.iterdir())


def test_foreign_files(tmp_path):
    for name in ("model.onnx", "model.pt2"):
        (tmp_path / name).write_text("no model")
        with pytest.raises(UserError, match=f"{name}: "):
            ExportedDetector(str(tmp_path / name))
