#!/usr/bin/env python
"""Detect with a trained run in images, videos or a camera's pictures; see --help and README.md."""

import argparse
import sys

from fa_detectron.apps.predict.jobs import Wanted, predict_images, predict_video
from fa_detectron.apps.predict.sources import find_images, video_source
from fa_detectron.errors import UserError, run_command
from fa_detectron.inference import Predictor
from fa_detectron.inference.predictor import check_threshold

_EPILOG = """exit status: 0 all done; 2 an error, nothing useful was written; 3 some images (or the rest of a damaged
video) could not be read, they are named, everything else is done."""


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(";")[0], epilog=_EPILOG)
    parser.add_argument("--run", required=True, metavar="FOLDER", help="the OUTPUT_DIR of a training run")
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="INPUT",
        help="images, folders of images, patterns such as 'FOLDER/**/*.jpg'; or one video; or a camera's number",
    )
    parser.add_argument("--output", default="", metavar="PATH", help="folder (or file) for annotated pictures or video")
    parser.add_argument("--json", default="", metavar="FILE", help="detections of all scores, in COCO's result format")
    parser.add_argument(
        "--data",
        default="",
        metavar="PATH",
        help="annotations of the images, named as --val is: --json carries their image and category ids (default: the "
        "run's validation set, where it has all the images)",
    )
    parser.add_argument("--images", default="", metavar="FOLDER", help="the images of --data, if not beside it")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=0.5,
        metavar="S",
        help="draw detections from this score on (%(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images at a time (%(default)s)")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1 (default: the GPU where there is one)")
    parser.add_argument("--weights", default="", metavar="FILE", help="a checkpoint (default: the run's final one)")
    parser.add_argument(
        "--tta", action="store_true", help="several scales, mirrored too: TEST.AUG.* of the run's config"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config keys, at the end of the line"
    )
    return parser


def main() -> int:
    args = argument_parser().parse_args()
    if not args.output and not args.json:
        raise UserError("nothing to write: give --output PATH, --json FILE, or both")
    source = video_source(args.input)
    paths = find_images(args.input) if source is None else []
    if args.data and (not args.json or source is not None):
        raise UserError("--data goes with --json and images: the ids in the file are taken from it")
    if args.images and not args.data:
        raise UserError("--images goes with --data")
    predictor = Predictor.from_run(
        args.run,
        weights=args.weights,
        device=args.device,
        tta=args.tta,
        batch_size=args.batch_size,
        overrides=args.opts,
    )
    check_threshold(predictor.run.cfg, args.score_threshold)
    wanted = Wanted(args.output, args.json, args.score_threshold, args.batch_size, args.data, args.images)
    if source is None:
        summary = predict_images(predictor, paths, wanted)
    else:
        summary = predict_video(predictor, source, wanted)

    for complaint in summary.complaints:
        print(f"skipped: {complaint}", file=sys.stderr)
    found = ", ".join(f"{count} {name}" for name, count in summary.detections.most_common()) or "nothing"
    written = " and ".join(path for path in (args.output, args.json) if path)
    what = "images" if source is None else "frames"
    print(f"{summary.images} {what}, found with score {args.score_threshold:g} or more: {found}; see {written}")
    print(f"weights: {predictor.run.cfg.MODEL.WEIGHTS}")
    if args.json:
        print(f"image ids in {args.json}: {summary.ids}")
    return 3 if summary.complaints else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
