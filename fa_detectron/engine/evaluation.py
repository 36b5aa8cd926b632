"""Evaluators: COCO's metrics, Pascal VOC's for the voc_* sets; with AP a category, also when there is only one."""

import logging
import os
import re
from collections import OrderedDict
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    PascalVOCDetectionEvaluator,
)
from detectron2.utils import comm

from fa_detectron.visualization import save_detection_samples

_VOC_LOGGER = logging.getLogger(f"{__name__}.pascal_voc")
_VOC_LOGGER.setLevel(logging.WARNING)  # Detectron2 says the same sentence on every call, here once a class


def server_file(dataset_name: str, run_folder: str) -> str:
    """The name that COCO's evaluation server wants: detections_TESTSET_ALGORITHM_results.json.

    Args:
        dataset_name: coco_2017_test-dev is the server's test-dev2017; other names stay.
        run_folder: its last part is the algorithm's name.
    """
    coco = re.fullmatch(r"coco_(\d{4})_(.+)", dataset_name)
    test_set = f"{coco[2]}{coco[1]}" if coco else dataset_name
    algorithm = re.sub(r"[^A-Za-z0-9.-]+", "-", os.path.basename(os.path.abspath(run_folder)))
    return f"detections_{test_set}_{algorithm}_results.json"


class CategoryCOCOEvaluator(COCOEvaluator):
    """Detectron2's evaluator, which leaves out the category's AP when there is one, and says NaN for no detection.

    Detections of a set without annotations get the name that the evaluation server wants, :func:`server_file`.

    Args:
        run_folder: names the detections; the others are Detectron2's.
    """

    def __init__(self, dataset_name: str, run_folder: str, **options: Any) -> None:
        super().__init__(dataset_name, **options)
        self._server_file = os.path.join(self._output_dir, server_file(dataset_name, run_folder))

    def _eval_predictions(self, predictions: list[dict], img_ids: list | None = None) -> None:
        super()._eval_predictions(predictions, img_ids)
        if not self._do_evaluation:
            os.replace(os.path.join(self._output_dir, "coco_instances_results.json"), self._server_file)

    def _derive_coco_results(self, coco_eval: Any, iou_type: str, class_names: list[str] | None = None) -> dict:
        results = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if coco_eval is None:  # not a single detection: nothing recalled
            results.update({name: 0.0 for name in ("AP", "AP50", "AP75")})
            results.update({f"AP-{name}": 0.0 for name in class_names or ()})
        elif class_names is not None and len(class_names) == 1:
            results[f"AP-{class_names[0]}"] = results["AP"]
        return results


class CategoryVOCEvaluator(PascalVOCDetectionEvaluator):
    """Pascal VOC's AP a category, and their means, which are all that Detectron2's evaluator tells."""

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        names, predictions = self._class_names, self._predictions
        self._logger = _VOC_LOGGER
        per_class = []
        for index, name in enumerate(names):
            self._class_names = [name]
            self._predictions = {0: predictions[index]} if index in predictions else {}
            per_class.append(super().evaluate())
        self._class_names, self._predictions = names, predictions
        if not comm.is_main_process():
            return None
        metrics = {key: float(np.mean([r["bbox"][key] for r in per_class])) for key in ("AP", "AP50", "AP75")}
        metrics.update({f"AP-{name}": float(r["bbox"]["AP"]) for name, r in zip(names, per_class)})
        return OrderedDict(bbox=metrics)


class SamplePictures(DatasetEvaluator):
    """Pictures of the first images of an evaluation, drawn by the main process from the pass that it measures.

    Args:
        dataset_name: a registered set; its annotations are drawn beside the detections.
        folder: where the pictures go; those of the evaluation before are replaced.
        count: how many.
    """

    def __init__(self, dataset_name: str, folder: str, count: int) -> None:
        self._dataset_name, self._folder, self._count = dataset_name, folder, count

    def reset(self) -> None:
        self._kept: list[tuple[str, dict]] = []  # (image file, model's output)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        if comm.is_main_process():
            room = self._count - len(self._kept)
            files = [record["file_name"] for record in inputs]
            self._kept.extend(list(zip(files, outputs))[:room])

    def evaluate(self) -> None:
        if not self._kept:
            return
        files, outputs = zip(*self._kept)
        # Detectron2's mapper takes the annotations away in evaluation, hence from the set itself.
        by_file = {record["file_name"]: record for record in DatasetCatalog.get(self._dataset_name)}
        metadata = MetadataCatalog.get(self._dataset_name)
        records = [by_file[file] for file in files]
        save_detection_samples(records, outputs, metadata, self._folder, n=self._count)


def own_folder(cfg: CfgNode, folder: str, dataset_name: str) -> str:
    """``folder`` below OUTPUT_DIR; where a run has several evaluation sets, each has its own folder therein."""
    parts = (dataset_name,) if len(cfg.DATASETS.TEST) > 1 else ()
    return os.path.join(cfg.OUTPUT_DIR, folder, *parts)


def build_evaluator(cfg: CfgNode, dataset_name: str, folder: str = "inference") -> DatasetEvaluator:
    """The evaluator that the set's metadata ask for, and sample pictures.

    A set whose JSON has no annotations (COCO test-dev) gets its detections written for the evaluation server.

    Args:
        cfg: the run's config.
        dataset_name: a registered set.
        folder: below OUTPUT_DIR, for the detections in JSON; the pictures go to OUTPUT_DIR/samples.
    """
    output_folder = own_folder(cfg, folder, dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("evaluator_type") == "pascal_voc":
        evaluator: DatasetEvaluator = CategoryVOCEvaluator(dataset_name)
    else:
        if metadata.get("json_file") is None and comm.is_main_process():
            # Detectron2 converts such a set once and would believe that file even after the set has changed.
            stale = os.path.join(output_folder, f"{dataset_name}_coco_format.json")
            if os.path.exists(stale):
                os.unlink(stale)
        comm.synchronize()
        evaluator = CategoryCOCOEvaluator(dataset_name, cfg.OUTPUT_DIR, tasks=("bbox",), output_dir=output_folder)
    pictures = SamplePictures(dataset_name, own_folder(cfg, "samples", dataset_name), cfg.TEST.SAMPLE_PICTURES)
    return DatasetEvaluators([evaluator, pictures])
