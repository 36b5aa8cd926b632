"""The training loop of this project, on Detectron2's DefaultTrainer."""

import importlib.util
import logging
import os
import weakref
from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, hooks
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventStorage, EventWriter, JSONWriter, TensorboardXWriter
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fa_detectron.modeling  # noqa: F401  registers the meta-architecture and the backbones
from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.data.stream import build_train_loader
from fa_detectron.engine.checkpoints import Checkpoints
from fa_detectron.engine.evaluation import build_evaluator
from fa_detectron.engine.hooks import BestCheckpoint, Evaluation, PreciseBN
from fa_detectron.engine.mapper import DetectionMapper
from fa_detectron.engine.progress import BarLoader, ProgressBar, show_bars
from fa_detectron.engine.report import final_report
from fa_detectron.engine.run_folder import open_run_folder, trim_metrics
from fa_detectron.engine.shares import what_differs
from fa_detectron.engine.solver import build_average, build_optimizer
from fa_detectron.engine.step import StepTrainer
from fa_detectron.engine.stop import Stopped, StopSignals
from fa_detectron.errors import UserError
from fa_detectron.modeling.test_time_augmentation import DenseTTA

_logger = logging.getLogger(__name__)
_LOG_PERIOD = 20  # iterations


class Trainer(DefaultTrainer):
    """Detectron2's DefaultTrainer, on CPUs as well, with safe checkpoints and the best one kept.

    Unlike Detectron2 0.6's, its state includes the optimizer's, so that a resumed run really continues.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)  # DefaultTrainer's own asserts GPUs when there are several processes
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self._average = build_average(cfg, model)
        # What is evaluated is what a checkpoint calls its model.
        evaluated = model if self._average is None else self._average.module
        if comm.get_world_size() > 1:
            # All parameters get a gradient in every step (the loss sees to it), so none has to be searched for.
            devices = [torch.cuda.current_device()] if cfg.MODEL.DEVICE.startswith("cuda") else None
            model = DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
        self.stop = StopSignals()
        self._trainer = StepTrainer(
            model,
            optimizer,
            seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
            stop=self.stop,
            amp=cfg.SOLVER.AMP.ENABLED,
            accumulate=cfg.SOLVER.ACCUMULATION_STEPS,
            average=self._average,
            skip_nonfinite=cfg.SOLVER.SKIP_NONFINITE,
            images=cfg.SOLVER.IMS_PER_BATCH,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = FeatureAlignCheckpointer(evaluated, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from OUTPUT_DIR's last good checkpoint (``resume``, and there is one), else load MODEL.WEIGHTS."""
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        file = self.checkpointer.resumed_from
        if self._average is not None and not (file and self._average.n_averaged):
            getattr(self.model, "module", self.model).load_state_dict(self._average.module.state_dict())
        if file:
            self.start_iter = self.iter + 1  # the checkpoint holds the iteration that was finished
            _logger.info(
                "resumed from %s at iteration %d of %d: weights%s, optimizer, schedule, and the data where it stopped "
                "(seed %d)",
                *(file, self.start_iter, self.max_iter),
                "" if self._average is None else " and their average",
                self._trainer.seed,
            )
            if change := what_differs(self._trainer.resumed_shares, self._trainer.shares):
                _logger.warning(change)

    def train(self) -> dict[str, Any]:
        """Train, evaluate, print the final table.

        Returns:
            The last results on the main process, {} elsewhere and for a run without DATASETS.TEST.
        """
        open_run_folder(self.cfg, resumed=bool(self.checkpointer.resumed_from))
        if 0 < self.start_iter < self.max_iter and comm.is_main_process():
            trim_metrics(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"), self.start_iter)
        loader = self.build_train_loader(self.cfg, self._trainer.seed, self.start_iter)
        self._trainer.start(loader)
        if comm.is_main_process():
            self.register_hooks([hooks.PeriodicWriter(self.build_writers(), period=_LOG_PERIOD)])
        self._results: dict[str, Any] = {}
        self._loop()
        if self.cfg.TEST.AUG.ENABLED and self.cfg.DATASETS.TEST:
            self._results = self.test_with_TTA(self.cfg, self.checkpointer.model, self._results)
        if comm.is_main_process() and self.cfg.DATASETS.TEST:
            weights = os.path.join(self.cfg.OUTPUT_DIR, "model_final.pth")
            print("\n" + final_report(self.cfg, self._results, weights), flush=True)
            verify_results(self.cfg, self._results)
        return self._results

    def _loop(self) -> None:
        # TrainerBase.train would log the traceback of every exception, a user's errors included.
        if self.start_iter >= self.max_iter:
            _logger.info("training is complete (%d of %d iterations): evaluating", self.start_iter, self.max_iter)
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage, self.stop:
            try:
                self.before_train()
                for iteration in range(self.start_iter, self.max_iter):
                    self.iter = iteration
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self.stop.agreed:
                        raise Stopped(self.stop.agreed)
                self.iter = self.max_iter
            except Stopped as stopped:
                self._save_and_exit(stopped)
            finally:
                self._trainer.finish()
                self.after_train()

    def _save_and_exit(self, stopped: Stopped) -> NoReturn:
        self.stop.saving = True
        if comm.is_main_process():
            path = self._checkpoints.save()
            text = "stopped by %s after iteration %d of %d; --resume continues from %s"
            _logger.warning(text, stopped, self.iter + 1, self.max_iter, path)
        if self.stop.agreed:
            comm.synchronize()  # whoever exits first has the others ended
        raise SystemExit(128 + stopped.number)

    def build_hooks(self) -> list[HookBase | None]:
        cfg, main = self.cfg, comm.is_main_process()
        result: list[HookBase | None] = [hooks.IterationTimer(), hooks.LRScheduler()]
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            loader = self.build_train_loader(cfg, self._trainer.seed)
            result.append(PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER))
        if main:
            period, kept = cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.CHECKPOINTS_KEPT
            self._checkpoints = Checkpoints(self.checkpointer, period, kept)
            result.append(self._checkpoints)
        if main and show_bars():
            result.append(ProgressBar())
        if cfg.DATASETS.TEST:
            prefix = f"{cfg.DATASETS.TEST[0]}/" if len(cfg.DATASETS.TEST) > 1 else ""
            best = BestCheckpoint(self.checkpointer, f"{prefix}bbox/AP")
            result.append(Evaluation(cfg.TEST.EVAL_PERIOD, self._evaluate, best))
        return result

    def _evaluate(self) -> dict[str, Any]:
        with self.stop.at_once():
            self._results = self.test(self.cfg, self.checkpointer.model)
        return self._results

    def build_writers(self) -> list[EventWriter]:
        folder = self.cfg.OUTPUT_DIR
        writers = [CommonMetricPrinter(self.max_iter), JSONWriter(os.path.join(folder, "metrics.json"))]
        if importlib.util.find_spec("tensorboard"):  # an extra
            writers.append(TensorboardXWriter(folder))
        return writers

    def state_dict(self) -> dict[str, Any]:
        return {**TrainerBase.state_dict(self), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

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
    def build_train_loader(cls, cfg: CfgNode, seed: int = 0, start: int = 0) -> Iterable[list[dict[str, Any]]]:
        """Endless batches of this process, as a function of the seed; ``start``: iterations that have had theirs."""
        mapper = DetectionMapper(cfg, is_train=True)
        return build_train_loader(cfg, mapper, seed, start * cfg.SOLVER.ACCUMULATION_STEPS)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        loader = build_detection_test_loader(cfg, dataset_name, mapper=DetectionMapper(cfg, is_train=False))
        return BarLoader(loader, f"evaluating {dataset_name}") if show_bars() else loader

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module, results: dict[str, Any]) -> dict[str, Any]:
        """Evaluate with the test-time augmentation of TEST.AUG.*; detections go to OUTPUT_DIR/inference_TTA.

        Args:
            results: of :meth:`test`, without augmentation.

        Returns:
            ``results`` with the augmented ones beside them, as Detectron2 calls them: "bbox_TTA" beside "bbox".
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
