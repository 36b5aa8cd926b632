"""torch.compile takes the network in one graph: no line of it makes the compiler give up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

import torch

import fa_detectron
from fa_detectron.apps.export.network import InferenceNetwork
from fa_detectron.apps.export.nms import shifted_nms
from fa_detectron.ops import decode_detections, native
from tests.apps.export.tiny import make_model, noise


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
def test_backbone_and_head_are_one_graph_in_plain_pytorch():
    test = f"{__file__}::test_backbone_and_head_are_one_graph"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    run = subprocess.run(command, env=os.environ | {"FA_NO_NATIVE": "1"}, capture_output=True, text=True, check=False)
    assert "1 passed" in run.stdout, run.stdout


def test_backbone_and_head_are_one_graph():
    model, canvas = make_model(), noise(64, 96)
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, 50:] = True

    def maps(images, padding_mask):
        features = model.backbone(images, padding_mask)
        return model.head([features[name] for name in model.in_features])

    with torch.no_grad():
        found = torch.compile(maps, backend="aot_eager", fullgraph=True)(canvas, mask)
        for levels, expected in zip(found, maps(canvas, mask), strict=True):
            torch.testing.assert_close(levels, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
def test_native_decoding_joins_the_graph():
    model, canvas = make_model(), noise(64, 96)

    def detect(images):
        features = model.backbone(images)
        maps = model.head([features[name] for name in model.in_features])
        return decode_detections(*maps, model.head.strides)

    # How many detections there are is the one value that the program has to look at.
    with torch.no_grad(), torch._dynamo.config.patch(capture_scalar_outputs=True):
        found = torch.compile(detect, backend="eager", fullgraph=True)(canvas)[0]
        for output, expected in zip(found, detect(canvas)[0], strict=True):
            torch.testing.assert_close(output, expected)


def test_the_whole_network_is_one_graph():
    network, image = InferenceNetwork(make_model(), nms=shifted_nms, decompose=False), noise(100, 90)
    with torch.no_grad(), torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        found = torch.compile(network, backend="eager", fullgraph=True)(image)
        for output, expected in zip(found, network(image), strict=True):
            torch.testing.assert_close(output, expected)


def test_the_model_itself_compiles_for_inference():
    model = make_model()
    batch = [{"image": noise(64, 96)[0], "height": 64, "width": 96}, {"image": noise(50, 70)[0]}]
    with torch.no_grad():
        expected = model(batch)
        found = torch.compile(model, backend="eager")(batch)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one["instances"].scores, other["instances"].scores)
        torch.testing.assert_close(one["instances"].pred_boxes.tensor, other["instances"].pred_boxes.tensor)


@pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
def test_no_line_of_this_project_breaks_the_models_graph():
    batch = [{"image": noise(64, 96)[0], "height": 64, "width": 96}, {"image": noise(50, 70)[0]}]
    # The number of detections, which the host has to know, may stay symbolic.
    with torch.no_grad(), torch._dynamo.config.patch(capture_scalar_outputs=True):
        found = torch._dynamo.explain(make_model())(batch)
    places = [reason.user_stack[-1] for reason in found.break_reasons if reason.user_stack]
    ours = str(Path(fa_detectron.__file__).parent)
    assert [f"{place.filename}:{place.lineno}" for place in places if place.filename.startswith(ours)] == []


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_torchscript_traces_the_network(tmp_path):
    network = InferenceNetwork(make_model(), nms=shifted_nms, decompose=False).eval()
    with torch.no_grad():
        torch.jit.trace(network, noise(100, 90), check_trace=False).save(tmp_path / "model.ts")
        traced = torch.jit.load(tmp_path / "model.ts")
        for image in (noise(100, 90, seed=1), noise(150, 203)):  # another size, too
            for output, expected in zip(traced(image), network(image), strict=True):
                torch.testing.assert_close(output, expected)
