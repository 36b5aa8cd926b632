"""The arguments of train_net.py."""

import argparse

from detectron2.engine import default_argument_parser

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
    data.add_argument("--images", metavar="FOLDER", help="where the images lie, if not beside the annotations")
    data.add_argument(
        "--val-fraction",
        type=float,
        metavar="F",
        help="share of the training images held out where there is no validation set (sets DATASETS.VAL_FRACTION)",
    )
    data.add_argument(
        "--classes", metavar="A,B", help="train on these classes of the set alone (sets DATASETS.KEEP_CLASSES)"
    )
    data.add_argument(
        "--single-class", action="store_true", help="train on all classes as one (sets DATASETS.SINGLE_CLASS True)"
    )
    data.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="short side of the images (sets INPUT.MIN_SIZE_TEST, and INPUT.MIN_SIZE_TRAIN, MAX_SIZE_TRAIN, "
        "MAX_SIZE_TEST and TEST.AUG's sizes in proportion)",
    )
    data.add_argument(
        "--skip-missing-images",
        action="store_true",
        help="leave out images that do not exist, instead of stopping (sets DATASETS.SKIP_MISSING_IMAGES True)",
    )
    data.add_argument(
        "--bad-boxes",
        choices=("stop", "clip", "skip"),
        help="unusable boxes: stop (default), clip those that leave their image, or skip (sets DATASETS.BAD_BOXES)",
    )
    data.add_argument(
        "--follow-links",
        action="store_true",
        help="read files that symbolic links take out of the set's folder (sets DATASETS.FOLLOW_LINKS)",
    )
    return parser
