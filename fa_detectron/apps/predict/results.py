"""What is written: annotated pictures, videos, and detections in COCO's format; each file whole or not at all."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from PIL import Image

from fa_detectron.errors import UserError
from fa_detectron.files import atomic_write, write_json
from fa_detectron.opencv import import_cv2
from fa_detectron.visualization import class_colour, draw_boxes

_JPEG = (".jpg", ".jpeg")
_FOURCC = {".mp4": "mp4v", ".avi": "MJPG"}


def annotate(image: np.ndarray, instances: Instances, class_names: Sequence[str]) -> Image.Image:
    """Draw detections on their image (H, W, 3) uint8 RGB; the size stays."""
    classes, scores = instances.pred_classes.tolist(), instances.scores.tolist()
    labels = [f"{class_names[c]} {s:.2f}" for c, s in zip(classes, scores)]
    boxes = instances.pred_boxes.tensor.numpy().astype(float)  # (D, 4)
    font_size = max(13, min(image.shape[:2]) // 40)  # readable when a large photograph is shown at screen size
    return draw_boxes(Image.fromarray(image), boxes, labels, [class_colour(c) for c in classes], font_size)


def coco_results(instances: Instances, ids: Sequence[int | str], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections of an image in COCO's result format: image_id, category_id, bbox (x, y, w, h), score.

    Args:
        ids: of the image; each gets all the detections.
    """
    results = [result for image_id in ids for result in instances_to_coco_json(instances, image_id)]
    for result in results:
        result["category_id"] = category_ids[result["category_id"]]
    return results


def write_results(path: str, results: list[dict[str, Any]]) -> None:
    """Write COCO results as JSON, whole or not at all."""
    with _writing(path):
        write_json(path, results)


def picture_paths(paths: Sequence[str], output: str) -> list[str]:
    """Where the annotated picture of each image goes.

    Args:
        paths: image files.
        output: a folder, below which the images' common folder is mirrored; or, for one image, a .jpg or .png file.

    Returns:
        JPEG files for JPEG images, PNG for all others, names distinct.

    Raises:
        UserError: a picture would replace an image.
    """
    if len(paths) == 1 and Path(output).suffix.lower() in (*_JPEG, ".png") and not os.path.isdir(output):
        targets = [output]
    else:
        if os.path.exists(output) and not os.path.isdir(output):
            raise UserError(f"--output {output} is a file; {len(paths)} pictures need a folder")
        root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
        targets = [os.path.join(output, os.path.relpath(os.path.abspath(path), root)) for path in paths]
        # Appended, since a.bmp may lie beside a.png.
        targets = [path if Path(path).suffix.lower() in (*_JPEG, ".png") else f"{path}.png" for path in targets]
    images = {os.path.realpath(path) for path in paths}
    for target in targets:
        if os.path.realpath(target) in images:
            raise UserError(f"--output {output}: {target} is one of the images and would be replaced")
    return targets


def save_picture(picture: Image.Image, path: str) -> None:
    """Save as JPEG or PNG, whole or not at all; the folder is made."""
    with _writing(path):
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        jpeg = Path(path).suffix.lower() in _JPEG
        with atomic_write(path, "wb") as stream:
            picture.save(stream, **({"format": "JPEG", "quality": 92} if jpeg else {"format": "PNG"}))


class VideoFile:
    """A video that is there once :meth:`finish` has been called, and not before.

    The encoders take even sizes: OpenCV leaves out the last row or column of an odd one.

    Args:
        path: .mp4 or .avi.
        fps: frames a second.

    Raises:
        UserError: another suffix.
    """

    def __init__(self, path: str, fps: float) -> None:
        suffix = Path(path).suffix.lower()
        if suffix not in _FOURCC:
            raise UserError(f"--output {path}: videos are written as {' or '.join(_FOURCC)}")
        self.path, self._fps = path, fps
        self._temporary = f"{path}.{os.getpid()}.tmp{suffix}"  # OpenCV chooses the container by the suffix
        self._code, self._writer = _FOURCC[suffix], None

    def add(self, picture: Image.Image) -> None:
        cv2 = import_cv2("videos and cameras")
        if self._writer is None:
            with _writing(self.path):
                os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            code = cv2.VideoWriter_fourcc(*self._code)
            self._writer = cv2.VideoWriter(self._temporary, code, self._fps, picture.size)
            if not self._writer.isOpened():
                raise UserError(f"{self.path}: OpenCV cannot write a video of {picture.width}x{picture.height} there")
        self._writer.write(np.ascontiguousarray(np.asarray(picture)[:, :, ::-1]))

    def finish(self) -> None:
        self._writer.release()
        os.replace(self._temporary, self.path)

    def discard(self) -> None:
        """Remove what :meth:`finish` has not made the file; harmless afterwards."""
        if self._writer is not None:
            self._writer.release()
        if os.path.exists(self._temporary):
            os.unlink(self._temporary)


class _writing:
    """Turns the system's errors (no space, no permission, a folder of that name) into words about ``path``."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            raise UserError(f"{self._path}: cannot be written: {error.strerror or error}") from None
