"""The cost of every stage of detection. Legend: N images of a batch."""

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from fa_detectron.inference import Predictor
from fa_detectron.modeling import FeatureAlign

from .flops import count_flops

# "load" reads and resizes a file, "prepare" normalises and pads; "backbone" has the FPN, and not "G-RFA".
STAGES = ("load", "prepare", "backbone", "G-RFA", "head", "decode")
_Stage = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class StageCost:
    """The cost of one stage, of an image where not said otherwise.

    Attributes:
        parameters: of its modules.
        flops: a multiply-add is two (see :mod:`fa_detectron.apps.measure.flops`).
        memory: bytes of the batch's tensors at the stage's peak, the weights apart; None for "load".
        seconds: median.
    """

    name: str
    parameters: int
    flops: int
    memory: int | None
    seconds: float


@dataclass(frozen=True)
class Measurement:
    """What :func:`measure` has found; ``canvas`` is the padded (N, 3, H, W) of the batch."""

    device: str
    threads: int
    canvas: tuple[int, ...]
    weights: int  # bytes of all parameters and buffers
    stages: tuple[StageCost, ...]

    def total(self) -> StageCost:
        """All stages one after the other."""
        memory = max(stage.memory for stage in self.stages if stage.memory is not None)
        parameters, flops, seconds = (
            sum(getattr(stage, key) for stage in self.stages) for key in ("parameters", "flops", "seconds")
        )
        return StageCost("all", parameters, flops, memory, seconds)

    def table(self) -> str:
        """For people."""
        where = f"{self.device}, {self.threads} threads" if self.device == "cpu" else self.device
        n, _, height, width = self.canvas
        lines = [
            f"on {where}; {n} image{'s' if n > 1 else ''} a batch, {height} x {width} pixels (height x width, padded); "
            f"weights {self.weights / 1e6:.1f} MB",
            f"{'stage':10}{'parameters':>12}{'GFLOPs':>10}{'memory MB':>11}{'ms':>10}{'images/s':>11}",
        ]
        for stage in (*self.stages, self.total()):
            memory = "" if stage.memory is None else f"{stage.memory / 1e6:.1f}"
            lines.append(
                f"{stage.name:10}{stage.parameters / 1e6:>10.2f} M{stage.flops / 1e9:>10.2f}{memory:>11}"
                f"{stage.seconds * 1e3:>10.1f}{1 / stage.seconds:>11.2f}"
            )
        lines.append(
            "GFLOPs and ms are of one image, a multiply-add is two FLOPs; memory is the batch's, at the stage's peak"
        )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "total": asdict(self.total())}


def measure(
    predictor: Predictor, images: Sequence[np.ndarray] | Sequence[str], batch_size: int, repeats: int
) -> Measurement:
    """Cost of the predictor's model, stage by stage.

    Args:
        predictor: with the model to measure, on its device.
        images: files, or pictures (H, W, 3) uint8 RGB; the latter leave out "load". Taken in turn, over and over.
        batch_size: N.
        repeats: batches whose times are taken; one more before them is not.
    """
    model = predictor.run.model
    batches = _batches(images, batch_size)
    with torch.no_grad():
        times = _times(predictor, model, batches, repeats)
        inputs = [predictor.model_input(_pixels(predictor, image)) for image in next(batches)]
        flops = _flops(model, inputs)
        memory = _memory(model, inputs)
        canvas = tuple(model.preprocess(inputs).tensor.shape)
    parameters = _parameters(model)
    stages = tuple(
        StageCost(
            name,
            parameters.get(name, 0),
            round(flops.get(name, 0) / batch_size),
            memory.get(name),
            times[name] / batch_size,
        )
        for name in STAGES
        if name in times
    )
    weights = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    return Measurement(str(model.device), torch.get_num_threads(), canvas, weights, stages)


