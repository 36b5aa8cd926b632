"""TEST.DETECTIONS_PER_IMAGE is the limit of the evaluation, too, wherever the figures are shown."""

import json
import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from fa_detectron.apps.export.command import box_metrics
from fa_detectron.apps.report.findings import find
from fa_detectron.data import check_data, evaluation_config
from fa_detectron.engine import Trainer, load_config
from fa_detectron.errors import UserError
from fa_detectron.inference import Run
from tests.engine.oracle import Oracle, plain_coco
from tests.engine.tiny import make_config


@pytest.fixture
def crowded(tmp_path):
    """Two images with 192 objects of one class each, and a second class that is absent."""
    images, annotations = [], []
    for image in (1, 2):
        Image.fromarray(np.full((192, 256, 3), image * 50, np.uint8)).save(tmp_path / f"{image}.png")
        images.append({"id": image, "file_name": f"{image}.png", "width": 256, "height": 192})
        for k in range(192):
            box = [16 * (k % 16) + 2, 16 * (k // 16) + 2, 12, 12]
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": 1, "bbox": box,
                                "area": 144, "iscrowd": 0})  # fmt: skip
    categories = [{"id": 1, "name": "egg"}, {"id": 2, "name": "absent"}]
    path = tmp_path / "crowded.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.fixture
def crowded_run(crowded, tmp_path):
    """crowded_run(limit): a run whose model finds every object, up to the limit."""

    def make(limit):
        words = ["DATASETS.VAL_PATH", str(crowded), "OUTPUT_DIR", str(tmp_path / f"run{limit}")]
        cfg = load_config(str(make_config(tmp_path)), [*words, "TEST.DETECTIONS_PER_IMAGE", str(limit)])
        cfg = evaluation_config(cfg, cfg.OUTPUT_DIR, str(crowded))
        oracle = Oracle(DatasetCatalog.get("custom_val"), limit=limit)
        return Run(cfg.OUTPUT_DIR, cfg, oracle, tuple(cfg.DATASETS.CLASS_NAMES), tuple(cfg.DATASETS.CATEGORY_IDS))

    return make


def test_192_perfect_detections_an_image_have_ap_100_everywhere(crowded, crowded_run):
    run = crowded_run(300)
    figures = {
        "train_net": Trainer.test(run.cfg, run.model)["bbox"],
        "report": find(run).metrics,
        "export --evaluate": box_metrics(run, run.model, str(crowded), ""),
    }
    for where, found in figures.items():
        for name in ("AP", "AP50", "AP75", "APs", "AR", "AP-egg"):
            assert found[name] == pytest.approx(100), (where, name)
        assert all(np.isnan(found[name]) for name in ("APm", "APl", "AP-absent")), where


def test_the_default_limit_still_cuts_at_100(crowded_run):
    run = crowded_run(100)
    assert 50 < Trainer.test(run.cfg, run.model)["bbox"]["AR"] < 53  # 100 of 192


@pytest.mark.parametrize("limit", [50, 100])
def test_up_to_100_the_figures_are_exactly_pycocotools(crowded, crowded_run, limit):
    """COCO's published figures have the limit 100."""
    run = crowded_run(limit)
    oracle = Oracle(DatasetCatalog.get("custom_val"), shift=lambda label: 1.5, limit=limit)
    results = Trainer.test(run.cfg, oracle)["bbox"]
    stats = plain_coco(crowded, f"{run.cfg.OUTPUT_DIR}/inference/coco_instances_results.json").stats
    for name, index in {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "AR": 8}.items():
        assert results[name] == stats[index] * 100, name


def test_more_boxes_than_detections_are_warned_about(crowded_run, caplog):
    run = crowded_run(191)
    with caplog.at_level(logging.WARNING, logger="fa_detectron"):
        check_data(run.cfg, training=False)
    assert "custom_val: 2 images have more boxes than" in caplog.text
    assert "TEST.DETECTIONS_PER_IMAGE 191" in caplog.text and "1.png has 192" in caplog.text
    caplog.clear()
    check_data(crowded_run(192).cfg, training=False)
    assert "DETECTIONS_PER_IMAGE" not in caplog.text


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_no_detection_is_refused(tmp_path, limit):
    cfg = load_config(str(make_config(tmp_path)), ["TEST.DETECTIONS_PER_IMAGE", str(limit)])
    with pytest.raises(UserError, match=f"TEST.DETECTIONS_PER_IMAGE is {limit}, but must be at least 1"):
        Trainer.build_model(cfg)
