"""What a trainer builds from a config: model, optimizer, data loaders, evaluators."""

import logging
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import build_model
from torch import nn

import fa_detectron.modeling  # noqa: F401  registers the meta-architecture and the backbones
from fa_detectron.data.training.mapper import DetectionMapper
from fa_detectron.data.training.stream import build_train_loader
from fa_detectron.engine.evaluators import build_evaluator
from fa_detectron.engine.progress import BarLoader, show_bars
from fa_detectron.engine.run.resources import explained_worker_errors
from fa_detectron.engine.solver import build_optimizer
from fa_detectron.errors import UserError
from fa_detectron.modeling.test_time_augmentation import DenseTTA

_logger = logging.getLogger(__name__)


class Builders(DefaultTrainer):
    """Overrides of DefaultTrainer's class methods."""

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        try:
            model = build_model(cfg)
        except KeyError as error:
            if "registry" not in str(error):
                raise
            raise UserError(f"config: {error.args[0]}") from None
        count = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        _logger.info("%s: %.1f M parameters, %.1f M of them trained", type(model).__name__, count / 1e6, trained / 1e6)
        return model

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, seed: int = 0, start: int = 0) -> Any:
        """Endless batches of this process, determined by the seed; ``start``: iterations that are already done."""
        mapper = DetectionMapper(cfg, is_train=True)
        return build_train_loader(cfg, mapper, seed, start * cfg.SOLVER.ACCUMULATION_STEPS)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        loader = build_detection_test_loader(cfg, dataset_name, mapper=DetectionMapper(cfg, is_train=False))
        return BarLoader(loader, f"evaluating {dataset_name}") if show_bars() else loader

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        with explained_worker_errors():
            return super().test(cfg, model, evaluators)

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module, results: dict[str, Any]) -> dict[str, Any]:
        """Evaluate with the test-time augmentation of TEST.AUG; detections go to OUTPUT_DIR/inference_TTA.

        Args:
            results: of :meth:`test`, without augmentation.

        Returns:
            ``results`` and those with augmentation, under Detectron2's names: "bbox_TTA" beside "bbox".
        """
        augmented = cfg.clone()
        augmented.defrost()
        augmented.INPUT.MIN_SIZE_TEST = 0  # no resizing: DenseTTA makes every scale from the image itself
        augmented.TEST.SAMPLE_PICTURES = 0  # they show the detector as it is
        evaluators = [build_evaluator(augmented, name, "inference_TTA") for name in cfg.DATASETS.TEST]
        more = cls.test(augmented, DenseTTA(cfg, model), evaluators)
        if len(cfg.DATASETS.TEST) == 1:
            return {**results, **{f"{task}_TTA": metrics for task, metrics in more.items()}}
        suffixed = {name: {f"{task}_TTA": m for task, m in by_task.items()} for name, by_task in more.items()}
        return {name: {**by_task, **suffixed.get(name, {})} for name, by_task in results.items()}

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name)
