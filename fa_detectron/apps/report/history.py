"""What a run wrote down while it trained: losses and AP by iteration, from its metrics.json."""

import json
import math
import os
from typing import Any

Series = dict[int, float]  # value by the number of iterations done, ascending


def read_history(folder: str, max_iter: int) -> dict[str, Series]:
    """The series of ``metrics.json`` in a run's folder by their key; an absent file gives none.

    A run that was started again, or resumed, writes some iterations once more: the later lines count, and what the
    earlier run wrote beyond them is dropped. A line that a stopped process left half-written is passed over, and so is
    whatever is no finite number.

    Args:
        folder: of the run.
        max_iter: its SOLVER.MAX_ITER.
    """
    history: dict[str, Series] = {}
    last = 0
    for line in _lines(os.path.join(folder, "metrics.json")):
        # Iterations are counted from 0, but the evaluation after the last one bears their number.
        done = min(line["iteration"] + 1, max_iter)
        if "total_loss" in line:  # written in order, unlike evaluations
            if done <= last:
                history = {key: {i: v for i, v in series.items() if i < done} for key, series in history.items()}
            last = done
        for key, value in line.items():
            if key != "iteration" and isinstance(value, (int, float)) and math.isfinite(value):
                history.setdefault(key, {})[done] = float(value)
    return {key: dict(sorted(series.items())) for key, series in history.items() if series}


def _lines(path: str) -> list[dict[str, Any]]:
    if not os.path.isfile(path):
        return []
    lines = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("iteration"), int):
                lines.append(line)
    return lines


def select_losses(history: dict[str, Series]) -> dict[str, Series]:
    """The sum of the losses, then its terms."""
    terms = {key: series for key, series in history.items() if key.startswith("loss_")}
    return {"total_loss": history["total_loss"], **terms} if "total_loss" in history else terms


def select_ap(history: dict[str, Series], data_set: str) -> dict[str, Series]:
    """The box metrics ("AP", "AP50", "AP-CLASS", ...); of a run with several evaluation sets those of ``data_set``."""
    for prefix in (f"{data_set}/bbox/", "bbox/"):
        found = {key.removeprefix(prefix): series for key, series in history.items() if key.startswith(prefix)}
        if found:
            return found
    return {}
