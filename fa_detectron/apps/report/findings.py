"""What a run's model finds on an annotated set: AP, confusions, hardest images. Legend: K classes."""

import contextlib
import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.structures import BoxMode, Instances

from fa_detectron.data import evaluation_config
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.set_names import set_name
from fa_detectron.engine import Trainer
from fa_detectron.engine.evaluators import build_evaluator
from fa_detectron.inference import Run

from .matching import Matched, Outcome, ThresholdCurve, Truth, confusion_matrix, match, outcome, threshold_curve

Record = Mapping[str, Any]  # Detectron2's dataset dict


@dataclass(frozen=True)
class CategoryRow:
    """One class: images and boxes that there are, AP (None where the set has no box of it), and what was found."""

    name: str
    index: int
    images: int
    boxes: int
    ap: float | None
    hits: int
    confused: int
    missed: int
    false: int

    @property
    def precision(self) -> float | None:
        found = self.hits + self.false
        return self.hits / found if found else None

    @property
    def recall(self) -> float | None:
        return self.hits / self.boxes if self.boxes else None


class Findings:
    """Detections on a whole set, and what they are at a score threshold.

    Attributes:
        data: what the set is called, see :func:`fa_detectron.data.set_names.set_name`.
        records: Detectron2's dataset dicts; instances: the detections, in the same order.
        metrics: "AP", "AP50", ..., "AP-CLASS"; empty for a set without annotations.
        reader: reads the images as the model sees them.
    """

    def __init__(
        self,
        data: str,
        class_names: Sequence[str],
        records: Sequence[Record],
        instances: Sequence[Instances],
        metrics: Mapping[str, float],
        threshold: float | None,
        reader: ImageReader = ImageReader(),  # noqa: B008  frozen
    ) -> None:
        """
        Args:
            threshold: score from which on detections count; None takes the one with the best F1 on this set.
        """
        self.data, self.class_names = data, tuple(class_names)
        self.records, self.instances, self.metrics, self.reader = records, instances, dict(metrics), reader
        # Detectron2's COCO reader makes empty annotations where the file has none at all: then there are no metrics.
        self.has_truth = bool(metrics) and all("annotations" in record for record in records)
        self.chosen = threshold is None
        self.threshold = (self.curve.best if self.has_truth else 0.5) if threshold is None else threshold

    @cached_property
    def matched(self) -> list[Matched]:
        return [match(truth_of(record), found) for record, found in zip(self.records, self.instances, strict=True)]

    @cached_property
    def curve(self) -> ThresholdCurve:
        return threshold_curve(self.matched)

    @cached_property
    def outcomes(self) -> list[Outcome]:
        return [outcome(matched, self.threshold) for matched in self.matched]

    @cached_property
    def confusion(self) -> list[list[int]]:
        """(K + 1) rows of K + 1, see :func:`confusion_matrix`."""
        return confusion_matrix(self.matched, self.outcomes, len(self.class_names)).tolist()

    def categories(self) -> list[CategoryRow]:
        """A row a class, in their order."""
        k = len(self.class_names)
        images, boxes = [0] * k, [0] * k
        for matched in self.matched:
            classes = matched.truth.classes[~matched.truth.crowd].tolist()
            for index in classes:
                boxes[index] += 1
            for index in set(classes):
                images[index] += 1
        rows = []
        for i, name in enumerate(self.class_names):
            hits, missed = self.confusion[i][i], self.confusion[i][k]
            confused = sum(self.confusion[i][:k]) - hits
            false = sum(row[i] for row in self.confusion) - hits
            ap = self.metrics.get(f"AP-{name}", math.nan)
            rows.append(
                CategoryRow(
                    name, i, images[i], boxes[i], ap if math.isfinite(ap) else None, hits, confused, missed, false
                )
            )
        return rows

    def hardest(self, count: int) -> list[int]:
        """Indices of the images with the lowest F1, of equals those with more errors first; only ones with errors."""
        wrong = [i for i, result in enumerate(self.outcomes) if result.errors]
        return sorted(wrong, key=lambda i: (self.outcomes[i].f1, -self.outcomes[i].errors, i))[:count]

    def samples(self, count: int) -> list[int]:
        """Indices of images evenly spread over the set."""
        count = min(count, len(self.records))
        return [i * len(self.records) // count for i in range(count)]


def truth_of(record: Record) -> Truth:
    """The annotations of a dataset dict."""
    items = record["annotations"]
    boxes = [BoxMode.convert(list(map(float, a["bbox"])), a["bbox_mode"], BoxMode.XYXY_ABS) for a in items]
    return Truth(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor([a["category_id"] for a in items], dtype=torch.int64),
        torch.tensor([bool(a.get("iscrowd", 0)) for a in items], dtype=torch.bool),
    )


class _Keep(DatasetEvaluator):
    """Keeps what the model finds, in the order of the set: one process looks through all of it."""

    def reset(self) -> None:
        self.found: list[Instances] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        self.found += [output["instances"].to("cpu") for output in outputs]


def find(run: Run, data: str = "", images: str = "", threshold: float | None = None) -> Findings:
    """Evaluate a run's model; nothing is written into the run's folder.

    Args:
        run: of :func:`load_run`.
        data: a data path as of --val; "" takes the run's (first) test set.
        images: the folder of its images, where they do not lie beside the annotations.
        threshold: see :class:`Findings`.

    Raises:
        UserError: there is no such set, or it is broken.
    """
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        cfg = evaluation_config(run.cfg, folder, data, images)
        name = cfg.DATASETS.TEST[0]
        records, keep = DatasetCatalog.get(name), _Keep()  # loading writes the file that the evaluator reads
        with contextlib.redirect_stdout(io.StringIO()):  # COCO's own table, which the page has better
            results = Trainer.test(cfg, run.model, [DatasetEvaluators([build_evaluator(cfg, name), keep])])
    metrics = results.get("bbox", {}) if results else {}
    source, reader = set_name(cfg, name, run.cfg.DATASETS.VAL_PATH), ImageReader.from_config(cfg)
    return Findings(source, run.class_names, records, keep.found, metrics, threshold, reader)
