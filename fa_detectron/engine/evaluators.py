"""Evaluators: COCO's metrics, Pascal VOC's for the voc_* sets."""

import contextlib
import io
import logging
import math
import os
from collections import OrderedDict
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators, PascalVOCDetectionEvaluator
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from detectron2.evaluation.pascal_voc_evaluation import parse_rec
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fa_detectron.data.checks.run_data import tell_of_id_zero
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.engine.results import metric_tables, own_folder, server_file
from fa_detectron.visualization import save_detection_samples

_logger = logging.getLogger(__name__)
_COCO_LIMIT = 100  # detections per image and class
# Indices into COCOeval.stats.
_COCO_STATS = {"AP": 0, "AP50": 1, "AP75": 2, "APs": 3, "APm": 4, "APl": 5, "AR": 8}
_VOC_LOGGER = logging.getLogger(f"{__name__}.pascal_voc")
_VOC_LOGGER.setLevel(logging.WARNING)  # Detectron2 logs the same sentence on every call, here once per class


class CategoryCOCOEvaluator(COCOEvaluator):
    """Detectron2's evaluator with the run's limit of detections, AR, and the AP of every class, however few there are.

    Figures of classes and sizes without a box are NaN; all others are numbers, even for a model without detections.
    Detections of a set without annotations get the file name of the evaluation server, :func:`server_file`.

    Args:
        run_folder: names the detections.
        max_detections: TEST.DETECTIONS_PER_IMAGE. pycocotools counts the best 100 per image and class unless told
            otherwise. A smaller limit changes nothing, since there are no more detections than that.
        options: Detectron2's.
    """

    def __init__(self, dataset_name: str, run_folder: str, max_detections: int, **options: Any) -> None:
        super().__init__(dataset_name, max_dets_per_image=max(_COCO_LIMIT, max_detections), **options)
        self._server_file = os.path.join(self._output_dir, server_file(dataset_name, run_folder))
        if 0 in self._coco_api.anns:  # Roboflow counts from 0, which pycocotools' matching takes for "not found"
            for number, annotation in enumerate(self._coco_api.dataset["annotations"], 1):
                annotation["id"] = number
            tell_of_id_zero(self._metadata.json_file)
            with contextlib.redirect_stdout(io.StringIO()):
                self._coco_api.createIndex()

    def _eval_predictions(self, predictions: list[dict], img_ids: list | None = None) -> None:
        super()._eval_predictions(predictions, img_ids)
        if not self._do_evaluation:
            os.replace(os.path.join(self._output_dir, "coco_instances_results.json"), self._server_file)

    def _derive_coco_results(self, coco_eval: Any, iou_type: str, class_names: list[str] | None = None) -> dict:
        coco_eval = coco_eval or self._evaluate_nothing(iou_type)
        results = {name: _percent(coco_eval.stats[index]) for name, index in _COCO_STATS.items()}
        names = dict(enumerate(class_names or ()))
        # pycocotools has the categories in the order of their ids, which need not be that of the model's classes.
        numbers = self._metadata.get("thing_dataset_id_to_contiguous_id") or {number: number for number in names}
        position = {numbers[category]: i for i, category in enumerate(sorted(numbers))}
        precision = coco_eval.eval["precision"][..., 0, -1]  # (IoUs, recalls, K): all sizes, all detections
        for number, name in names.items():
            of_class = precision[:, :, position[number]]
            results[f"AP-{name}"] = _percent(of_class[of_class > -1].mean() if (of_class > -1).any() else -1)
        _logger.info("Evaluation results:\n%s", metric_tables(results))
        return results

    def _evaluate_nothing(self, iou_type: str) -> COCOeval:
        """What pycocotools says of no detections; its loadRes takes no empty list."""
        found = COCO()
        found.dataset = {**self._coco_api.dataset, "annotations": []}
        found.createIndex()
        coco_eval = COCOevalMaxDets(self._coco_api, found, iou_type)
        coco_eval.params.maxDets = self._max_dets_per_image
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
        return coco_eval


