"""``--eval-only``: measure a checkpoint."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.engine.report import final_report
from fa_detectron.engine.trainer import Trainer
from fa_detectron.errors import UserError


def evaluate(cfg: CfgNode, resume: bool = False) -> dict[str, Any]:
    """Evaluate MODEL.WEIGHTS on DATASETS.TEST and print the table.

    Args:
        cfg: the config of the run that made the weights (its folder's ``config.yaml``).
        resume: take the last checkpoint in OUTPUT_DIR instead of MODEL.WEIGHTS.

    Returns:
        The results on the main process, {} elsewhere.

    Raises:
        UserError: the checkpoint is missing, broken, or of another model or class count.
    """
    model = Trainer.build_model(cfg)
    checkpointer = FeatureAlignCheckpointer(model, cfg.OUTPUT_DIR)
    weights = checkpointer.last_good() if resume else cfg.MODEL.WEIGHTS
    if not weights:
        raise UserError(f"--eval-only --resume: there is no checkpoint in {cfg.OUTPUT_DIR}")
    checkpointer.load(weights, checkpointables=[], strict=True)
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results = Trainer.test_with_TTA(cfg, model, results)
    if comm.is_main_process():
        print("\n" + final_report(cfg, results, weights), flush=True)
        verify_results(cfg, results)
    return results
