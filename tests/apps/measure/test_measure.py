"""Costs against numbers computed by hand."""

import json

import pytest

pytest.importorskip("detectron2")

import numpy as np
import torch
from PIL import Image

from fa_detectron.apps.measure import Measurement, count_flops, measure
from fa_detectron.engine import load_config
from fa_detectron.inference import Predictor, Run
from fa_detectron.layers import DeformBlock, GlobalAttentionEncoder, de_subnet
from fa_detectron.ops import reference
from tests.apps.export.tiny import make_model
from tests.commands import call
from tests.engine.tiny import BASE

# Cells of the tiny model's levels for an image of 64 x 96 pixels.
P3, P4, P5, P6, P7 = 8 * 12, 4 * 6, 2 * 3, 1 * 2, 1 * 1
ALL = P3 + P4 + P5 + P6 + P7


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    cfg = load_config(str(BASE), ["INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "96"])
    return Predictor(Run("nowhere", cfg, make_model(), ("a", "b", "c"), (1, 2, 3)))


@pytest.fixture(scope="module")
def measured(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(np.zeros((128, 192, 3), dtype=np.uint8)).save(path)
    return measure(predictor, [str(path)], batch_size=2, repeats=2)


def conv(inputs: int, outputs: int, kernel: int, cells: int) -> int:
    return 2 * inputs * outputs * kernel * kernel * cells


def costs(measured: Measurement, key: str) -> dict[str, int]:
    return {stage.name: getattr(stage, key) for stage in measured.stages}


def test_flops_of_every_stage(measured):
    backbone = conv(3, 8, 7, P3) + conv(8, 8, 3, P4) + conv(8, 16, 3, P5)
    backbone += conv(8, 64, 1, P3) + conv(8, 64, 1, P4) + conv(16, 64, 1, P5)  # lateral
    backbone += conv(64, 64, 3, ALL)  # the outputs p3 to p5, and p6, p7
    projections = 4 * 2 * 16 * 16 * P5  # query, key, value, output
    attention = 2 * 2 * 16 * P5 * P5  # query with key, weights with value
    feed_forward = 2 * 2 * 16 * 8 * P5
    subnet = conv(64, 27, 3, ALL) + conv(64, 64, 3, ALL)  # offsets and mask; the deformable convolution
    head = 2 * subnet + conv(64, 3 + 4 + 1, 3, ALL)
    assert costs(measured, "flops") == {
        "load": 0,
        "prepare": 0,
        "backbone": backbone,
        "G-RFA": projections + attention + feed_forward,
        "head": head,
        "decode": 0,
    }
    assert measured.total().flops == backbone + projections + attention + feed_forward + head


def test_parameters_of_every_stage(measured, predictor):
    model = predictor.run.model
    attention = 4 * (16 * 16 + 16) + (16 * 8 + 8) + (8 * 16 + 16) + 2 * 2 * 16
    assert costs(measured, "parameters")["G-RFA"] == attention
    priors = model.mu.numel() + model.sigma.numel()
    assert measured.total().parameters == sum(p.numel() for p in model.parameters()) - priors


def test_memory_and_time(measured):
    memory, canvas = costs(measured, "memory"), 2 * 3 * 64 * 96 * 4  # bytes of the batch
    assert measured.canvas == (2, 3, 64, 96)
    assert memory["load"] is None
    assert canvas <= memory["prepare"] <= 4 * canvas  # the images, normalised in two steps, and the canvas
    assert memory["head"] >= 2 * 64 * ALL * 4  # the maps are there all the time
    assert memory["backbone"] >= memory["G-RFA"] > canvas
    assert all(stage.seconds > 0 for stage in measured.stages)
    assert measured.total().seconds == pytest.approx(sum(stage.seconds for stage in measured.stages))


def test_the_table_has_every_stage(measured):
    lines = measured.table().splitlines()
    names = [line.split()[0] for line in lines[1:-1]]
    assert names == ["stage", "load", "prepare", "backbone", "G-RFA", "head", "decode", "all"]
    assert "2 images a batch, 64 x 96 pixels" in lines[0]


def test_the_fallback_counts_the_same(monkeypatch):
    block, features = DeformBlock(8), [torch.randn(2, 8, 5, 7), torch.randn(2, 8, 3, 2)]
    cells = 2 * (5 * 7 + 3 * 2)
    expected = conv(8, 27, 3, cells) + conv(8, 8, 3, cells)
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(de_subnet, "deform_conv2d_levels", reference.deform_conv2d_levels)
        with torch.no_grad(), count_flops() as counter:
            block(features)
        assert counter.get_total_flops() == expected


def test_attention_under_a_mask_is_counted():
    encoder = GlobalAttentionEncoder(8, num_heads=2, dim_feedforward=4, num_layers=3).eval()
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[:, :, 3:] = True
    with torch.no_grad(), count_flops() as counter:
        encoder(torch.randn(1, 8, 3, 4), mask)
    assert counter.get_total_flops() == 3 * (4 * 2 * 8 * 8 * 12 + 2 * 2 * 8 * 12 * 12 + 2 * 2 * 8 * 4 * 12)


def command(*words: object) -> int:
    return call("measure", *words)


def test_the_command_measures_a_config(tmp_path, capsys):
    tiny = "MODEL.FPN.OUT_CHANNELS 32 MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.DEVICE cpu"
    figures = tmp_path / "figures.json"
    words = ("--config-file", BASE, "--size", 96, 160, "--repeats", 1, "--device", "cpu", "--json", figures)
    assert command(*words, *tiny.split()) == 0
    assert "96 x 160 pixels" in capsys.readouterr().out
    found = json.loads(figures.read_text())
    assert [stage["name"] for stage in found["stages"]] == ["prepare", "backbone", "head", "decode"]
    assert found["total"]["flops"] == sum(stage["flops"] for stage in found["stages"]) > 1e8


@pytest.mark.parametrize(
    "words, message",
    [
        (("--run", "nowhere"), "run folder nowhere: no such folder"),
        (("--config-file", "nowhere.yaml"), "config file nowhere.yaml"),
        (("--config-file", BASE, "--repeats", 0), "--repeats"),
        (("--config-file", BASE, "--input", "nowhere.jpg"), "nowhere.jpg"),
    ],
)
def test_wrong_arguments(capsys, words, message):
    assert command(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error
