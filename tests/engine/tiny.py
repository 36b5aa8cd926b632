"""A data set of a few images and a detector of a few channels: a training run in a second."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CONFIG = """
_BASE_: "{base}"
MODEL:
  FPN: {{OUT_CHANNELS: 64}}
  RESNETS: {{DEPTH: 18, RES2_OUT_CHANNELS: 64}}
  FEATURE_ALIGN: {{NUM_CONVS: 1, FEATURE_FILTER: True, MDQ: True}}
INPUT: {{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64}}
DATALOADER: {{NUM_WORKERS: 0}}
SOLVER: {{IMS_PER_BATCH: 2, MAX_ITER: 3, BASE_LR: 0.001, WARMUP_ITERS: 0, CHECKPOINT_PERIOD: 2}}
TEST: {{EVAL_PERIOD: 2, SAMPLE_PICTURES: 2}}
SEED: 7
"""
BASE = Path(__file__).resolve().parents[2] / "configs" / "Base-ResNet-FPN.yaml"
TRAIN_NET = Path(__file__).resolve().parents[2] / "projects" / "FeatureAlign" / "train_net.py"


def make_set(
    folder: Path, images: int = 4, classes: tuple[str, ...] = ("block",), widths: tuple[int, ...] = (64,)
) -> Path:
    """A COCO set of bright rectangles, images 64 pixels high and of the widths in turn; returns the JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    records, annotations = [], []
    for index in range(images):
        width = widths[index % len(widths)]
        pixels = np.zeros((64, width, 3), dtype=np.uint8)
        x, y = (int(v) for v in rng.integers(0, 30, 2))
        pixels[y : y + 24, x : x + 28] = 255
        Image.fromarray(pixels).save(folder / f"{index}.png")
        records.append({"id": index, "file_name": f"{index}.png", "height": 64, "width": width})
        annotations.append(
            {"id": index + 1, "image_id": index, "category_id": 1 + index % len(classes), "bbox": [x, y, 28, 24],
             "area": 28 * 24, "iscrowd": 0}
        )  # fmt: skip
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    path = folder / "set.json"
    path.write_text(json.dumps({"images": records, "annotations": annotations, "categories": categories}))
    return path


def make_config(folder: Path) -> Path:
    """A tiny detector's config file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(base=BASE))
    return path


def last_state(folder: Path) -> dict:
    """The checkpoint that --resume would take."""
    return torch.load(folder / (folder / "last_checkpoint").read_text(), weights_only=True)
