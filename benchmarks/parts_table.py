"""Collects the runs of benchmarks/parts.py and prints what they say: means, seeds, and paired differences."""

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from average_precision import Matches, resample
from parts_data import source_photograph

from fa_detectron.data.registration import VAL_NAME
from fa_detectron.errors import UserError
from fa_detectron.files import atomic_write

_RESAMPLES = 500
_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_BASELINE = "autoassign"
_MARKERS = "<!-- parts.py table -->", "<!-- end -->"


def collect(output: Path) -> list[dict[str, Any]]:
    """A row for each finished run below ``output``: what it is, its figures, and its AP on each resample of the images.

    Raises:
        UserError: there is none.
    """
    rows = [_row(output, file.parent) for file in sorted(output.glob("**/alignment.json"))]
    if not rows:
        raise UserError(f"{output}: no finished run")
    return rows


def _row(output: Path, folder: Path) -> dict[str, Any]:
    data, *variant = folder.relative_to(output).parent.parts
    iterations, seed = folder.name.split("-seed")
    with open(folder / "metrics.json", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    last = next(x for x in reversed(lines) if "bbox/AP" in x)
    measured = json.loads((folder / "alignment.json").read_text(encoding="utf-8"))  # null for a peer
    alignment = measured["runs"][0]["average"] if measured else {"misalignment": None, "rank_agreement": None}
    matches = Matches(
        folder / f"{VAL_NAME}.json", folder / "inference" / "coco_instances_results.json", source_photograph
    )
    draws = resample(matches.sources, _RESAMPLES)
    return {
        "set": data,
        "variant": "/".join(variant),
        "iterations": int(iterations),
        "seed": int(seed),
        **{metric: last.get(f"bbox/{metric}") for metric in _METRICS},
        "misalignment": alignment["misalignment"],
        "rank_agreement": alignment["rank_agreement"],
        "seconds_a_step": statistics.median(x["time"] for x in lines if "time" in x),
        "resampled": [round(matches.average_precision(weights), 2) for weights in draws],
    }


def _groups(rows: list[dict[str, Any]]) -> dict[tuple[str, int], dict[str, list[dict[str, Any]]]]:
    """(set, iterations) -> variant -> its runs; the baseline first."""
    groups: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda r: (r["set"], r["iterations"], r["variant"] != _BASELINE, r["variant"])):
        groups[row["set"], row["iterations"]][row["variant"]].append(row)
    return groups


def _mean(runs: list[dict[str, Any]], key: str) -> float:
    values = [run[key] for run in runs if run[key] is not None]
    return statistics.fmean(values) if values else float("nan")


def compare(runs: list[dict[str, Any]], others: list[dict[str, Any]]) -> tuple[float, float]:
    """Mean AP of ``runs`` less that of ``others``, and its standard deviation over the resampled images.

    All runs of a set see the same resamples, so the images that are hard for both do not count as spread. Where the
    same seeds are on both sides, only they are compared.
    """
    common = {run["seed"] for run in runs} & {run["seed"] for run in others}
    if common:
        runs, others = ([run for run in side if run["seed"] in common] for side in (runs, others))
    means = [np.nanmean([run["resampled"] for run in side], axis=0) for side in (runs, others)]
    return _mean(runs, "AP") - _mean(others, "AP"), float(np.nanstd(means[0] - means[1], ddof=1))


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown, a table for each set and length of training."""
    lines = []
    for (data, iterations), variants in _groups(rows).items():
        lines += [
            f"### {data}, {iterations} iterations",
            "",
            "| variant | AP, by seed | mean | deviation | against AutoAssign | AP50 | AP75 | APs | APm | APl "
            "| misalignment | rank agreement |",
            "|" + "---|" * 12,
        ]
        for variant, runs in variants.items():
            runs = sorted(runs, key=lambda run: run["seed"])
            against = "-"
            if variant != _BASELINE and _BASELINE in variants:
                against = "{:+.1f} ± {:.1f}".format(*compare(runs, variants[_BASELINE]))
            cells = [
                variant,
                ", ".join(f"{run['AP']:.1f} ({run['seed']})" for run in runs),
                f"{_mean(runs, 'AP'):.1f}",
                f"{statistics.stdev(run['AP'] for run in runs):.1f}" if len(runs) > 1 else "-",
                against,
                *(f"{_mean(runs, metric):.1f}".replace("nan", "-") for metric in _METRICS[1:]),
                f"{_mean(runs, 'misalignment'):.3f}".replace("nan", "-"),
                f"{_mean(runs, 'rank_agreement'):.3f}".replace("nan", "-"),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def write_table(outputs: Sequence[Path], json_file: Path | None, page: Path | None) -> None:
    """Print the tables of the runs below ``outputs``, and write them where asked to."""
    rows = [row for output in outputs for row in collect(output)]
    text = tables(rows)
    print(text)
    if json_file is not None:
        with atomic_write(str(json_file)) as file:
            json.dump([{k: v for k, v in row.items() if k != "resampled"} for row in rows], file, indent=1)
    if page is not None:
        content = page.read_text(encoding="utf-8")
        start, end = (content.find(marker) for marker in _MARKERS)
        if not 0 <= start < end:
            raise UserError(f"{page}: the markers {_MARKERS[0]} and {_MARKERS[1]} are missing")
        with atomic_write(str(page)) as file:
            file.write(content[: start + len(_MARKERS[0])] + "\n\n" + text + "\n" + content[end:])
