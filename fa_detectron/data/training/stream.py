"""The training data as a function of the seed: interruptions do not change what a run sees.

Every sample of a run has a number. Its image, the rest of its batch and its random augmentation depend only on the seed
and that number, in whichever process it is loaded.
"""

import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, get_detection_dataset_dicts
from detectron2.data.samplers import RandomSubsetTrainingSampler, RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

from fa_detectron.errors import UserError

_LAST_SECONDS = 20
SAMPLES, STEPS = 0, 1  # first numbers of the seeds of a sample's augmentation and of a training step


def seed_generators(*words: int) -> None:
    """Seed the generators of Python, numpy and torch (CPU and GPUs) from any number of integers >= 0."""
    states = np.random.SeedSequence(words).generate_state(3)
    random.seed(int(states[0]))
    np.random.seed(states[1])
    torch.manual_seed(int(states[2]))


class NumberedSamples(Dataset):
    """Mapped records of a data set by (number, index): the number seeds the augmentation.

    Args:
        records: Detectron2's dicts, one per image.
        mapper: from a record to the model's input; draws from the global generators.
        seed: the run's.
        mosaic: share of the samples that combine four images; the mapper gets the other three, too.
    """

    def __init__(self, records: list[dict], mapper: Callable[..., dict], seed: int, mosaic: float = 0.0) -> None:
        self._records, self._mapper, self._seed = DatasetFromList(records, copy=False), mapper, seed
        self._mosaic = mosaic

    @property
    def records(self) -> DatasetFromList:
        return self._records

    def __getitem__(self, sample: tuple[int, int]) -> dict[str, Any]:
        number, index = sample
        seed_generators(self._seed, SAMPLES, number)
        if self._mosaic and np.random.uniform() < self._mosaic:
            others = np.random.randint(len(self._records), size=3)
            return self._mapper(self._records[index], [self._records[int(other)] for other in others])
        return self._mapper(self._records[index])


class BatchStream(Iterable[list[tuple[int, int]]]):
    """This worker's batches, as lists of (number, index) for :class:`NumberedSamples`; endless.

    All workers take turns in one stream of batches. So iteration i of 4 workers has the same images as iteration i of
    one worker that accumulates 4 batches.

    Args:
        indices: makes the endless stream of indices into the data set, the same on all workers.
        size: images per batch.
        groups: the group of every image; the images of a batch are of one group. None: no groups.
        rank, workers: this worker, and how many there are.
        start: batches of this worker to skip, as they were seen before.
    """

    def __init__(
        self,
        indices: Callable[[], Iterable[int]],
        size: int,
        groups: Sequence[int] | None,
        *,
        rank: int = 0,
        workers: int = 1,
        start: int = 0,
    ) -> None:
        self._indices, self._size, self._groups = indices, size, groups
        self._rank, self._workers, self._start = rank, workers, start

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        waiting: dict[int, list[tuple[int, int]]] = {}  # group -> samples that do not fill a batch yet
        for number, index in enumerate(self._indices()):
            group = self._groups[index] if self._groups is not None else 0
            batch = waiting.setdefault(group, [])
            batch.append((number, index))
            if len(batch) == self._size:
                yield waiting.pop(group)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return islice(self._batches(), self._start * self._workers + self._rank, None, self._workers)


def all_crowd(record: dict[str, Any]) -> bool:
    """Whether an image has boxes, all of them crowd boxes. Training skips it: it would be background with objects."""
    annotations = record.get("annotations", ())
    return bool(annotations) and all(annotation.get("iscrowd", 0) for annotation in annotations)


def build_train_loader(cfg: CfgNode, mapper: Callable[..., dict], seed: int, start: int = 0) -> DataLoader:
    """Endless batches of this worker's images.

    Args:
        cfg: DATASETS.TRAIN, DATALOADER.* and SOLVER.IMS_PER_BATCH, which SOLVER.ACCUMULATION_STEPS and the workers
            divide among them.
        mapper: from a record to the model's input.
        seed: the run's, the same on all workers.
        start: batches of this worker to skip.

    Raises:
        UserError: an unknown DATALOADER.SAMPLER_TRAIN.
    """
    loading = cfg.DATALOADER
    records = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=loading.FILTER_EMPTY_ANNOTATIONS)
    records = [record for record in records if not all_crowd(record)]
    sampler = _build_sampler(cfg, records, seed)
    groups = [int(x["width"] > x["height"]) for x in records] if loading.ASPECT_RATIO_GROUPING else None
    workers = comm.get_world_size()
    size = cfg.SOLVER.IMS_PER_BATCH // (workers * cfg.SOLVER.ACCUMULATION_STEPS)
    return DataLoader(
        NumberedSamples(records, mapper, seed, cfg.INPUT.MOSAIC),
        # Detectron2's samplers take their turns image by image; here whole batches do.
        batch_sampler=BatchStream(
            sampler._infinite_indices, size, groups, rank=comm.get_rank(), workers=workers, start=start
        ),
        num_workers=loading.NUM_WORKERS,
        collate_fn=list,
        worker_init_fn=_outlive_stop_signals,
        generator=torch.Generator(),  # the global one stays as it is
    )


def _build_sampler(cfg: CfgNode, records: list[dict], seed: int) -> Any:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return TrainingSampler(len(records), seed=seed)
    if name == "RandomSubsetTrainingSampler":
        ratio = cfg.DATALOADER.RANDOM_SUBSET_RATIO
        return RandomSubsetTrainingSampler(len(records), ratio, seed_shuffle=seed, seed_subset=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency
        return RepeatFactorTrainingSampler(factors(records, cfg.DATALOADER.REPEAT_THRESHOLD), seed=seed)
    raise UserError(
        f"DATALOADER.SAMPLER_TRAIN {name}: expected TrainingSampler, RepeatFactorTrainingSampler or "
        "RandomSubsetTrainingSampler"
    )


def _outlive_stop_signals(worker_id: int) -> None:
    """Ignore the signals that a terminal or scheduler sends to every process: the trainer ends its workers itself.

    If it fails to, SIGTERM ends a worker a while later, since a process waits for its workers at exit.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "alarm"):  # Windows, where no launcher signals a process
        return
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_LAST_SECONDS))  # SIGALRM kills
