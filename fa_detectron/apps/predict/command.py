"""Detect with a trained model in images, a video or a camera's pictures."""

import sys
from collections.abc import Sequence

from fa_detectron.apps.arguments import (
    CommandParser,
    add_data_arguments,
    add_model_arguments,
    add_tta_argument,
    load,
)
from fa_detectron.apps.predict.detect import Outputs, predict_images, predict_video
from fa_detectron.apps.predict.sources import find_images, video_source
from fa_detectron.errors import UserError
from fa_detectron.inference import Predictor
from fa_detectron.inference.predictor import check_threshold

_EPILOG = """exit status: 0 all done; 2 an error, nothing useful was written; 3 some images (or the rest of a damaged
video) could not be read, they are named, everything else is done."""


def argument_parser() -> CommandParser:
    parser = CommandParser("fa-detectron predict", __doc__, _EPILOG)
    add_model_arguments(parser)
    text = "images, folders of images, patterns such as 'FOLDER/**/*.jpg'; or one video; or a camera's number"
    parser.add_argument("--input", required=True, nargs="+", metavar="INPUT", help=text)
    parser.add_argument("--output", default="", metavar="PATH", help="folder (or file) for annotated pictures or video")
    parser.add_argument("--json", default="", metavar="FILE", help="detections of all scores, in COCO's result format")
    add_data_arguments(parser, "the set whose image and category ids --json uses, default: the run's validation set")
    text = "draw detections with at least this score (%(default)s)"
    parser.add_argument("--score-threshold", type=float, default=0.5, metavar="S", help=text)
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="images at a time (%(default)s)")
    add_tta_argument(parser)
    return parser


def main(words: Sequence[str] | None = None) -> int:
    args = argument_parser().parse_args(words)
    if not args.output and not args.json:
        raise UserError("nothing to write: give --output PATH, --json FILE, or both")
    source = video_source(args.input)
    paths = find_images(args.input) if source is None else []
    if args.data and (not args.json or source is not None):
        raise UserError("--data goes with --json and images: the ids in the file are taken from it")
    if args.images and not args.data:
        raise UserError("--images goes with --data")
    run = load(args)
    predictor = Predictor(run, tta=run.cfg.TEST.AUG.ENABLED, batch_size=args.batch_size)
    check_threshold(predictor.run.cfg, args.score_threshold)
    outputs = Outputs(args.output, args.json, args.score_threshold, args.batch_size, args.data, args.images)
    if source is None:
        summary = predict_images(predictor, paths, outputs)
    else:
        summary = predict_video(predictor, source, outputs)

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
