"""Evaluate a checkpoint on a data set: AP, and the detections in COCO's result format."""

from collections.abc import Sequence

from fa_detectron.apps.arguments import (
    CommandParser,
    SetKey,
    add_data_arguments,
    add_model_arguments,
    add_reading_arguments,
    add_tta_argument,
    require_weights,
)
from fa_detectron.apps.train import add_process_arguments, execute

_EPILOG = """examples:
  a run, on its own validation set and on another one:
    %(prog)s --run output/mine
    %(prog)s --run output/mine --data data/test.json
  a checkpoint from elsewhere:
    %(prog)s --config-file FILE.yaml --weights FILE.pth
"""


def argument_parser() -> CommandParser:
    parser = CommandParser("fa-detectron eval", __doc__, _EPILOG)
    add_model_arguments(parser, devices="cpu or cuda")
    text = "results go below FOLDER/eval; default: the run's folder"
    parser.add_argument("--output", action=SetKey, key="OUTPUT_DIR", metavar="FOLDER", help=text)
    add_tta_argument(parser)
    data = parser.add_argument_group("data (default: DATASETS.TEST of the config)")
    add_data_arguments(data, "evaluate on this set")
    add_reading_arguments(data)
    add_process_arguments(parser)
    parser.set_defaults(eval_only=True, resume=False, train="")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    args = argument_parser().parse_args(words)
    require_weights(args)
    args.val = args.data
    execute(args)
