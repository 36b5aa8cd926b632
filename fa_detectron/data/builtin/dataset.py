"""The built-in data set: made below $DETECTRON2_DATASETS (default ``./datasets``) when it is first used.

``fa_shapes_train`` and ``fa_shapes_val`` are COCO sets in ``fa_shapes/v<VERSION>/``. The folder appears by one rename
when everything in it is written, so that interruptions and concurrent processes leave nothing half-made, and a changed
generator (a new VERSION) never touches what another run reads.
"""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.coco import load_coco_json
from filelock import FileLock
from PIL import Image

from fa_detectron.data.builtin.scenes import CLASS_NAMES, render_scene
from fa_detectron.data.conversion import to_coco_json
from fa_detectron.data.records import AnnotatedSet, Annotation, ImageRecord
from fa_detectron.errors import UserError
from fa_detectron.files import write_json

logger = logging.getLogger(__name__)

# Raise it with every change of a pixel or a box; a test compares the scenes with the hash of this version.
VERSION = 2
SPLITS: dict[str, tuple[int, int]] = {"train": (1, 600), "val": (2, 150)}  # split: (seed, number of images)
LANDSCAPE, PORTRAIT = (256, 320), (320, 256)  # (height, width)


def scene_size(index: int) -> tuple[int, int]:
    """(height, width) of a split's ``index``-th image: every fourth is upright, so that batches need padding."""
    return PORTRAIT if index % 4 == 3 else LANDSCAPE


def _make_split(folder: Path, split: str) -> None:
    """Write the images of one split as PNG and its annotations as COCO JSON."""
    seed, count = SPLITS[split]
    (folder / split).mkdir()
    data = AnnotatedSet(f"Rendered scenes of shapes (fa_detectron, version {VERSION})", CLASS_NAMES, [])
    for index in range(count):
        height, width = scene_size(index)
        scene = render_scene((seed, index), height, width)
        name = f"{index:06d}.png"
        Image.fromarray(scene.image).save(folder / split / name, compress_level=1)
        boxes = zip(scene.boxes.tolist(), scene.classes.tolist(), scene.areas.tolist())
        annotations = [Annotation(CLASS_NAMES[label], box, i, area) for i, (box, label, area) in enumerate(boxes)]
        data.images.append(ImageRecord(name, index + 1, width, height, annotations, ""))
    write_json(str(folder / f"{split}.json"), to_coco_json(data, CLASS_NAMES))


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock; gives False at once where the file system has no locks."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire()
    except (OSError, NotImplementedError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def ensure_builtin_dataset(root: str) -> Path:
    """Make the built-in data set below ``root`` unless it is there.

    Returns:
        The folder with ``train/``, ``train.json``, ``val/`` and ``val.json``.

    Raises:
        UserError: ``root`` cannot be written to.
    """
    parent = Path(root) / "fa_shapes"
    target = parent / f"v{VERSION}"
    if target.is_dir():
        return target
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with _lock(parent) as locked:
            if not target.is_dir():
                if locked:  # nobody else is at work, so these were left by an interruption
                    for stale in parent.glob(".making-*"):
                        shutil.rmtree(stale)
                _make(parent, target)
    except OSError as error:
        raise UserError(
            f"cannot make the built-in data set in {parent}: {error}. "
            "Set DETECTRON2_DATASETS to a folder that can be written to."
        ) from error
    return target


def _make(parent: Path, target: Path) -> None:
    total = sum(count for _, count in SPLITS.values())
    logger.info("Making the built-in data set (%d images) in %s, once; it takes seconds ...", total, target)
    making = Path(tempfile.mkdtemp(dir=parent, prefix=".making-"))
    try:
        for split in SPLITS:
            _make_split(making, split)
        making.chmod(0o755)
        try:
            os.replace(making, target)
        except OSError:
            if not target.is_dir():  # else another process was faster, and its files are the same
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _load(root: str, split: str) -> list[dict[str, Any]]:
    folder = ensure_builtin_dataset(root)
    return load_coco_json(str(folder / f"{split}.json"), str(folder / split), f"fa_shapes_{split}")


def register_builtin_datasets(root: str) -> None:
    """Register fa_shapes_train and fa_shapes_val, to be made below ``root`` at their first use."""
    for split in SPLITS:
        folder = Path(root) / "fa_shapes" / f"v{VERSION}"
        DatasetCatalog.register(f"fa_shapes_{split}", lambda split=split: _load(root, split))
        MetadataCatalog.get(f"fa_shapes_{split}").set(
            json_file=str(folder / f"{split}.json"),
            image_root=str(folder / split),
            evaluator_type="coco",
            thing_classes=list(CLASS_NAMES),
        )


# As with detectron2's own data sets, the folder is settled at import.
register_builtin_datasets(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))
