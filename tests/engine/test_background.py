"""Images without a box: data given by path learns from them, and no batch or process needs a box."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch.multiprocessing as mp

pytest.importorskip("detectron2")

from fa_detectron.apps.train import argument_parser
from fa_detectron.data.training.stream import build_train_loader
from fa_detectron.engine import Trainer, launch, setup
from tests.engine.conftest import run
from tests.engine.processes import START, free_port
from tests.engine.tiny import make_set

KEY = "DATALOADER.FILTER_EMPTY_ANNOTATIONS"


@pytest.fixture
def medical(tmp_path) -> Path:
    """A set of six images: one with a box, four without, one with a crowd box alone."""
    path = make_set(tmp_path / "medical", images=6)
    content = json.loads(path.read_text())
    content["annotations"] = content["annotations"][:2]
    content["annotations"][1]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    return path


def seen(cfg) -> set[int]:
    """The image ids of 20 batches of the training stream."""
    batches = iter(build_train_loader(cfg, lambda record: record, seed=0))
    return {record["image_id"] for _ in range(20) for record in next(batches)}


def prepare(tiny, path: Path, folder: Path, *words):
    line = ["--config-file", str(tiny.config), "--train", str(path), "--val-fraction", "0", *words]
    return setup(argument_parser().parse_args([*line, "OUTPUT_DIR", str(folder)]))


def test_data_by_path_trains_on_background(tiny, medical, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="fa_detectron"):
        cfg = prepare(tiny, medical, tmp_path / "run")
    assert f"6 images, 4 of them without a box (trained on as background: {KEY} False)" in caplog.text
    assert "1 with only crowd boxes (left out of training)" in caplog.text
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS is False and seen(cfg) == {0, 2, 3, 4, 5}


@pytest.mark.parametrize("where", ["command line", "config", "run"])
def test_a_key_leaves_background_out(tiny, medical, tmp_path, caplog, where):
    words = []
    if where == "command line":
        words = [KEY, "True"]
    else:
        config = tmp_path / "own.yaml"
        text = f"_BASE_: {tiny.config}\nDATALOADER: {{FILTER_EMPTY_ANNOTATIONS: True}}\n"
        if where == "run":  # what an earlier version trained with stays
            text += f"DATASETS: {{TRAIN_PATH: {medical}}}\n"
        config.write_text(text)
    line = ["--config-file", str(tiny.config if where == "command line" else config), "--val-fraction", "0"]
    line += [] if where == "run" else ["--train", str(medical)]
    with caplog.at_level(logging.INFO, logger="fa_detectron"):
        cfg = setup(argument_parser().parse_args([*line, *words, "OUTPUT_DIR", str(tmp_path / "run")]))
    assert f"4 of them without a box (left out of training: {KEY} True)" in caplog.text
    assert seen(cfg) == {0}


def test_sets_registered_by_name_stay_as_they_are(tiny, medical, tmp_path):
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    register_coco_instances("by_name", {}, str(medical), str(medical.parent))
    try:
        words = ["DATASETS.TRAIN", "('by_name',)", "DATASETS.TEST", "()", "MODEL.FEATURE_ALIGN.NUM_CLASSES", "1"]
        line = ["--config-file", str(tiny.config), *words, "OUTPUT_DIR", str(tmp_path / "run")]
        cfg = setup(argument_parser().parse_args(line))
        assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS is True and seen(cfg) == {0}
    finally:
        DatasetCatalog.remove("by_name")
        MetadataCatalog.remove("by_name")


def test_batches_without_any_box_train(tiny, medical, tmp_path):
    """Of batches of two images, most hold no box."""
    words = ["--train", str(medical), "--val-fraction", "0", "SOLVER.MAX_ITER", "4", "OUTPUT_DIR", tmp_path / "run"]
    run("--config-file", tiny.config, *words)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert rows and all(row["total_loss"] > 0 for row in rows if "total_loss" in row)
    assert (tmp_path / "run" / "model_final.pth").is_file()


def _train(args, cfg) -> None:
    trainer = Trainer(cfg)
    trainer.resume_or_load(False)
    trainer.train()


def _process(index: int, port: int, words: list[str]) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(index), WORLD_SIZE="2")
    os.environ.update(LOCAL_RANK=str(index), LOCAL_WORLD_SIZE="2")
    args = argument_parser().parse_args(words)
    launch(_train, args, setup(args))


def test_processes_without_any_box_train(tiny, medical, tmp_path):
    """Of two processes with an image each, one has a box now and then, and most steps have none at all."""
    folder = tmp_path / "run"
    words = ["--config-file", tiny.config, "--train", medical, "--val-fraction", "0", "SOLVER.MAX_ITER", 4]
    words = [str(word) for word in [*words, "OUTPUT_DIR", folder]]
    mp.start_processes(_process, (free_port(), words), nprocs=2, start_method=START)
    assert (folder / "model_final.pth").is_file()
