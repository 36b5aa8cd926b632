"""The table at the end of a run, and where its files are."""

import json
import math
import os
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from fa_detectron.engine.evaluation import own_folder, server_file


def final_report(cfg: CfgNode, results: dict[str, Any], weights: str) -> str:
    """AP of every evaluated set, of its categories, and the run's files.

    Args:
        cfg: the run's config.
        results: as ``Trainer.test`` returns them: {"bbox": ...} for one set, else {set: {"bbox": ...}}.
        weights: the checkpoint that was evaluated.

    Returns:
        The text, for people.
    """
    names = cfg.DATASETS.TEST
    by_set = {names[0]: results} if len(names) == 1 else results
    blocks = [block for name in names for block in _tables(name, by_set.get(name) or {}, cfg)]
    folder = cfg.OUTPUT_DIR
    files = [("checkpoint", weights)]
    record = os.path.join(folder, "best_checkpoint.json")
    if os.path.isfile(record) and os.path.dirname(os.path.abspath(weights)) == os.path.abspath(folder):
        with open(record, encoding="utf-8") as file:
            best = json.load(file)
        note = f"({best['metric']} {best['value']:.2f} at iteration {best['iteration'] + 1})"
        files.append(("best so far", f"{os.path.join(folder, best['file'])} {note}"))
    for what, name in (("pictures", "samples"), ("metrics", "metrics.json"), ("detections", "inference")):
        if os.path.exists(os.path.join(folder, name)):
            files.append((what, os.path.join(folder, name)))
    width = max(len(what) for what, _ in files) + 1
    return "\n\n".join([*blocks, "\n".join(f"{what + ':':{width}} {path}" for what, path in files)])


def _tables(name: str, results: dict[str, Any], cfg: CfgNode) -> list[str]:
    """Without test-time augmentation, and with it where it is on."""
    folders = {"bbox": "inference", "bbox_TTA": "inference_TTA"} if cfg.TEST.AUG.ENABLED else {"bbox": "inference"}
    blocks = []
    for task, folder in folders.items():
        title = f"{name}, with test-time augmentation" if task == "bbox_TTA" else name
        if results.get(task):
            blocks.append(_table(title, results[task]))
        else:
            detections = os.path.join(own_folder(cfg, folder, name), server_file(name, cfg.OUTPUT_DIR))
            blocks.append(f"{title}: no annotations to compare with; the detections are in {detections}")
    return blocks


def _table(title: str, metrics: dict[str, float]) -> str:
    overall = {key: value for key, value in metrics.items() if not key.startswith("AP-")}
    categories = [(key[3:], value) for key, value in metrics.items() if key.startswith("AP-")]
    lines = [
        f"Results on {title}",
        tabulate([[_show(v) for v in overall.values()]], list(overall), "pipe", disable_numparse=True),
    ]
    if categories:
        columns = min(3, len(categories))
        flat = [
            [text for pair in categories[i : i + columns] for text in (pair[0], _show(pair[1]))]
            for i in range(0, len(categories), columns)
        ]
        lines.append(tabulate(flat, ["category", "AP"] * columns, "pipe", disable_numparse=True))
    return "\n\n".join(lines)


def _show(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"
