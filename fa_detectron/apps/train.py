"""Train a detector, or continue a run."""

import argparse
import os
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode

from fa_detectron.apps.arguments import CommandParser, SetKey, add_device_argument, add_reading_arguments, positive
from fa_detectron.engine import Trainer, evaluate, launch, setup, start_logging, start_process
from fa_detectron.errors import UserError
from fa_detectron.inference import choose_device, config_of_run, find_weights

_EPILOG = """examples:
  your own images (COCO, VOC, YOLO, CVAT, Label Studio, LabelMe, ...):
    %(prog)s --config-file FILE.yaml --train FOLDER --output output/mine
  four GPUs, a config key overridden:
    %(prog)s --config-file FILE.yaml --num-gpus 4 SOLVER.BASE_LR 0.005
  continue a run that was stopped:
    %(prog)s --run output/mine
"""


def argument_parser() -> CommandParser:
    """The arguments of training; ``projects/FeatureAlign/train_net.py`` has the same."""
    parser = CommandParser("fa-detectron train", __doc__, _EPILOG)
    source = parser.add_mutually_exclusive_group(required=True)
    text = "the config of a new run: a file, or the name of one in configs/"
    source.add_argument("--config-file", metavar="FILE", help=text)
    source.add_argument("--run", metavar="RUN", help="a run's folder: continue it, with its config and last checkpoint")
    text = "start from this checkpoint"
    parser.add_argument("--weights", action=SetKey, key="MODEL.WEIGHTS", metavar="FILE", help=text)
    add_device_argument(parser, "cpu or cuda")
    parser.add_argument("--output", action=SetKey, key="OUTPUT_DIR", metavar="FOLDER", help="the run's folder")
    text = "continue the run in OUTPUT_DIR from its last checkpoint"
    parser.add_argument("--resume", action="store_true", help=text)
    text = "evaluate MODEL.WEIGHTS instead of training, as `fa-detectron eval` does"
    parser.add_argument("--eval-only", action="store_true", help=text)
    text = "leave out steps whose loss or gradient is not finite (they are counted) instead of stopping"
    parser.add_argument("--skip-nonfinite", action=SetKey, key="SOLVER.SKIP_NONFINITE", value=True, help=text)
    length = parser.add_argument_group("length (instead of SOLVER.MAX_ITER)")
    text = "passes over the training images"
    length.add_argument("--epochs", action=SetKey, key="SOLVER.EPOCHS", convert=positive, metavar="N", help=text)
    text = "time for training and its evaluations, estimated from the first steps"
    length.add_argument("--minutes", action=SetKey, key="SOLVER.MINUTES", convert=positive, metavar="M", help=text)
    text = "stop after N evaluations in a row without a better AP"
    length.add_argument("--patience", action=SetKey, key="TEST.PATIENCE", convert=int, metavar="N", help=text)
    data = parser.add_argument_group("data (instead of registered sets)")
    text = "file or folder of annotations, PATH:SPLIT for one split (docs/data.md)"
    data.add_argument("--train", metavar="PATH", help=text)
    data.add_argument("--val", metavar="PATH", help="the same for evaluation")
    data.add_argument("--images", metavar="FOLDER", help="the images, if not beside the annotations")
    text, key = "share of the training images held out where there is no validation set", "DATASETS.VAL_FRACTION"
    data.add_argument("--val-fraction", action=SetKey, key=key, convert=float, metavar="F", help=text)
    add_reading_arguments(data)
    add_process_arguments(parser)
    return parser


def add_process_arguments(parser: CommandParser) -> None:
    """How many processes work, and how they find each other; see :func:`fa_detectron.engine.launch`."""
    group = parser.add_argument_group("processes (without any: one process, on one GPU where there is one)")
    group.add_argument("--num-gpus", type=int, metavar="N", help="GPUs of this machine, one process each")
    group.add_argument("--num-processes", type=int, metavar="N", help="CPU processes of this machine (over gloo)")
    group.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines (%(default)s)")
    text = "number of this machine, from 0 (%(default)s)"
    group.add_argument("--machine-rank", type=int, default=0, metavar="N", help=text)
    text = "tcp://HOST:PORT of machine 0 where there are several (%(default)s)"
    group.add_argument("--dist-url", default="auto", metavar="URL", help=text)
    # Evaluation gathers on one worker while the others wait, which takes longer than torch's default of 10 minutes.
    text = "end the run when a worker has waited this long for another (%(default)g)"
    group.add_argument("--timeout", type=float, default=60.0, metavar="MINUTES", help=text)


def execute(args: argparse.Namespace) -> Any:
    """Train or evaluate as the arguments say, in as many processes.

    Raises:
        UserError: anything wrong with arguments, config or data.
    """
    typed = dict(zip(args.opts[0::2], args.opts[1::2]))
    if "MODEL.DEVICE" in typed:
        _check_device(args, typed["MODEL.DEVICE"])
    if args.run:
        args.config_file = config_of_run(args.run)
        if not args.eval_only and "OUTPUT_DIR" in typed:
            raise UserError(f"--run {args.run} continues this run in its own folder, so it goes without --output")
        if args.eval_only and not args.resume and "MODEL.WEIGHTS" not in typed:
            args.opts += ["MODEL.WEIGHTS", find_weights(os.path.expanduser(args.run))]
        args.resume = args.resume or not args.eval_only
        args.opts += [] if "OUTPUT_DIR" in typed else ["OUTPUT_DIR", os.path.expanduser(args.run)]
    start_logging()
    return launch(work, args, setup(args))


def _check_device(args: argparse.Namespace, device: str) -> None:
    """Training chooses the GPUs of its processes itself, so MODEL.DEVICE says only of which kind the devices are."""
    if device not in ("cpu", "cuda"):
        raise UserError(f"device {device!r}: expected cpu or cuda; CUDA_VISIBLE_DEVICES=N chooses a GPU")
    choose_device(device)
    if device == "cpu" and args.num_gpus:
        raise UserError(f"--device cpu and --num-gpus {args.num_gpus} exclude each other")


def work(args: argparse.Namespace, cfg: CfgNode) -> dict[str, Any]:
    """The work of one process."""
    start_process(cfg)
    if args.eval_only:
        return evaluate(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def main(words: Sequence[str] | None = None) -> None:
    execute(argument_parser().parse_args(words))
