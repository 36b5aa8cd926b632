"""Export a trained model to ONNX or torch.export, and compare the file with the model in PyTorch."""

import contextlib
import io
import os
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from fa_detectron.apps.arguments import CommandParser, add_data_arguments, add_model_arguments, load
from fa_detectron.apps.export import ExportedDetector, ExportOptions, check_parity, export_model
from fa_detectron.apps.export.model_file import check_target
from fa_detectron.apps.predict.sources import find_images
from fa_detectron.data import evaluation_config
from fa_detectron.engine import Trainer
from fa_detectron.engine.results import comparison_tables
from fa_detectron.errors import UserError
from fa_detectron.inference import Predictor, Run


def argument_parser() -> CommandParser:
    parser = CommandParser("fa-detectron export", __doc__)
    add_model_arguments(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help="FILE.onnx (ONNX) or FILE.pt2 (torch.export)")
    text = "the one size of the input, pixels; default: any size"
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help=text)
    text = "outside: the file gives the candidates"
    parser.add_argument("--nms", choices=("inside", "outside"), default="inside", help=text)
    text = "the De-Subnet as ONNX's DeformConv, or by grid sampling, for runtimes without that"
    parser.add_argument("--deform", choices=("standard", "decomposed"), default="standard", help=text)
    parser.add_argument("--opset", type=int, default=ExportOptions.opset, help="of ONNX, 19 or later (%(default)s)")
    text = "images or folders: compare the detections and the speed"
    parser.add_argument("--check", nargs="+", metavar="IMAGES", help=text)
    parser.add_argument("--evaluate", action="store_true", help="compare the APs")
    add_data_arguments(parser, "the set of --evaluate, default: the run's test set")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    args = argument_parser().parse_args(words)
    options = ExportOptions(
        size=tuple(args.size) if args.size else None,
        nms=args.nms == "inside",
        decompose=args.deform == "decomposed",
        opset=args.opset,
    )
    check_target(args.output, options)
    paths = find_images(args.check) if args.check else []
    if (args.data or args.images) and not args.evaluate:
        raise UserError("--data and --images go with --evaluate")
    args.opts += [] if "MODEL.DEVICE" in args.opts else ["MODEL.DEVICE", "cpu"]
    run = load(args)
    if run.cfg.MODEL.DEVICE != "cpu":
        raise UserError(f"device {run.cfg.MODEL.DEVICE}: a model is exported on the CPU; leave --device out")
    if args.evaluate and not args.data and not run.cfg.DATASETS.TEST:
        raise UserError("--evaluate: the run has no test set; name one with --data PATH")
    predictor = Predictor(run)
    images = [predictor.reader.read(path) for path in paths]
    if options.size:
        check_sizes(predictor, paths, images, options.size)
    print(f"exporting {run.cfg.MODEL.WEIGHTS}", flush=True)
    export_model(run, args.output, options)
    print(f"wrote {args.output} ({os.path.getsize(args.output) / 1e6:.1f} MB)", flush=True)
    if not paths and not args.evaluate:
        return
    exported = ExportedDetector(args.output)
    if paths:
        print(check_parity(predictor, exported, images).text(), flush=True)
    if args.evaluate:
        models = {"PyTorch": run.model, "exported": exported}
        found = {name: box_metrics(run, model, args.data, args.images) for name, model in models.items()}
        if not all(found.values()):
            raise UserError("--evaluate: the set has no annotations to compare with")
        print(comparison_tables(found), flush=True)


def check_sizes(predictor: Predictor, paths: list[str], images: list[np.ndarray], size: tuple[int, int]) -> None:
    """Refuse images (H, W, 3) for --check that are not of the exported size (H, W) once they are resized."""
    for path, image in zip(paths, images):
        found = tuple(predictor.model_input(image)["image"].shape[1:])
        if found != size:
            raise UserError(
                f"--check {path}: {found[0]} x {found[1]} pixels (height x width) after resizing, but --size is "
                f"{size[0]} {size[1]}; export without --size, or with that size"
            )


def box_metrics(run: Run, model: nn.Module, data: str, images: str) -> dict[str, float]:
    """AP and the other figures on ``data``, "" for the run's (first) test set; {} for a set without annotations.

    Nothing is written into the run's folder.
    """
    # Without COCO's own table, which would bury the comparison.
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        return Trainer.test(evaluation_config(run.cfg, folder, data, images), model).get("bbox", {})
