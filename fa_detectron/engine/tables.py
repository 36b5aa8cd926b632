"""Box metrics as text tables. A figure that the set cannot give (no box of that class or size) is a dash."""

import math
from collections.abc import Mapping

from tabulate import tabulate

Metrics = Mapping[str, float]  # "AP", "AP50", ..., "AP-CLASS", in percent


def show(value: float | None, digits: int = 2) -> str:
    """A number with ``digits`` decimals; "-" for None and NaN."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def metric_tables(metrics: Metrics) -> str:
    """The overall figures, then the AP of each class, up to three classes a row."""
    overall, classes = split_metrics(metrics)
    tables = [_table([[show(value) for value in overall.values()]], list(overall))]
    if classes:
        columns, cells = min(3, len(classes)), [(name, show(value)) for name, value in classes.items()]
        rows = [[text for cell in cells[i : i + columns] for text in cell] for i in range(0, len(cells), columns)]
        tables.append(_table(rows, ["category", "AP"] * columns))
    return "\n\n".join(tables)


def comparison_tables(by_model: Mapping[str, Metrics]) -> str:
    """The figures of several models on one set: a row per model, then a row per class with a column per model."""
    parts = {name: split_metrics(metrics) for name, metrics in by_model.items()}
    overall, classes = next(iter(parts.values()))
    rows = [[name, *(show(own[key]) for key in overall)] for name, (own, _) in parts.items()]
    tables = [_table(rows, ["model", *overall])]
    if classes:
        rows = [[name, *(show(own[name]) for _, own in parts.values())] for name in classes]
        tables.append(_table(rows, ["category", *(f"AP, {name}" for name in parts)]))
    return "\n\n".join(tables)


def split_metrics(metrics: Metrics) -> tuple[dict[str, float], dict[str, float]]:
    """The overall figures, and the AP by class name."""
    classes = {key.removeprefix("AP-"): value for key, value in metrics.items() if key.startswith("AP-")}
    return {key: value for key, value in metrics.items() if not key.startswith("AP-")}, classes


def _table(rows: list[list[str]], header: list[str]) -> str:
    return tabulate(rows, header, "pipe", disable_numparse=True)
