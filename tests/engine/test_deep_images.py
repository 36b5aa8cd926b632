"""Runs on images of more than 8 bits a channel: all of a run's tools see what its training saw."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from PIL import Image

from fa_detectron.apps.explain.explanation import explain_image
from fa_detectron.apps.export import ExportOptions
from fa_detectron.apps.export.model_file import describe
from fa_detectron.apps.predict.detect import Outputs, predict_images
from fa_detectron.apps.report.findings import find
from fa_detectron.apps.report.image_views import sample_view
from fa_detectron.apps.report.summary import config_in_short
from fa_detectron.engine import load_config
from fa_detectron.errors import UserError
from fa_detectron.inference import Predictor, load_run
from tests.data.image_files import deep_copy, png16
from tests.engine.conftest import run
from tests.engine.tiny import make_config, make_set

OPTIONS = ("MODEL.FEATURE_ALIGN.SCORE_THRESH_TEST", "0.0", "SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> SimpleNamespace:
    """Runs on a set of 8 bits and on its 16-bit copy, with the same seed."""
    base = tmp_path_factory.mktemp("deep")
    plain, config = make_set(base / "plain"), make_config(base)
    deep = deep_copy(plain, base / "deep")
    found = SimpleNamespace(base=base, config=config, plain=plain, deep=deep)
    for name, data in (("of_plain", plain), ("of_deep", deep)):
        words = ("--config-file", config, "--train", data, "--val", data, "OUTPUT_DIR", base / name, *OPTIONS)
        setattr(found, name, SimpleNamespace(folder=base / name, words=words, done=run(*words)))
    return found


def weights(folder) -> dict:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def test_a_deep_copy_trains_to_the_same_weights_and_ap(runs):
    first, second = weights(runs.of_plain.folder), weights(runs.of_deep.folder)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert runs.of_plain.done.results["bbox"]["AP"] == runs.of_deep.done.results["bbox"]["AP"]
    assert load_config(str(runs.of_plain.folder / "config.yaml")).INPUT.PIXEL_RANGE == []
    assert load_config(str(runs.of_deep.folder / "config.yaml")).INPUT.PIXEL_RANGE == [466, 466 + 13 * 255]


def test_sample_pictures_show_what_is_seen(runs):
    for name in ("000_0.png", "001_1.png"):
        pictures = [np.asarray(Image.open(r.folder / "samples" / name)) for r in (runs.of_plain, runs.of_deep)]
        np.testing.assert_array_equal(*pictures)


def test_evaluation_and_prediction_use_the_range_of_training(runs, tmp_path):
    again = run("--config-file", runs.of_deep.folder / "config.yaml", "--eval-only",
                "MODEL.WEIGHTS", runs.of_deep.folder / "model_final.pth", "OUTPUT_DIR", tmp_path)  # fmt: skip
    np.testing.assert_equal(again.results["bbox"], runs.of_deep.done.results["bbox"])  # NaN is NaN
    written = json.loads(next(tmp_path.rglob("coco_instances_results.json")).read_text())
    predictor = Predictor.from_run(runs.of_deep.folder, device="cpu")
    values = np.asarray(Image.open(runs.deep.parent / "0.png"))
    for image in (runs.deep.parent / "0.png", Image.open(runs.deep.parent / "0.png"), values, torch.from_numpy(values)):
        found = predictor(image)
        expected = [result["score"] for result in written if result["image_id"] == 0]
        np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    plain = Predictor.from_run(runs.of_plain.folder, device="cpu")(runs.plain.parent / "0.png")
    np.testing.assert_allclose(found.scores, plain.scores, atol=1e-5)


def test_explanations_and_figures_follow_the_run(runs):
    loaded = load_run(runs.of_deep.folder, device="cpu")
    annotation = {"bbox": [4, 4, 28, 24], "bbox_mode": 1, "category_id": 0}
    explanation = explain_image(loaded, {"file_name": str(runs.deep.parent / "0.png"), "annotations": [annotation]})
    expected = np.asarray(Image.open(runs.plain.parent / "0.png"))
    np.testing.assert_array_equal(explanation.image, expected)
    assert ("Pixel values", "466 to 3781 become 0 to 255") in config_in_short(loaded)
    told = describe(loaded, ExportOptions())
    assert told["pixel_range"] == [466, 3781] and told["exif_orientation"] is True
    loaded = load_run(runs.of_plain.folder, device="cpu")
    assert describe(loaded, ExportOptions())["pixel_range"] is None
    assert ("Pixel values", "8 bits, as they are") in config_in_short(loaded)


def test_pictures_of_the_report_show_what_is_seen(runs):
    views = [sample_view(find(load_run(r.folder, device="cpu")), 1) for r in (runs.of_plain, runs.of_deep)]
    assert [picture.uri for picture in views[0].pictures] == [picture.uri for picture in views[1].pictures]


def test_a_run_of_eight_bits_names_deep_images(runs, tmp_path):
    with pytest.raises(UserError, match=r"custom_val: 4 images of more than 8 bits a channel"):
        run("--config-file", runs.of_plain.folder / "config.yaml", "--eval-only", "--val", runs.deep,
            "MODEL.WEIGHTS", runs.of_plain.folder / "model_final.pth", "OUTPUT_DIR", tmp_path)  # fmt: skip
    predictor = Predictor.from_run(runs.of_plain.folder, device="cpu")
    paths = [str(runs.plain.parent / "0.png"), str(runs.deep.parent / "1.png")]
    summary = predict_images(predictor, paths, Outputs(str(tmp_path / "out"), "", 0.5, 2))
    assert summary.images == 1
    (complaint,) = summary.complaints
    assert "deep/1.png: its pixels are uint16, values 466 to 3781" in complaint


def test_a_resumed_run_keeps_its_range(runs, tmp_path):
    shutil.copytree(runs.of_deep.folder, tmp_path / "run")
    deep = shutil.copytree(runs.deep.parent, tmp_path / "data") / "set.json"
    (deep.parent / "3.png").write_bytes(png16(np.full((64, 64), 60_000)))  # would change the range
    words = ("--config-file", runs.config, "--train", deep, *runs.of_deep.words[4:6], "OUTPUT_DIR", tmp_path / "run")
    again = run("--resume", *words, *OPTIONS, "SOLVER.MAX_ITER", 3)
    assert again.cfg.INPUT.PIXEL_RANGE == [466, 3781]
    again = run(*words, *OPTIONS, "SOLVER.MAX_ITER", 1)
    assert again.cfg.INPUT.PIXEL_RANGE[1] == 60_000
