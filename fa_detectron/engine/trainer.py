"""The training loop of this project, on Detectron2's DefaultTrainer."""

import importlib.util
import logging
import os
import weakref
from typing import Any, NoReturn

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase, TrainerBase, hooks
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventStorage, EventWriter, JSONWriter, TensorboardXWriter
from fvcore.nn.precise_bn import get_bn_modules
from torch.nn.parallel import DistributedDataParallel

from fa_detectron.checkpoint import FeatureAlignCheckpointer
from fa_detectron.engine.builders import Builders
from fa_detectron.engine.hooks import BestCheckpoint, Checkpoints, Evaluation, PreciseBN
from fa_detectron.engine.progress import ExpectedTime, ProgressBar, fit_to_minutes, show_bars
from fa_detectron.engine.results import final_report
from fa_detectron.engine.resume import effect_of_shares, report_changes, starting_weights
from fa_detectron.engine.run.folder import open_run_folder, raise_together, set_final_aside, trim_metrics
from fa_detectron.engine.run.lock import RunLock
from fa_detectron.engine.run.resources import explained_worker_errors, room_problem, worker_problem
from fa_detectron.engine.run.signals import Stopped, StopSignals
from fa_detectron.engine.solver import autocast_dtype, build_average, use_settings
from fa_detectron.engine.step import StepTrainer
from fa_detectron.errors import SharedError
from fa_detectron.visualization.sheets import save_train_batches

_logger = logging.getLogger(__name__)
_LOG_PERIOD = 20  # iterations


