"""Show and measure how well scores, boxes and foreground weights of trained models agree."""

import json
import os
from collections.abc import Sequence
from typing import Any

from fa_detectron.apps.arguments import CommandParser, add_data_arguments, add_model_arguments, load
from fa_detectron.apps.explain import average
from fa_detectron.apps.explain.comparison import (
    as_dict,
    check_comparable,
    measure_set,
    method_table,
    run_titles,
    save_pictures,
    select_images,
)
from fa_detectron.data import annotated_records
from fa_detectron.engine.results import show
from fa_detectron.errors import UserError
from fa_detectron.files import atomic_write
from fa_detectron.modeling.config import method_name


def argument_parser() -> CommandParser:
    parser = CommandParser("fa-detectron explain", __doc__)
    add_model_arguments(parser, several=True)
    add_data_arguments(parser, "annotated images, default: the run's test set")
    parser.add_argument("--output", default="", metavar="FOLDER", help="write pictures")
    parser.add_argument("--image", nargs="+", default=[], metavar="NAME", help="files or ids of the data to draw")
    parser.add_argument("--count", type=int, default=4, metavar="N", help="else draw the first ones (%(default)s)")
    parser.add_argument("--average", action="store_true", help="measure the whole data set; runs of a method are seeds")
    parser.add_argument("--json", default="", metavar="FILE", help="write the figures")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    args = argument_parser().parse_args(words)
    if not args.output and not args.average:
        raise UserError("nothing to do: give --output FOLDER, --average, or both")
    if args.count < 1:
        raise UserError("--count: expected 1 or more")
    if os.path.exists(args.output) and not os.path.isdir(args.output):
        raise UserError(f"--output {args.output} exists and is not a folder")
    if os.path.isdir(args.json):
        raise UserError(f"--json {args.json} is a folder; give a file's name")
    if len(args.run or ()) > 1 and "MODEL.WEIGHTS" in args.opts:
        raise UserError("--weights goes with one --run")
    runs = [load(args, folder) for folder in args.run or [None]]
    check_comparable(runs)
    records = annotated_records(runs[0].cfg, args.data, args.images)
    chosen = select_images(records, args.image, args.count)
    if args.json:  # now, for the measuring takes its time
        os.makedirs(os.path.dirname(os.path.abspath(args.json)), exist_ok=True)
    figures: dict[str, Any] = {
        "data": args.data or runs[0].cfg.DATASETS.VAL_PATH or runs[0].cfg.DATASETS.TEST[0],
        "runs": [
            {"folder": run.folder, "weights": run.cfg.MODEL.WEIGHTS, "method": method_name(run.cfg), "images": []}
            for run in runs
        ],
    }
    averages = []
    if args.average:
        print(f"{'':32}{'misalignment':>14}{'rank agreement':>16}{'boxes':>8}{'left out':>10}")
        for run, title, entry in zip(runs, run_titles(runs), figures["runs"]):
            found = measure_set(run, records)
            averages.append(found)
            entry["average"] = as_dict(found)
            print(
                f"{title:32}{show(found.misalignment, 4):>14}{show(found.rank_agreement, 4):>16}{found.boxes:8}"
                f"{found.left_out:10}",
                flush=True,
            )
        figures["methods"] = method_table(runs, averages)
        for method, row in figures["methods"].items():
            values = [row[key] for key in ("misalignment", "rank_agreement")]
            shown = [show(v["mean"], 4) + (f" ± {show(v['std'], 4)}" if v["std"] is not None else "") for v in values]
            print(f"{method}, {row['runs']} run{'s' if row['runs'] > 1 else ''}: " + ", ".join(shown))
    if args.output:
        for index, explained in zip(chosen, save_pictures(args.output, runs, records, chosen, averages)):
            for explanation, entry in zip(explained, figures["runs"]):
                of_image = as_dict(average([explanation.alignment]))
                entry["images"].append({"image_id": records[index]["image_id"], "file": explanation.name, **of_image})
        print(f"pictures of {len(chosen)} images in {args.output}")
    if args.json:
        with atomic_write(args.json) as file:
            json.dump(figures, file, indent=2)
