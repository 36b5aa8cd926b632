"""The table at the end of a run, and where its files are."""

import json
import os
from typing import Any

from detectron2.config import CfgNode

from fa_detectron.data.names import set_name
from fa_detectron.engine.evaluators import own_folder, server_file
from fa_detectron.engine.tables import metric_tables

RESULTS = "results.json"  # the figures of an evaluation, in its folder


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
    kinds = (("pictures", "samples"), ("metrics", "metrics.json"), ("results", RESULTS), ("detections", "inference"))
    for what, name in kinds:
        if os.path.exists(os.path.join(folder, name)):
            files.append((what, os.path.join(folder, name)))
    width = max(len(what) for what, _ in files) + 1
    return "\n\n".join([*blocks, "\n".join(f"{what + ':':{width}} {path}" for what, path in files)])


def _tables(name: str, results: dict[str, Any], cfg: CfgNode) -> list[str]:
    """Without test-time augmentation, and with it where it is on."""
    folders = {"bbox": "inference", "bbox_TTA": "inference_TTA"} if cfg.TEST.AUG.ENABLED else {"bbox": "inference"}
    blocks = []
    for task, folder in folders.items():
        title = set_name(cfg, name) + (", with test-time augmentation" if task == "bbox_TTA" else "")
        if results.get(task):
            blocks.append(f"Results on {title}\n\n{metric_tables(results[task])}")
        else:
            detections = os.path.join(own_folder(cfg, folder, name), server_file(name, cfg.OUTPUT_DIR))
            blocks.append(f"{title}: no annotations to compare with; the detections are in {detections}")
    return blocks
