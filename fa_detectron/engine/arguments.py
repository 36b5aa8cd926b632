"""The arguments of train_net.py."""

import argparse

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser

from fa_detectron.errors import UserError

_SMALLEST_SIZE = 32

_EPILOG = """examples:
  train on your own images (COCO, VOC, YOLO, CVAT, Label Studio, LabelMe, ...):
    %(prog)s --config-file FILE.yaml --train FOLDER
  four GPUs, KEY VALUE overrides at the end:
    %(prog)s --config-file FILE.yaml --num-gpus 4 SOLVER.BASE_LR 0.005
  evaluate a finished run:
    %(prog)s --config-file RUN/config.yaml --eval-only MODEL.WEIGHTS RUN/model_final.pth
"""


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, ours for data without code, and CPU processes."""
    parser = default_argument_parser(epilog=_EPILOG)
    # None: one GPU if there is one, else the CPU. A number that the machine cannot serve is an error.
    parser.set_defaults(num_gpus=None, dist_url="auto")
    parser.add_argument("--num-processes", type=int, help="number of CPU processes (over gloo)")
    # Evaluation gathers on one worker while the others wait, which takes longer than torch's default of 10 minutes.
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="MINUTES",
        help="end the run when a worker has waited this long for another (default %(default)s)",
    )
    parser.add_argument(
        "--skip-nonfinite",
        action="store_true",
        help="leave out training steps whose loss or gradient is not finite (they are counted) instead of stopping",
    )
    length = parser.add_argument_group("length (instead of SOLVER.MAX_ITER)")
    length.add_argument(
        "--epochs", type=float, metavar="N", help="passes over the training images (sets SOLVER.EPOCHS)"
    )
    length.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="time that training and its evaluations may take, reckoned from the first steps (sets SOLVER.MINUTES)",
    )
    length.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="stop after N evaluations in a row without a better AP (sets TEST.PATIENCE)",
    )
    data = parser.add_argument_group("data (instead of registered sets)")
    data.add_argument(
        "--train", metavar="PATH", help="file or folder of annotations, PATH:SPLIT for one split (docs/data.md)"
    )
    data.add_argument("--val", metavar="PATH", help="the same for evaluation")
    data.add_argument(
        "--val-fraction",
        type=float,
        metavar="F",
        help="share of the training images held out where there is no validation set (sets DATASETS.VAL_FRACTION)",
    )
    add_reading_arguments(data)
    return parser


def add_reading_arguments(group: argparse._ActionsContainer) -> None:
    """The arguments that say how data is read, for training and for looking through a set alike."""
    group.add_argument("--images", metavar="FOLDER", help="where the images lie, if not beside the annotations")
    group.add_argument(
        "--classes", metavar="A,B", help="train on these classes of the set alone (sets DATASETS.KEEP_CLASSES)"
    )
    group.add_argument(
        "--single-class", action="store_true", help="train on all classes as one (sets DATASETS.SINGLE_CLASS True)"
    )
    group.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="short side of the images (sets INPUT.MIN_SIZE_TEST, and INPUT.MIN_SIZE_TRAIN, MAX_SIZE_TRAIN, "
        "MAX_SIZE_TEST and TEST.AUG's sizes in proportion)",
    )
    group.add_argument(
        "--skip-missing-images",
        action="store_true",
        help="leave out images that do not exist, instead of stopping (sets DATASETS.SKIP_MISSING_IMAGES True)",
    )
    group.add_argument(
        "--bad-boxes",
        choices=("stop", "clip", "skip"),
        help="unusable boxes: stop (default), clip those that leave their image, or skip (sets DATASETS.BAD_BOXES)",
    )
    group.add_argument(
        "--follow-links",
        action="store_true",
        help="read files that symbolic links take out of the set's folder (sets DATASETS.FOLLOW_LINKS)",
    )


def apply_reading_arguments(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Set the keys that the flags of :func:`add_reading_arguments` stand for; the images' folder is not one of them.

    Raises:
        UserError: --size fits no image or no config.
    """
    data = cfg.DATASETS
    if args.classes:
        data.KEEP_CLASSES = tuple(name.strip() for name in args.classes.split(",") if name.strip())
    data.SINGLE_CLASS = data.SINGLE_CLASS or args.single_class
    data.BAD_BOXES = args.bad_boxes or data.BAD_BOXES
    data.FOLLOW_LINKS = data.FOLLOW_LINKS or args.follow_links
    data.SKIP_MISSING_IMAGES = data.SKIP_MISSING_IMAGES or args.skip_missing_images
    if args.size is not None:
        set_input_size(cfg, args.size)


def set_input_size(cfg: CfgNode, size: int) -> None:
    """Make ``size`` pixels the short side of test images, and scale the other input sizes of a config with it."""
    if size < _SMALLEST_SIZE:
        raise UserError(f"--size {size}: expected {_SMALLEST_SIZE} pixels or more")
    if cfg.INPUT.MIN_SIZE_TEST <= 0:
        raise UserError("--size: INPUT.MIN_SIZE_TEST is 0 (images as they are), so there is nothing to scale")
    factor = size / cfg.INPUT.MIN_SIZE_TEST
    for node, key in (
        (cfg.INPUT, "MIN_SIZE_TRAIN"), (cfg.INPUT, "MAX_SIZE_TRAIN"), (cfg.INPUT, "MIN_SIZE_TEST"),
        (cfg.INPUT, "MAX_SIZE_TEST"), (cfg.TEST.AUG, "MIN_SIZES"), (cfg.TEST.AUG, "MAX_SIZE"),
    ):  # fmt: skip
        value = node[key]
        node[key] = tuple(round(v * factor) for v in value) if isinstance(value, tuple) else round(value * factor)
