"""Several runs on the same images: which images, which runs can be compared, and figures of whole data sets."""

import math
import os
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fa_detectron.apps.predict.results import save_picture
from fa_detectron.engine.progress import BarLoader, show_bars
from fa_detectron.errors import UserError
from fa_detectron.inference import Run
from fa_detectron.modeling.config import method_name

from .alignment import Alignment, average
from .explanation import Explanation, explain_image
from .pictures import alignment_picture, level_picture, prior_picture

Record = Mapping[str, Any]  # Detectron2's dataset dict


def run_titles(runs: Sequence[Run]) -> list[str]:
    """The method and the folder of each run."""
    return [f"{method_name(run.cfg)} ({run.name})" for run in runs]


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs whose figures would be measured on different locations or objects.

    Raises:
        UserError: names the two runs and what differs.
    """
    for what, of in (
        ("classes", lambda run: ", ".join(run.class_names)),
        ("INPUT.MIN_SIZE_TEST", lambda run: run.cfg.INPUT.MIN_SIZE_TEST),
        ("INPUT.MAX_SIZE_TEST", lambda run: run.cfg.INPUT.MAX_SIZE_TEST),
        ("MODEL.FEATURE_ALIGN.IN_FEATURES", lambda run: tuple(run.cfg.MODEL.FEATURE_ALIGN.IN_FEATURES)),
        ("MODEL.FEATURE_ALIGN.LOCATION_OFFSET", lambda run: run.cfg.MODEL.FEATURE_ALIGN.LOCATION_OFFSET),
    ):
        first = of(runs[0])
        for run in runs[1:]:
            if of(run) != first:
                raise UserError(
                    f"{runs[0].folder or runs[0].name} and {run.folder or run.name} cannot be compared: {what} "
                    f"{first} there, {of(run)} here"
                )


def select_images(records: Sequence[Record], names: Sequence[str], count: int) -> list[int]:
    """The positions of the wanted images in the data set.

    Args:
        names: file names (with or without folder and suffix) or image ids; () takes the first ``count``.

    Raises:
        UserError: there is no such image, or several are meant.
    """
    if not names:
        return list(range(min(count, len(records))))
    known: dict[str, set[int]] = defaultdict(set)
    for index, record in enumerate(records):
        path = Path(record["file_name"])
        for key in (str(path), path.name, path.stem, str(record["image_id"])):
            known[key].add(index)
    chosen = []
    for name in names:
        found = known.get(name) or known.get(os.path.abspath(os.path.expanduser(name))) or set()
        if len(found) != 1:
            which = "several images are" if found else "no image is"
            raise UserError(f"--image {name}: {which} called so among the {len(records)} annotated ones")
        chosen += found
    return chosen


def measure_set(run: Run, records: Sequence[Record]) -> Alignment:
    """The averages over all measured boxes of a data set."""
    walk = BarLoader(records, run.name) if show_bars() else records
    return average(explain_image(run, record).alignment for record in walk)


def save_pictures(
    folder: str, runs: Sequence[Run], records: Sequence[Record], chosen: Sequence[int], averages: Sequence[Alignment]
) -> list[list[Explanation]]:
    """Write NUMBER_NAME.jpg and NUMBER_NAME_levels.jpg of every chosen image, and priors.jpg.

    Args:
        averages: of the data set, a run each; () where it has not been measured.

    Returns:
        An image, a run: what was drawn.
    """
    titles, names = run_titles(runs), runs[0].class_names
    notes = [f"data set: {a.misalignment:.3f}, {a.rank_agreement:.3f} ({a.boxes} boxes)" for a in averages]
    done = []
    for index in chosen:
        explained = [explain_image(run, records[index]) for run in runs]
        stem = os.path.join(folder, f"{index:03d}_{Path(records[index]['file_name']).stem}")
        pairs = list(zip(titles, explained))
        save_picture(alignment_picture(pairs, names, notes), f"{stem}.jpg")
        save_picture(level_picture(pairs), f"{stem}_levels.jpg")
        done.append(explained)
    save_picture(prior_picture(list(zip(titles, runs))), os.path.join(folder, "priors.jpg"))
    return done


def as_dict(alignment: Alignment) -> dict[str, Any]:
    """For JSON, which knows no NaN."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(alignment).items()}


def method_table(runs: Sequence[Run], averages: Sequence[Alignment]) -> dict[str, dict[str, Any]]:
    """Mean and sample standard deviation over the runs of each method, seeds usually.

    None where there is no figure: the deviation of one run, the mean where a run has none.
    """
    groups: dict[str, list[Alignment]] = defaultdict(list)
    for run, alignment in zip(runs, averages):
        groups[method_name(run.cfg)].append(alignment)
    table: dict[str, dict[str, Any]] = {}
    for method, members in groups.items():
        table[method] = {"runs": len(members)}
        for key in ("misalignment", "rank_agreement"):
            values = [getattr(member, key) for member in members]
            measured = not any(map(math.isnan, values))
            table[method][key] = {
                "mean": statistics.fmean(values) if measured else None,
                "std": statistics.stdev(values) if measured and len(values) > 1 else None,
            }
    return table
