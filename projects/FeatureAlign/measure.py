#!/usr/bin/env python
"""Parameters, FLOPs, memory and speed of a detector, stage by stage; see --help and README.md."""

import argparse
import json

from fa_detectron.apps.measure import measure, noise_image
from fa_detectron.apps.predict.sources import find_images
from fa_detectron.engine import Trainer, load_config
from fa_detectron.errors import UserError, run_command
from fa_detectron.files import atomic_write
from fa_detectron.inference import Predictor, Run, choose_device, load_run
from fa_detectron.modeling import FeatureAlign


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split(";")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", metavar="FOLDER", help="the OUTPUT_DIR of a training run")
    what.add_argument("--config-file", metavar="FILE", help="a config, with random weights (decoding finds nothing)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--input", nargs="+", metavar="IMAGES", help="images or folders; loading counts, too")
    source.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="of noise images (default: shorter side as in tests, 3:4)"
    )
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images at a time (%(default)s)")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="batches to time (%(default)s)")
    parser.add_argument("--device", default="", help="cpu, cuda, cuda:1 (default: the GPU where there is one)")
    parser.add_argument("--weights", default="", metavar="FILE", help="a checkpoint (default: the run's final one)")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config keys, at the end of the line"
    )
    return parser


def untrained(config: str, device: str, overrides: list[str]) -> Run:
    """The model of a config, without asking for its ImageNet weights."""
    cfg = load_config(config, overrides)
    cfg.MODEL.WEIGHTS = cfg.MODEL.TIMM.WEIGHTS = ""
    cfg.MODEL.DEVICE = choose_device(device)
    count = cfg.MODEL.FEATURE_ALIGN.NUM_CLASSES
    model = Trainer.build_model(cfg).eval()
    return Run("", cfg, model, tuple(map(str, range(count))), tuple(range(1, count + 1)))


def main() -> None:
    args = argument_parser().parse_args()
    if args.batch_size < 1 or args.repeats < 1:
        raise UserError("--batch-size and --repeats: expected 1 or more")
    if args.size and min(args.size) < 1:
        raise UserError("--size: height and width must be positive")
    if args.weights and not args.run:
        raise UserError("--weights goes with --run")
    images = find_images(args.input) if args.input else []
    overrides = list(args.opts)
    if args.size:  # or the image would be resized
        overrides += ["INPUT.MIN_SIZE_TEST", str(min(args.size)), "INPUT.MAX_SIZE_TEST", str(max(args.size))]
    if args.run:
        run = load_run(args.run, weights=args.weights, device=args.device, overrides=overrides)
    else:
        run = untrained(args.config_file, args.device, overrides)
    if not isinstance(run.model, FeatureAlign):
        raise UserError(f"MODEL.META_ARCHITECTURE is {type(run.model).__name__}; only FeatureAlign can be measured")
    if not images:
        images = [noise_image(run.cfg, tuple(args.size) if args.size else None)]
    found = measure(Predictor(run), images, args.batch_size, args.repeats)
    print(found.table())
    if args.json:
        with atomic_write(args.json) as file:
            json.dump(found.as_dict(), file, indent=2)


if __name__ == "__main__":
    run_command(main)
