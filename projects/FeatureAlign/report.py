#!/usr/bin/env python
"""Make one HTML page of a trained run: curves, AP, detections, errors, speed; see --help and README.md."""

import argparse
import os

from fa_detectron.apps.report import ReportOptions, write_report
from fa_detectron.errors import UserError, run_command
from fa_detectron.inference import load_run
from fa_detectron.inference.predictor import check_threshold


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(";")[0])
    parser.add_argument("--run", required=True, metavar="FOLDER", help="the OUTPUT_DIR of a training run")
    parser.add_argument(
        "--output", default="", metavar="FILE", help="the page (default: report.html in the run's folder)"
    )
    parser.add_argument("--data", default="", metavar="PATH", help="named as --val is (default: the run's test set)")
    parser.add_argument("--images", default="", metavar="FOLDER", help="the images of --data, if not beside it")
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="S",
        help="count and draw detections from this score on (default: the score with the best F1)",
    )
    parser.add_argument(
        "--pictures", type=int, default=ReportOptions.pictures, metavar="N",
        help="sample images, and as many of the hardest (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--beside", nargs="+", default=[], metavar="FOLDER", help="runs to show the alignment of next to this one's"
    )
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1 (default: the GPU where there is one)")
    parser.add_argument("--weights", default="", metavar="FILE", help="a checkpoint (default: the run's final one)")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config keys, at the end of the line"
    )
    return parser


def main() -> None:
    args = argument_parser().parse_args()
    if args.pictures < 0:
        raise UserError(f"--pictures {args.pictures}: expected 0 or more")
    if args.images and not args.data:
        raise UserError("--images goes with --data")
    run = load_run(args.run, weights=args.weights, device=args.device, overrides=args.opts)
    if args.score_threshold is not None:
        check_threshold(run.cfg, args.score_threshold)
    path = args.output or os.path.join(args.run, "report.html")
    beside = tuple(load_run(folder, device=args.device, overrides=args.opts) for folder in args.beside)
    options = ReportOptions(args.data, args.images, args.score_threshold, args.pictures, beside)
    for words in write_report(run, path, options):
        print(f"missing: {words}")
    print(f"wrote {path} ({os.path.getsize(path) / 1e6:.1f} MB)")


if __name__ == "__main__":
    run_command(main)
