"""Which images make which batch, and how they are augmented, follows from seed and number alone."""

import itertools
import random

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.data.samplers import TrainingSampler

from fa_detectron.data.training.stream import BatchStream, NumberedSamples, seed_generators

GROUPS = [0, 1, 1, 0, 1, 1, 1]


def batches(count: int, groups=GROUPS, **turn) -> list[list[tuple[int, int]]]:
    indices = TrainingSampler(len(GROUPS), seed=5)._infinite_indices
    return list(itertools.islice(BatchStream(indices, 2, groups, **turn), count))


def test_a_batch_is_of_one_group_and_no_sample_comes_twice():
    found = batches(50)
    assert all(len({GROUPS[index] for _, index in batch}) == 1 for batch in found)
    numbers = [number for batch in found for number, _ in batch]
    assert len(set(numbers)) == len(numbers) == 100
    assert len(set(range(100)) - set(numbers)) <= 2  # all but those that wait for a partner


def test_without_groups_every_image_comes_once_in_turn():
    seen = [index for batch in batches(7, groups=None) for _, index in batch]
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7))


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_the_batches_of_one(workers):
    parts = [batches(3, rank=rank, workers=workers) for rank in range(workers)]
    assert [batch for turn in zip(*parts) for batch in turn] == batches(3 * workers)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_late_start_goes_on_where_the_others_stopped(workers):
    whole = batches(10, rank=workers - 1, workers=workers)
    assert batches(6, rank=workers - 1, workers=workers, start=4) == whole[4:]


def drawn(record: dict) -> tuple:
    return record["name"], random.random(), np.random.uniform(), torch.rand(1).item()


def test_what_is_drawn_for_a_sample_follows_from_its_number():
    samples = NumberedSamples([{"name": name} for name in "ab"], drawn, seed=3)
    first, second = samples[(10, 0)], samples[(11, 0)]
    seed_generators(99)
    assert samples[(10, 0)] == first
    assert all(x != y for x, y in zip(first[1:], second[1:]))
    assert samples[(10, 1)][1:] == first[1:]
    assert NumberedSamples([{"name": "a"}], drawn, seed=4)[(10, 0)][1:] != first[1:]
