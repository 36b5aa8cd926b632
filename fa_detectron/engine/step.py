"""One training step: on GPU or CPU, in float32 or mixed precision, over one batch or several whose gradients add up."""

import copy
import logging
import math
import time
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from detectron2.engine import TrainerBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel

from fa_detectron.data.training.stream import STEPS, seed_generators
from fa_detectron.engine.run.signals import StopSignals
from fa_detectron.errors import SharedError

_logger = logging.getLogger(__name__)
_MOST_SKIPPED_IN_A_ROW = 5  # at this many the run ends


class BatchShares(NamedTuple):
    """How the images of one step are divided."""

    images: int  # per step
    workers: int  # processes
    parts: int  # batches per worker, one after the other (SOLVER.ACCUMULATION_STEPS)

    def __str__(self) -> str:
        parts = f", {self.parts} parts each" if self.parts > 1 else ""
        return f"{self.images} images over {self.workers} process{'es' if self.workers > 1 else ''}{parts}"


class StepTrainer(TrainerBase):
    """What Detectron2's SimpleTrainer and AMPTrainer do, also on CPUs, with gradient accumulation.

    The workers exchange their losses after every step, so that they stop or skip together.

    Args:
        model: returns a dict of losses; may be wrapped for distributed training.
        optimizer: steps all trainable parameters of ``model``.
        seed: the run's, the same on all workers; random numbers of a step depend on it, the iteration and the rank.
        stop: agreed upon after every step.
        amp: autocast's dtype for the forward pass, or None. float16 adds loss scaling; bfloat16 has the range of
            float32 and needs none. Losses stay float32: the loss operator ensures it.
        accumulate: batches per step; the step equals that of one large batch.
        average: average of the weights, updated after every step.
        skip_nonfinite: skip steps with non-finite losses or gradients; the fifth in a row ends the run.
        images: per step, over all workers.

    Attributes:
        shares: how the images of one step are divided.
        resumed_shares: the same at the time when the loaded checkpoint was written.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        stop: StopSignals,
        amp: torch.dtype | None = None,
        accumulate: int = 1,
        average: AveragedModel | None = None,
        skip_nonfinite: bool = False,
        images: int = 0,
    ) -> None:
        super().__init__()
        self.model, self.optimizer = model.train(), optimizer
        self.seed, self.stop, self.amp = seed, stop, amp
        self.accumulate, self.average, self.skip_nonfinite = accumulate, average, skip_nonfinite
        self.skipped = self._skipped_in_a_row = 0
        self.shares = self.resumed_shares = BatchShares(images, comm.get_world_size(), accumulate)
        self.device_type = next(model.parameters()).device.type
        scale = amp == torch.float16
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=scale)  # disabled: passes through

    def start(self, data_loader: Iterable[list[dict[str, Any]]]) -> None:
        """Give it the data: endless batches, the first of them for the first step to come."""
        self.data_loader = data_loader
        self._batches = iter(data_loader)

    def finish(self) -> None:
        """Let go of the data: its worker processes end, even if an exception's traceback still refers to them."""
        if hasattr(self._batches, "_shutdown_workers"):
            self._batches._shutdown_workers()
        self._batches = iter(())

    def snapshot(self) -> dict[str, Any]:
        """All that steps change, for :meth:`restore`."""
        detector = getattr(self.model, "module", self.model)
        average = None if self.average is None else self.average.state_dict()
        states = (detector.state_dict(), self.optimizer.state_dict(), self.grad_scaler.state_dict(), average)
        return copy.deepcopy(dict(zip(("model", "optimizer", "grad_scaler", "average"), states)))

    def restore(self, state: dict[str, Any]) -> None:
        """Undo the steps since :meth:`snapshot`."""
        getattr(self.model, "module", self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer.zero_grad()
        if self.grad_scaler.is_enabled():
            self.grad_scaler.load_state_dict(state["grad_scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.skipped = self._skipped_in_a_row = 0

    def run_step(self) -> None:
        start = time.perf_counter()
        batches = [next(self._batches) for _ in range(self.accumulate)]
        data_time = time.perf_counter() - start

        seed_generators(self.seed, STEPS, self.iter, comm.get_rank())
        self.optimizer.zero_grad()
        losses = self.gradients(batches)
        self.grad_scaler.unscale_(self.optimizer)  # here, so that clipping sees true gradients
        reports = comm.all_gather(
            {
                "losses": losses,
                "data_time": data_time,
                "problems": self._problems(batches, losses),
                "stop": self.stop.received,
            }
        )
        self.stop.agreed = max(report["stop"] for report in reports)
        problems = [
            f"{problem} (worker {rank})" if len(reports) > 1 else problem
            for rank, report in enumerate(reports)
            for problem in report["problems"]
        ]
        if problems:
            self._skip_or_raise("; ".join(problems))
        else:
            self._skipped_in_a_row = 0
            self.grad_scaler.step(self.optimizer)
            if self.average is not None:
                self.average.update_parameters(getattr(self.model, "module", self.model))
        self.grad_scaler.update()
        if comm.is_main_process():
            self._write_metrics(reports)

    def gradients(self, batches: list[list[dict[str, Any]]]) -> list[dict[str, float]]:
        """Add up the gradients of the mean loss of the batches; the losses of each."""
        model: Any = self.model  # DistributedDataParallel has more methods than a module
        detector = getattr(model, "module", model)
        normalizers = detector.normalizers(batches) if len(batches) > 1 else None
        losses: list[dict[str, Tensor]] = []
        for index, batch in enumerate(batches):
            waits = isinstance(model, DistributedDataParallel) and index + 1 < len(batches)
            with model.no_sync() if waits else nullcontext():  # the workers' gradients meet once
                with torch.autocast(self.device_type, self.amp, enabled=self.amp is not None):
                    found = model(batch) if normalizers is None else model(batch, normalizers)
                self.grad_scaler.scale(sum(found.values()) / len(batches)).backward()
            losses.append({name: loss.detach() for name, loss in found.items()})  # 0-dim, float32
        return [{name: loss.item() for name, loss in of_batch.items()} for of_batch in losses]

    def _problems(self, batches: list[list[dict[str, Any]]], losses: list[dict[str, float]]) -> list[str]:
        problems = []
        for batch, of_batch in zip(batches, losses, strict=True):
            bad = [f"{name} is {value}" for name, value in of_batch.items() if not math.isfinite(value)]
            if bad:
                problems.append(f"{', '.join(bad)} over {_names(batch)}")
        if not problems and not self.grad_scaler.is_enabled():  # which leaves out such steps by itself
            gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
            if not get_total_norm(gradients).isfinite():
                problems.append(f"the gradient is not finite after {_names([x for batch in batches for x in batch])}")
        return problems

    def _skip_or_raise(self, problems: str) -> None:
        text = f"iteration {self.iter + 1}: {problems}"
        self.skipped += 1
        self._skipped_in_a_row += 1
        if self.skip_nonfinite and self._skipped_in_a_row < _MOST_SKIPPED_IN_A_ROW:
            _logger.warning("%s. Step skipped, %d so far", text, self.skipped)
            return
        again = f", the step too often to skip: {self._skipped_in_a_row} in a row" if self.skip_nonfinite else ""
        raise SharedError(
            f"{text}{again}. Training diverged: lower SOLVER.BASE_LR, warm up longer (SOLVER.WARMUP_ITERS) or clip "
            "gradients (SOLVER.CLIP_GRADIENTS.ENABLED True). --resume continues from the last checkpoint"
            + ("" if self.skip_nonfinite else ", --skip-nonfinite leaves such steps out")
        )

    def _write_metrics(self, reports: list[dict[str, Any]]) -> None:
        storage = get_event_storage()
        # The slowest worker is the one that the others wait for.
        storage.put_scalar("data_time", max(report["data_time"] for report in reports))
        if self.skipped:
            storage.put_scalar("skipped_steps", self.skipped, smoothing_hint=False)
        every = [losses for report in reports for losses in report["losses"]]
        means = {name: sum(losses[name] for losses in every) / len(every) for name in every[0]}
        if all(map(math.isfinite, means.values())):
            storage.put_scalars(total_loss=sum(means.values()), **means)

    def state_dict(self) -> dict[str, Any]:
        state = {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "seed": self.seed,
            "skipped": self.skipped,
            "shares": tuple(self.shares),
        }
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        if self.average is not None:  # the checkpoint's "model" is the average
            state["trained_model"] = getattr(self.model, "module", self.model).state_dict()
            state["averaged_steps"] = self.average.n_averaged
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.seed = state_dict.get("seed", self.seed)
        self.skipped = state_dict.get("skipped", 0)
        self.resumed_shares = BatchShares(*state_dict.get("shares", self.shares))
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        if "trained_model" in state_dict:
            getattr(self.model, "module", self.model).load_state_dict(state_dict["trained_model"])
            if self.average is not None:
                self.average.n_averaged.copy_(state_dict["averaged_steps"])


def _names(batch: list[dict[str, Any]]) -> str:
    return "the images " + ", ".join(str(record["file_name"]) for record in batch)
