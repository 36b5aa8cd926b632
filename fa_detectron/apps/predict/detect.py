"""Detect in many images or in a video, and write what was found."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from detectron2.structures import Instances

from fa_detectron.apps.predict.ids import ResultIds, result_ids
from fa_detectron.apps.predict.results import (
    VideoFile,
    annotate,
    coco_results,
    picture_paths,
    save_picture,
    write_results,
)
from fa_detectron.apps.predict.sources import ImageFiles, VideoFrames
from fa_detectron.engine.progress import BarLoader, show_bars
from fa_detectron.errors import UserError
from fa_detectron.inference.predictor import Predictor


@dataclass
class Summary:
    """What was done: images (or frames), detections by class name, the complaints about what was left out, and where
    the image ids of the JSON are from."""

    images: int = 0
    detections: Counter = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    ids: str = "frame numbers"

    def add(self, instances: Instances, class_names: tuple[str, ...]) -> None:
        self.images += 1
        self.detections.update(class_names[c] for c in instances.pred_classes.tolist())


@dataclass(frozen=True)
class Outputs:
    """What to write; "" for nothing.

    Attributes:
        output: folder or file of the annotated pictures or the video.
        json: file of the detections in COCO's format.
        data, images: the annotations that the ids in it are from, see :func:`result_ids`.
        threshold: detections with a lower score are not drawn and not counted; the JSON has all.
        batch_size: images read and detected together.
    """

    output: str
    json: str
    threshold: float
    batch_size: int
    data: str = ""
    images: str = ""


def predict_images(predictor: Predictor, paths: list[str], outputs: Outputs) -> Summary:
    """Detect in image files. Unreadable ones are complained about in the summary.

    Raises:
        UserError: nothing could be read, something cannot be written, or the annotations do not have the images.
    """
    _check_json(outputs)
    targets = picture_paths(paths, outputs.output) if outputs.output else [""] * len(paths)
    summary, results, ids = Summary(), [], ResultIds([()] * len(paths), (), "")
    if outputs.json:
        ids = result_ids(predictor.run, paths, outputs.data, outputs.images)
        summary.ids = ids.origin
    items = zip(_bar(ImageFiles(paths, predictor.reader)), ids.images, targets)
    for batch in _batches(items, outputs.batch_size):
        summary.complaints += [str(image) for (_, image), _, _ in batch if isinstance(image, UserError)]
        good = [(image, own, target) for (_, image), own, target in batch if not isinstance(image, UserError)]
        for (image, own, target), found in zip(good, predictor([image for image, _, _ in good])):
            results += coco_results(found, own, ids.categories)
            found = found[found.scores >= outputs.threshold]
            summary.add(found, predictor.class_names)
            if target:
                save_picture(annotate(image, found, predictor.class_names), target)
    if not summary.images:
        raise UserError("no image could be read:\n" + "\n".join(summary.complaints))
    if outputs.json:
        write_results(outputs.json, results)
    return summary


def predict_video(predictor: Predictor, source: str | int, outputs: Outputs) -> Summary:
    """Detect in a video file or, until interrupted, in a camera's pictures; image ids are frame numbers from 0.

    Raises:
        UserError: not a readable video, or something cannot be written.
    """
    _check_json(outputs)
    frames = VideoFrames(source)
    video = VideoFile(_video_path(source, outputs.output), frames.fps) if outputs.output else None
    summary, results = Summary(), []
    try:
        try:
            for batch in _batches(_bar(frames), 1 if frames.is_camera else outputs.batch_size):
                for image, found in zip(batch, predictor(batch)):
                    results += coco_results(found, (summary.images,), predictor.category_ids)
                    found = found[found.scores >= outputs.threshold]
                    summary.add(found, predictor.class_names)
                    if video:
                        video.add(annotate(image, found, predictor.class_names))
        except KeyboardInterrupt:
            if not frames.is_camera:  # the only end that a camera has
                raise
        if not summary.images:
            raise UserError(f"{frames.name}: not a single frame could be read")
        if not frames.is_camera and frames.truncated():
            summary.complaints.append(f"{frames.name}: damaged after frame {frames.read} of {len(frames)}")
        if video:
            video.finish()
    finally:
        frames.close()
        if video:
            video.discard()
    if outputs.json:
        write_results(outputs.json, results)
    return summary


def _video_path(source: str | int, output: str) -> str:
    path = Path(output)
    if path.suffix and not path.is_dir():
        target = output
    else:
        target = str(path / (f"camera{source}.mp4" if isinstance(source, int) else f"{Path(source).stem}.mp4"))
    if isinstance(source, str) and os.path.realpath(target) == os.path.realpath(source):
        raise UserError(f"--output {output}: {target} is the video itself and would be replaced")
    return target


def _check_json(outputs: Outputs) -> None:
    if outputs.json and os.path.isdir(outputs.json):
        raise UserError(f"--json {outputs.json} is a folder; give a file's name")


def _bar(source: Iterable) -> Iterable:
    return BarLoader(source, "predicting") if show_bars() else source


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