def noise_image(cfg: CfgNode, size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, of the size of testing, 3:4, where ``size`` (H, W) is None."""
    shorter, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    height, width = size or (shorter, min(longest, round(shorter * 4 / 3)))
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _batches(images: Sequence[Any], size: int) -> Iterator[list[Any]]:
    position = 0
    while True:
        yield [images[(position + i) % len(images)] for i in range(size)]
        position += size


def _pixels(predictor: Predictor, image: np.ndarray | str) -> np.ndarray:
    return predictor.reader.read(image) if isinstance(image, str) else image


def _detect(model: FeatureAlign, inputs: list[dict[str, Any]], stage: _Stage) -> None:
    """The model's forward, cut into stages; G-RFA's lies within the backbone's."""
    with stage("prepare"):
        images = model.preprocess(inputs)
        padding_mask = model.padding_mask(images)
    with stage("backbone"), _stage_of(getattr(model.backbone, "global_attention", None), stage("G-RFA")):
        features = model.backbone(images.tensor, padding_mask)
    with stage("head"):
        predictions = model.head([features[name] for name in model.in_features])
    with stage("decode"):
        model.inference(predictions, images, inputs)


@contextmanager
def _stage_of(module: nn.Module | None, stage: AbstractContextManager[Any]) -> Iterator[None]:
    """Enters ``stage`` whenever ``module`` is called."""
    if module is None:
        yield
        return

    def enter(*_: Any) -> None:
        stage.__enter__()

    def leave(*_: Any) -> None:
        stage.__exit__(None, None, None)

    before, after = module.register_forward_pre_hook(enter), module.register_forward_hook(leave)
    try:
        yield
    finally:
        before.remove()
        after.remove()


class _Meter:
    """Gives what a counter counts to the stage that runs, the innermost one."""

    def __init__(self, read: Callable[[], float]) -> None:
        self._read, self._running = read, []
        self.counts: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._turn()
        self._running.append(name)
        yield
        self._turn()
        self._running.pop()

    def _turn(self) -> None:
        now = self._read()
        if self._running:
            self.counts[self._running[-1]] += now - self._last
        self._last = now


def _times(predictor: Predictor, model: FeatureAlign, batches: Iterator[list], repeats: int) -> dict[str, float]:
    """Median seconds a batch."""

    def now() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return time.perf_counter()

    seconds: dict[str, list[float]] = defaultdict(list)
    for repeat in range(repeats + 1):
        meter, batch = _Meter(now), next(batches)
        with meter("load") if isinstance(batch[0], str) else nullcontext():
            inputs = [predictor.model_input(_pixels(predictor, image)) for image in batch]
        _detect(model, inputs, meter)
        if repeat:  # the first allocates and chooses kernels
            for name, value in meter.counts.items():
                seconds[name].append(value)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _flops(model: FeatureAlign, inputs: list[dict[str, Any]]) -> dict[str, float]:
    with count_flops() as counter:
        meter = _Meter(counter.get_total_flops)
        _detect(model, inputs, meter)
    return meter.counts


def _memory(model: FeatureAlign, inputs: list[dict[str, Any]]) -> dict[str, int]:
    """Peak bytes of the tensors on the model's device, from the allocator's events."""
    # Without a GPU driver torch's profiler reports an error of its own that says nothing.
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        _detect(model, inputs, record_function)
    kind = torch.device(model.device).type.upper()
    windows: dict[str, tuple[int, int]] = {}  # nanoseconds
    changes: list[tuple[int, int]] = []  # nanoseconds, bytes
    for event in profiler.profiler.kineto_results.events():
        if event.name() in STAGES:
            windows[event.name()] = (event.start_ns(), event.start_ns() + event.duration_ns())
        elif event.name() == "[memory]" and event.device_type().name == kind:
            changes.append((event.start_ns(), event.nbytes()))
    peaks = dict.fromkeys(windows, 0)
    used = 0
    for moment, size in sorted(changes, key=lambda change: change[0]):
        used += size
        for name, (start, end) in windows.items():
            if start <= moment <= end:
                peaks[name] = max(peaks[name], used)
    return peaks


def _parameters(model: FeatureAlign) -> dict[str, int]:
    """By stage; mu and sigma are for the loss alone and in none."""

    def count(module: nn.Module | None) -> int:
        return sum(p.numel() for p in module.parameters()) if module is not None else 0

    attention = count(getattr(model.backbone, "global_attention", None))
    return {"backbone": count(model.backbone) - attention, "G-RFA": attention, "head": count(model.head)}
