"""Write one HTML page about a trained run: curves, AP, detections, errors, speed."""

import os
from collections.abc import Sequence

from fa_detectron.apps.arguments import CommandParser, add_data_arguments, add_model_arguments, load
from fa_detectron.apps.report import ReportOptions, write_report
from fa_detectron.errors import UserError
from fa_detectron.inference.predictor import check_threshold


def argument_parser() -> CommandParser:
    parser = CommandParser("fa-detectron report", __doc__)
    add_model_arguments(parser)
    text = "the page; default: report.html in the run's folder"
    parser.add_argument("--output", default="", metavar="FILE", help=text)
    add_data_arguments(parser, "annotated images, default: the run's test set")
    text = "count and draw detections with at least this score; default: the score with the best F1"
    parser.add_argument("--score-threshold", type=float, metavar="S", help=text)
    text = "sample images, and as many of the hardest (%(default)s)"
    parser.add_argument("--pictures", type=int, default=ReportOptions.pictures, metavar="N", help=text)
    text = "runs whose alignment is shown next to this one's"
    parser.add_argument("--beside", nargs="+", default=[], metavar="RUN", help=text)
    return parser


def main(words: Sequence[str] | None = None) -> None:
    args = argument_parser().parse_args(words)
    if args.pictures < 0:
        raise UserError(f"--pictures {args.pictures}: expected 0 or more")
    if args.images and not args.data:
        raise UserError("--images goes with --data")
    if not args.output and not args.run:
        raise UserError("--config-file: --output FILE is missing")
    run = load(args)
    if args.score_threshold is not None:
        check_threshold(run.cfg, args.score_threshold)
    path = args.output or os.path.join(args.run, "report.html")
    pairs = zip(args.opts[0::2], args.opts[1::2])
    args.opts = [word for pair in pairs if pair[0] != "MODEL.WEIGHTS" for word in pair]  # those of the run itself
    beside = tuple(load(args, folder) for folder in args.beside)
    options = ReportOptions(args.data, args.images, args.score_threshold, args.pictures, beside)
    for words in write_report(run, path, options):
        print(f"missing: {words}")
    print(f"wrote {path} ({os.path.getsize(path) / 1e6:.1f} MB)")
