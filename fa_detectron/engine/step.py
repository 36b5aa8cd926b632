"""One training step, in float32 or in mixed precision, on GPU and on CPU."""

import time

import torch
from detectron2.engine import SimpleTrainer

from fa_detectron.errors import UserError

# float16 needs a GPU's tensor cores and loss scaling; bfloat16 has float32's range, so that it needs none.
_AMP_DTYPE = {"cuda": torch.float16, "cpu": torch.bfloat16}


class StepTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer and AMPTrainer in one; its AMPTrainer asserts CUDA.

    Args:
        model: returns a dict of losses; may be wrapped for distributed training.
        data_loader: endless iterable of batches.
        optimizer: steps all trainable parameters of ``model``.
        amp: forward pass under autocast. The losses stay float32: the loss operator sees to it.
    """

    def __init__(
        self, model: torch.nn.Module, data_loader, optimizer: torch.optim.Optimizer, amp: bool = False
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.amp = amp
        self.device_type = next(model.parameters()).device.type
        scale = amp and self.device_type == "cuda"
        self.grad_scaler = torch.amp.GradScaler(self.device_type, enabled=scale)  # disabled: passes through

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        with torch.autocast(self.device_type, _AMP_DTYPE[self.device_type], enabled=self.amp):
            losses = self.model(data)  # name -> 0-dim, float32
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        try:
            self._write_metrics(losses, data_time)
        except FloatingPointError as error:
            values = " ".join(str(error).split())
            raise UserError(
                f"{values}. Training diverged: lower SOLVER.BASE_LR, warm up longer (SOLVER.WARMUP_ITERS) or "
                "clip gradients (SOLVER.CLIP_GRADIENTS.ENABLED True)"
            ) from None
        self.grad_scaler.step(self.optimizer)  # undoes the scaling first, so that clipping sees true gradients
        self.grad_scaler.update()

    def state_dict(self) -> dict:
        state = super().state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
