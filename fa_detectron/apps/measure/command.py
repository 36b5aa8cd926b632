"""Measure parameters, FLOPs, memory and speed of a detector, stage by stage."""

import json
from collections.abc import Sequence

from fa_detectron.apps.arguments import CommandParser, add_model_arguments, load
from fa_detectron.apps.measure import measure, noise_image
from fa_detectron.apps.predict.sources import find_images
from fa_detectron.errors import UserError
from fa_detectron.files import atomic_write
from fa_detectron.inference import Predictor
from fa_detectron.modeling import FeatureAlign


def argument_parser() -> CommandParser:
    parser = CommandParser("fa-detectron measure", __doc__, "With --config-file alone the weights are random.")
    add_model_arguments(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--input", nargs="+", metavar="IMAGES", help="images or folders; loading counts, too")
    text = "size of noise images; default: shorter side as in tests, 3:4"
    source.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help=text)
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="images at a time (%(default)s)")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="batches to time (%(default)s)")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    args = argument_parser().parse_args(words)
    if args.batch_size < 1 or args.repeats < 1:
        raise UserError("--batch-size and --repeats: expected 1 or more")
    if args.size and min(args.size) < 1:
        raise UserError("--size: height and width must be positive")
    images = find_images(args.input) if args.input else []
    if args.size:  # or the image would be resized
        args.opts += ["INPUT.MIN_SIZE_TEST", str(min(args.size)), "INPUT.MAX_SIZE_TEST", str(max(args.size))]
    run = load(args, random_weights=True)
    if not isinstance(run.model, FeatureAlign):
        raise UserError(f"MODEL.META_ARCHITECTURE is {type(run.model).__name__}; only FeatureAlign can be measured")
    if not images:
        images = [noise_image(run.cfg, tuple(args.size) if args.size else None)]
    found = measure(Predictor(run), images, args.batch_size, args.repeats)
    print(found.table())
    if args.json:
        with atomic_write(args.json) as file:
            json.dump(found.as_dict(), file, indent=2)