def _percent(value: float) -> float:
    """pycocotools' figure in percent; NaN for -1, which means that there is no box."""
    return float(value) * 100 if value >= 0 else math.nan


class CategoryVOCEvaluator(PascalVOCDetectionEvaluator):
    """Pascal VOC's AP of every class and the means; Detectron2's evaluator gives the means alone.

    Classes without a box in the set have NaN and do not count in the means.
    """

    _class_names: list[str]
    _predictions: dict[int, list[str]]

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
        there = self._classes_there()
        of_class = {name: found["bbox"] for name, found in zip(names, per_class) if name in there}
        metrics = {
            key: float(np.mean([found[key] for found in of_class.values()])) if of_class else math.nan
            for key in ("AP", "AP50", "AP75")
        }
        metrics.update({f"AP-{name}": float(of_class[name]["AP"]) if name in there else math.nan for name in names})
        return OrderedDict(bbox=metrics)

    def _classes_there(self) -> set[str]:
        """The classes that have an object which is not difficult."""
        with open(self._image_set_path, encoding="utf-8") as file:
            ids = file.read().split()
        objects = (item for image_id in ids for item in parse_rec(self._anno_file_template.format(image_id)))
        return {item["name"] for item in objects if not item["difficult"]}


class SamplePictures(DatasetEvaluator):
    """Pictures of the first images of an evaluation, drawn by the main process.

    Args:
        dataset_name: a registered set, whose metadata name the classes.
        folder: where the pictures go; those of the previous evaluation are replaced.
        count: how many.
        reader: reads the images as the model sees them.
    """

    def __init__(self, dataset_name: str, folder: str, count: int, reader: ImageReader) -> None:
        self._metadata = MetadataCatalog.get(dataset_name)
        self._folder, self._count, self._reader = folder, count, reader

    def reset(self) -> None:
        self._records: list[dict] = []
        self._outputs: list[dict] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        room = self._count - len(self._records) if comm.is_main_process() else 0
        self._records += [{key: value for key, value in item.items() if key != "image"} for item in inputs[:room]]
        self._outputs += outputs[:room]

    def evaluate(self) -> None:
        if self._records:
            save_detection_samples(
                self._records, self._outputs, self._metadata, self._folder, n=self._count, reader=self._reader
            )


def build_evaluator(cfg: CfgNode, dataset_name: str, folder: str = "inference") -> DatasetEvaluator:
    """The evaluator that the set's metadata ask for, and sample pictures.

    For a set without annotations (COCO test-dev), the detections are written for the evaluation server.

    Args:
        cfg: the run's config.
        dataset_name: a registered set.
        folder: below OUTPUT_DIR, for the detections as JSON; the pictures go to OUTPUT_DIR/samples.
    """
    output_folder = own_folder(cfg, folder, dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    if metadata.get("evaluator_type") == "pascal_voc":
        evaluator: DatasetEvaluator = CategoryVOCEvaluator(dataset_name)
    else:
        if metadata.get("json_file") is None and comm.is_main_process():
            # Detectron2 converts such a set once and would use that file even after the set has changed.
            stale = os.path.join(output_folder, f"{dataset_name}_coco_format.json")
            if os.path.exists(stale):
                os.unlink(stale)
        comm.synchronize()
        evaluator = CategoryCOCOEvaluator(
            dataset_name, cfg.OUTPUT_DIR, cfg.TEST.DETECTIONS_PER_IMAGE, tasks=("bbox",), output_dir=output_folder
        )
    pictures = SamplePictures(
        dataset_name, own_folder(cfg, "samples", dataset_name), cfg.TEST.SAMPLE_PICTURES, ImageReader.from_config(cfg)
    )
    return DatasetEvaluators([evaluator, pictures])
