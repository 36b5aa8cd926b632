"""Reads the published implementations' numbers, described in README.md beside this file."""

from pathlib import Path

import numpy as np
import torch


def load_golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of ``NAME.npz`` by their keys."""
    with np.load(Path(__file__).with_name(f"{name}.npz")) as data:
        return dict(data)


def state_dict(data: dict[str, np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    """The weights that are stored under ``prefix``, without it."""
    return {key.removeprefix(prefix): torch.from_numpy(value) for key, value in data.items() if key.startswith(prefix)}


def relative_error(found: torch.Tensor, expected: np.ndarray) -> float:
    """max |found - expected| / max |expected|."""
    expected = torch.from_numpy(np.asarray(expected)).double()
    return ((found.detach().double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()
