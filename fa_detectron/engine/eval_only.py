"""Evaluate a checkpoint. Each evaluated set has its own folder, OUTPUT_DIR/eval/NAME."""

import json
import math
import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.data.registration import register_from_config
from fa_detectron.data.set_names import folder_name, set_name, set_source
from fa_detectron.engine.results import EVALUATIONS, RESULTS, final_report
from fa_detectron.engine.run.logs import open_logs
from fa_detectron.engine.trainer import Trainer
from fa_detectron.errors import UserError
from fa_detectron.files import write_json


def evaluate(cfg: CfgNode, resume: bool = False) -> dict[str, Any]:
    """Evaluate MODEL.WEIGHTS on every set of DATASETS.TEST, and print the tables.

    All files go to the set's own folder below OUTPUT_DIR/eval and replace those of its previous evaluation. The run's
    own files stay as they are.

    Args:
        cfg: the config of the run that made the weights (its folder's ``config.yaml``).
        resume: take the last checkpoint in OUTPUT_DIR instead of MODEL.WEIGHTS.

    Returns:
        On the main process what ``Trainer.test`` returns for DATASETS.TEST, {} elsewhere.

    Raises:
        UserError: the checkpoint is missing, broken, or of another model or class count.
    """
    model = Trainer.build_model(cfg)
    checkpointer = FeatureAlignCheckpointer(model, cfg.OUTPUT_DIR)
    weights = checkpointer.last_good() if resume else cfg.MODEL.WEIGHTS
    if not weights:
        raise UserError(f"--resume: there is no checkpoint in {cfg.OUTPUT_DIR}")
    checkpointer.load(weights, checkpointables=[], strict=True)
    folders = [_folder_of_set(cfg, name) for name in cfg.DATASETS.TEST] if comm.is_main_process() else []
    parts = [_config_of_set(cfg, *pair) for pair in zip(cfg.DATASETS.TEST, comm.all_gather(folders)[0])]
    open_logs([part.OUTPUT_DIR for part in parts])
    by_set = {part.DATASETS.TEST[0]: _evaluate_set(part, model, weights) for part in parts}
    results = by_set if len(by_set) > 1 else next(iter(by_set.values()))
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def _evaluate_set(cfg: CfgNode, model: Any, weights: str) -> dict[str, Any]:
    register_from_config(cfg)  # writes into this folder from now on
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results = Trainer.test_with_TTA(cfg, model, results)
    if comm.is_main_process():
        content = {
            "data": set_source(cfg, *cfg.DATASETS.TEST),
            "weights": os.path.abspath(weights),
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            **{task: _without_nan(metrics) for task, metrics in results.items()},
        }
        write_json(os.path.join(cfg.OUTPUT_DIR, RESULTS), content)
        print("\n" + final_report(cfg, results, weights), flush=True)
    return results


def _config_of_set(cfg: CfgNode, name: str, folder: str) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST, cfg.OUTPUT_DIR = (name,), folder
    cfg.freeze()
    return cfg


def _folder_of_set(cfg: CfgNode, name: str) -> str:
    """The folder for the evaluation of one set; sets of the same name get numbered ones."""
    base = folder = os.path.join(cfg.OUTPUT_DIR, EVALUATIONS, folder_name(set_name(cfg, name)))
    number = 1
    while os.path.isdir(folder) and _evaluated_there(folder) not in ("", set_source(cfg, name)):
        number += 1
        folder = f"{base}-{number}"
    return folder


def _evaluated_there(folder: str) -> str:
    """The set whose results are in a folder; "" if none are readable."""
    try:
        with open(os.path.join(folder, RESULTS), encoding="utf-8") as file:
            return str(json.load(file)["data"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _without_nan(metrics: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: null for classes and sizes without a box."""
    return {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
