"""The figures of an evaluation: their tables, and the files that a run leaves for them."""

import json
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from fa_detectron.data.set_names import folder_name, set_name

Metrics = Mapping[str, float]  # "AP", "AP50", ..., "AP-CLASS", in percent
EVALUATIONS = "eval"  # folder below OUTPUT_DIR with one folder per set that --eval-only has evaluated
RESULTS = "results.json"  # the figures of an evaluation, in its folder


def show(value: float | None, digits: int = 2) -> str:
    """A number with ``digits`` decimals; "-" for None and NaN, which stand for classes or sizes without a box."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def metric_tables(metrics: Metrics) -> str:
    """The overall figures, then the AP of each class, up to three classes per row."""
    overall, classes = split_metrics(metrics)
    tables = [_table([[show(value) for value in overall.values()]], list(overall))]
    if classes:
        columns, cells = min(3, len(classes)), [(name, show(value)) for name, value in classes.items()]
        rows = [[text for cell in cells[i : i + columns] for text in cell] for i in range(0, len(cells), columns)]
        tables.append(_table(rows, ["category", "AP"] * columns))
    return "\n\n".join(tables)


def comparison_tables(by_model: Mapping[str, Metrics]) -> str:
    """The figures of several models on one set: a row per model, then a row per class with a column per model."""
    parts = {name: split_metrics(metrics) for name, metrics in by_model.items()}
    overall, classes = next(iter(parts.values()))
    rows = [[name, *(show(own[key]) for key in overall)] for name, (own, _) in parts.items()]
    tables = [_table(rows, ["model", *overall])]
    if classes:
        rows = [[name, *(show(own[name]) for _, own in parts.values())] for name in classes]
        tables.append(_table(rows, ["category", *(f"AP, {name}" for name in parts)]))
    return "\n\n".join(tables)


def split_metrics(metrics: Metrics) -> tuple[dict[str, float], dict[str, float]]:
    """The overall figures, and the AP by class name."""
    classes = {key.removeprefix("AP-"): value for key, value in metrics.items() if key.startswith("AP-")}
    return {key: value for key, value in metrics.items() if not key.startswith("AP-")}, classes


def _table(rows: list[list[str]], header: list[str]) -> str:
    return tabulate(rows, header, "pipe", disable_numparse=True)


def own_folder(cfg: CfgNode, folder: str, dataset_name: str) -> str:
    """``folder`` below OUTPUT_DIR; with several evaluation sets, each has its own folder inside."""
    parts = (dataset_name,) if len(cfg.DATASETS.TEST) > 1 else ()
    return os.path.join(cfg.OUTPUT_DIR, folder, *parts)


def server_file(dataset_name: str, run_folder: str) -> str:
    """The file name that COCO's evaluation server expects: detections_TESTSET_ALGORITHM_results.json.

    Args:
        dataset_name: coco_2017_test-dev becomes the server's test-dev2017; other names stay.
        run_folder: its last part names the algorithm; for the evaluation folder RUN/eval/NAME that is RUN.
    """
    coco = re.fullmatch(r"coco_(\d{4})_(.+)", dataset_name)
    test_set = f"{coco[2]}{coco[1]}" if coco else dataset_name
    *_, run, evaluations, own = ("", "", *os.path.abspath(run_folder).split(os.sep))
    of_set = evaluations == EVALUATIONS and own.startswith(folder_name(dataset_name))
    algorithm = re.sub(r"[^A-Za-z0-9.-]+", "-", run if of_set else own)
    return f"detections_{test_set}_{algorithm}_results.json"


def final_report(cfg: CfgNode, results: dict[str, Any], weights: str) -> str:
    """The AP of every evaluated set and of its classes, and the run's files, as text.

    Args:
        cfg: the run's config.
        results: as ``Trainer.test`` returns them: {"bbox": ...} for one set, else {set: {"bbox": ...}}.
        weights: the checkpoint that was evaluated.
    """
    names = cfg.DATASETS.TEST
    by_set = {names[0]: results} if len(names) == 1 else results
    blocks = [block for name in names for block in _set_tables(name, by_set.get(name) or {}, cfg)]
    folder = cfg.OUTPUT_DIR
    files = [("checkpoint", weights)]
    record = os.path.join(folder, "best_checkpoint.json")
    if os.path.isfile(record) and os.path.dirname(os.path.abspath(weights)) == os.path.abspath(folder):
        with open(record, encoding="utf-8") as file:
            best = json.load(file)
        note = f"({best['metric']} {best['value']:.2f} at iteration {best['iteration'] + 1})"
        files.append(("best so far", f"{os.path.join(folder, best['file'])} {note}"))
    kinds = (("pictures", "samples"), ("metrics", "metrics.json"), ("results", RESULTS), ("detections", "inference"))
    files += [(what, path) for what, name in kinds if os.path.exists(path := os.path.join(folder, name))]
    width = max(len(what) for what, _ in files) + 1
    return "\n\n".join([*blocks, "\n".join(f"{what + ':':{width}} {path}" for what, path in files)])


def _set_tables(name: str, results: dict[str, Any], cfg: CfgNode) -> list[str]:
    """The tables of one set, without and (where it is on) with test-time augmentation."""
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