class Trainer(Builders):
    """Detectron2's DefaultTrainer, also on CPUs, with safe checkpoints and the best one kept.

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
            # The loss gives all parameters a gradient in every step, so there is no need to search for unused ones.
            devices = [torch.cuda.current_device()] if cfg.MODEL.DEVICE.startswith("cuda") else None
            model = DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
        self.stop = StopSignals()
        self._trainer = StepTrainer(
            model,
            optimizer,
            seed=cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed(),
            stop=self.stop,
            amp=autocast_dtype(cfg),
            accumulate=cfg.SOLVER.ACCUMULATION_STEPS,
            average=self._average,
            skip_nonfinite=cfg.SOLVER.SKIP_NONFINITE,
            images=cfg.SOLVER.IMS_PER_BATCH,
        )
        self._lock = RunLock(cfg.OUTPUT_DIR)
        self.checkpointer = FeatureAlignCheckpointer(evaluated, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self._use_schedule(cfg)

    def _use_schedule(self, cfg: CfgNode) -> None:
        """Set the length of the run, which has not started, and with it the learning-rate schedule and the hooks."""
        for group in self.optimizer.param_groups:
            group["lr"] = group.pop("initial_lr", group["lr"])  # if there was a schedule before
        self.cfg, self.max_iter = cfg, cfg.SOLVER.MAX_ITER
        self.scheduler = self.build_lr_scheduler(cfg, self.optimizer)
        self._hooks = []
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from OUTPUT_DIR's last good checkpoint (``resume``, and there is one), else load MODEL.WEIGHTS.

        Raises:
            UserError: another run is in that folder; the checkpoint is broken or does not fit, or is of a later
                iteration than SOLVER.MAX_ITER.
        """
        self._lock_folder()
        try:
            self._resume_or_load(resume)
        except BaseException:
            self._lock.release()
            raise

    def _lock_folder(self) -> None:
        """Keep other runs out of OUTPUT_DIR, if it exists."""
        there = comm.is_main_process() and os.path.isdir(self.cfg.OUTPUT_DIR)
        raise_together(self._lock.acquire() if there else "")

    def _resume_or_load(self, resume: bool) -> None:
        options = [{key: value for key, value in g.items() if key != "params"} for g in self.optimizer.param_groups]
        self.checkpointer.resume_or_load(self.cfg.MODEL.WEIGHTS, resume=resume)
        file = self.checkpointer.resumed_from
        if self._average is not None and not (file and self._average.n_averaged):
            model: Any = self.model
            getattr(model, "module", model).load_state_dict(self._average.module.state_dict())
        if file:
            self.start_iter = self.iter + 1  # the checkpoint holds the iteration that was finished
            if self.start_iter > self.max_iter:
                raise SharedError(
                    f"SOLVER.MAX_ITER is {self.max_iter}, but {file} is of iteration {self.start_iter}: the run cannot "
                    "be shortened to less than it has done"
                )
            report_changes(self.cfg, self.start_iter)
            use_settings(self.optimizer, self.scheduler, options)
            _logger.info(
                "resumed from %s at iteration %d of %d: weights%s, optimizer, schedule, and the data where it stopped "
                "(seed %d)",
                *(file, self.start_iter, self.max_iter),
                "" if self._average is None else " and their average",
                self._trainer.seed,
            )
            if change := effect_of_shares(self._trainer.resumed_shares, self._trainer.shares):
                _logger.warning(change)
        else:
            _logger.info(starting_weights(self.cfg))

    def train(self) -> dict[str, Any]:
        """Train, evaluate, print the final table.

        Returns:
            The last results on the main process, {} elsewhere and for a run without DATASETS.TEST.
        """
        model = self.checkpointer.model
        raise_together(room_problem(self.cfg, model, self.start_iter) if comm.is_main_process() else "")
        os.makedirs(self.cfg.OUTPUT_DIR, exist_ok=True)
        self._lock_folder()
        try:
            with explained_worker_errors():
                return self._train()
        finally:
            self._lock.release()

    def _train(self) -> dict[str, Any]:
        loader = self.build_train_loader(self.cfg, self._trainer.seed, self.start_iter)
        raise_together(worker_problem(self.cfg, loader, loader.dataset.records))
        if self.cfg.SOLVER.MINUTES and not self.checkpointer.resumed_from:
            self._use_schedule(fit_to_minutes(self.cfg, self._trainer, loader))
        open_run_folder(self.cfg, resumed=bool(self.checkpointer.resumed_from))
        if 0 < self.start_iter < self.max_iter and comm.is_main_process():
            trim_metrics(os.path.join(self.cfg.OUTPUT_DIR, "metrics.json"), self.start_iter)
        if comm.is_main_process() and not self.checkpointer.resumed_from:
            save_train_batches(self.cfg, loader)
        self._trainer.start(loader)
        if comm.is_main_process():
            expected = ExpectedTime(self.cfg, len(loader.dataset.records))
            self.register_hooks([expected, hooks.PeriodicWriter(self.build_writers(), period=_LOG_PERIOD)])
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
                if comm.is_main_process():
                    self._settle_final()
                while self.iter < self.max_iter:  # which an evaluation may lower
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if self.iter + 1 >= self.max_iter and comm.is_main_process():
                        self._checkpoints.finish()
                    if self.stop.agreed:
                        raise Stopped(self.stop.agreed)
                    self.iter += 1
            except Stopped as stopped:
                self._save_and_exit(stopped)
            finally:
                self._trainer.finish()
                self.after_train()

    def _settle_final(self) -> None:
        """Before the first step: only a complete run has a model_final.pth."""
        if self.start_iter >= self.max_iter:
            self._checkpoints.save_final(self.max_iter - 1)
        elif self.start_iter:
            set_final_aside(self.cfg.OUTPUT_DIR, self.start_iter)

    def _save_and_exit(self, stopped: Stopped) -> NoReturn:
        self.stop.saving = True
        if comm.is_main_process():
            path = self._checkpoints.save()
            text = "stopped by %s after iteration %d of %d; --resume continues from %s"
            _logger.warning(text, stopped, self.iter + 1, self.max_iter, path)
        if self.stop.agreed:
            comm.synchronize()  # the first exit ends the others
        raise SystemExit(128 + stopped.number)

    def build_hooks(self) -> list[HookBase | None]:
        cfg, main = self.cfg, comm.is_main_process()
        result: list[HookBase | None] = [hooks.IterationTimer(), hooks.LRScheduler()]
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            loader = self.build_train_loader(cfg, self._trainer.seed)
            result.append(PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, loader, cfg.TEST.PRECISE_BN.NUM_ITER))
        if main:
            solver = cfg.SOLVER
            timing = (solver.CHECKPOINT_PERIOD, solver.CHECKPOINT_MINUTES)
            self._checkpoints = Checkpoints(self.checkpointer, *timing, solver.CHECKPOINTS_KEPT)
            result.append(self._checkpoints)
        if main and show_bars():
            result.append(ProgressBar())
        if cfg.DATASETS.TEST:
            prefix = f"{cfg.DATASETS.TEST[0]}/" if len(cfg.DATASETS.TEST) > 1 else ""
            best = BestCheckpoint(self.checkpointer, f"{prefix}bbox/AP", cfg.TEST.PATIENCE)
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
