"""Look through a data set before hours are spent on it."""

import argparse
import logging
import os
from collections.abc import Sequence
from typing import Any

from fa_detectron.apps.arguments import CommandParser, add_reading_arguments
from fa_detectron.data.checks.images import Scanned, shared_content
from fa_detectron.data.checks.run_data import class_table
from fa_detectron.data.checks.statistics import (
    BoxStatistics,
    InputSize,
    input_size,
)
from fa_detectron.data.checks.whole_set import Checked, check_set
from fa_detectron.data.clean_copy import CHANGES, check_target, write_clean_copy
from fa_detectron.data.findings import NOTE, PROBLEM, REFUSED, Findings
from fa_detectron.data.hold_out import COPIES_ON_BOTH_SIDES, shared_sources
from fa_detectron.data.images.pixel_range import pixel_depth, settle_pixel_range
from fa_detectron.data.images.pixels import ImageReader
from fa_detectron.data.read_once import forget_sets
from fa_detectron.data.records import ReadOptions
from fa_detectron.data.sources.find import PATH_HELP, locate, parse_source, splits_of, validation_split
from fa_detectron.engine.config_file import load_config, set_input_size
from fa_detectron.engine.progress import BarLoader, show_bars
from fa_detectron.errors import UserError
from fa_detectron.files import atomic_write, write_json
from fa_detectron.inference import config_of_run
from fa_detectron.visualization.sheets import picture_sheet

_SETS = ("training", "validation")


def argument_parser() -> CommandParser:
    epilog = "exit status: 0 nothing found; 1 something to repair; 2 wrong arguments."
    parser = CommandParser("fa-detectron check-data", __doc__, epilog)
    parser.add_argument("path", metavar="PATH", help=f"the training set: {PATH_HELP}")
    parser.add_argument("--val", metavar="PATH", help="the validation set (default: the set's own split)")
    parser.add_argument("--images", metavar="FOLDER", help="the images, if not beside the annotations")
    add_reading_arguments(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", metavar="RUN", help="take the input size and the levels from this run's config")
    text = "take them from this config file, or the one of this name in configs/ (%(default)s)"
    source.add_argument("--config-file", metavar="FILE", default="small_data", help=text)
    text = "picture of samples, '' for none (%(default)s)"
    parser.add_argument("--output", metavar="FILE", default="output/check_data.jpg", help=text)
    parser.add_argument("--json", metavar="FILE", help="everything found, for programs")
    text = "write what can be used, all splits, as a clean COCO set with its images"
    parser.add_argument("--write", metavar="FOLDER", help=text)
    parser.add_argument("--link", action="store_true", help="with --write: hard links to the images, not copies")
    return parser


def report(checked: dict[str, Checked], size: InputSize, findings: Findings) -> str:
    """All of it in words."""
    lines = []
    for name, item in checked.items():
        statistics = item.statistics
        crowd = f" and {statistics.crowd} crowd boxes" if statistics.crowd else ""
        lines.append(f"{name} set {item.data.path}: {item.data.summary}, {statistics.boxes} boxes{crowd}")
    if checked:
        first = next(iter(checked.values()))
        columns = {
            name: [item.statistics.classes.get(label, (0, 0)) for label in first.data.classes]
            for name, item in checked.items()
        }
        lines += ["", "Boxes (and images that have them) per class:", class_table(first.data.classes, columns)]
        counts = [boxes for boxes, _ in columns[next(iter(columns))] if boxes]
        if len(counts) > 1:
            lines.append(f"The most frequent class has {max(counts) / min(counts):.1f} times the boxes of the rarest.")
    for name, item in checked.items():
        if item.statistics.boxes:
            lines += ["", *_level_table(name, item.statistics, size)]
    for kind, title in ((REFUSED, "Training refuses"), (PROBLEM, "Likely mistakes"), (NOTE, "To know")):
        found = findings.of(kind)
        lines += ["", f"{title}: {len(found) or 'nothing'}" if kind != NOTE or found else ""]
        lines += [f"- {finding}" for finding in found]
    return "\n".join(lines).rstrip()


def _level_table(name: str, statistics: BoxStatistics, size: InputSize) -> list[str]:
    (low, middle, high), lost = statistics.sizes, len(statistics.without_location)
    scaled = f"short side {size.short_side}, long side at most {size.long_side}" if size.short_side else "as they are"
    lines = [
        f"Boxes of the {name} set against the levels, images {scaled}: sqrt(area) has the percentiles 5, 50, 95 at "
        f"{low:.0f}, {middle:.0f}, {high:.0f} pixels.",
        "level  stride  boxes with a location  and none on a coarser level  locations in the median box",
    ]
    for level in statistics.levels:
        lines.append(
            f"{'p' + str(level.stride.bit_length() - 1):<5}  {level.stride:6d}  "
            f"{level.boxes:12d} {level.boxes / statistics.boxes:7.1%}  {level.coarsest:28d}  {level.median:27.0f}"
        )
    return [
        *lines,
        f"none           {lost:12d} {lost / statistics.boxes:7.1%}",
    ]


def as_json(checked: dict[str, Checked], findings: Findings, reader: ImageReader, status: int) -> dict[str, Any]:
    sets = {
        name: {
            "path": item.data.path,
            "images": len(item.data.images),
            "boxes": item.statistics.boxes,
            "crowd_boxes": item.statistics.crowd,
            "images_without_box": item.statistics.without_box,
            "classes": {label: {"boxes": b, "images": i} for label, (b, i) in item.statistics.classes.items()},
            "size_percentiles_5_50_95": list(item.statistics.sizes),
            "levels": [vars(level) for level in item.statistics.levels],
            "boxes_without_location": len(item.statistics.without_location),
        }
        for name, item in checked.items()
    }
    found = [finding.as_json() for finding in findings.all]
    return {"sets": sets, "pixel_range": reader.value_range, "findings": found, "exit_status": status}


def _own_validation(path: str) -> str:
    """The validation split that training takes beside ``path``; "" where there is none, or the set is broken."""
    try:
        return str(validation_split(path) or "")
    except UserError:
        return ""  # looking through the training set says why


def _bar(items: list) -> Any:
    return BarLoader(items, "reading images") if show_bars() else items


def main(words: Sequence[str] | None = None) -> int:
    args = argument_parser().parse_args(words)
    before = logging.root.manager.disable
    logging.disable(logging.INFO)  # what the readers tell of stands in the report
    try:
        return check_data(args)
    finally:
        logging.disable(before)


def check_data(args: argparse.Namespace) -> int:
    """Print the report of the arguments' data sets; returns the exit status, 0 or 1."""
    if args.images and not os.path.isdir(os.path.expanduser(args.images)):
        raise UserError(f"--images: no such folder: {args.images}")
    if args.link and not args.write:
        raise UserError("--link goes with --write FOLDER")
    if args.write:
        check_target(args.write, outside=locate(args.path)[0])
    config = config_of_run(args.run) if args.run else args.config_file
    cfg = load_config(config, args.opts)
    if args.size is not None:
        set_input_size(cfg, args.size)
    cfg.DATASETS.IMAGES_ROOT = args.images or ""
    size, reader, findings = input_size(cfg), ImageReader.from_config(cfg), Findings()
    for path in filter(None, (args.path, args.val)):
        locate(path)  # a wrong argument costs no time
    val = args.val or _own_validation(args.path)
    wanted = {"training": (args.path, "train"), **({"validation": (val, "val")} if val else {})}
    forget_sets()
    checked: dict[str, Checked] = {}
    scanned: Scanned = {}
    for name, (path, split) in wanted.items():
        classes = checked["training"].data.classes if name == "validation" and checked else None
        item = check_set(path, split, cfg, findings, classes, _bar, scanned)
        if item:
            checked[name] = item
    if len(checked) == 2:
        leaked = shared_content(checked["training"].digests, checked["validation"].digests)
        findings.problem(val, "images that the training set has, too (same pixels)", leaked)
        files = [[image.file_name for image in item.data.images] for item in checked.values()]
        findings.problem(val, COPIES_ON_BOTH_SIDES, shared_sources(*files))
    files = [{checked[name].data.path: list(checked[name].digests)} if name in checked else {} for name in _SETS]
    reader = settle_pixel_range(*files, reader, findings)
    print(report(checked, size, findings))
    status = 1 if findings.of(REFUSED) or findings.of(PROBLEM) else 0
    if args.json:
        write_json(args.json, as_json(checked, findings, reader, status))
    if args.output and checked:
        _save_samples(args.output, next(iter(checked.values())), reader)
    if args.write:
        sources = splits_of(args.path) | ({"val": parse_source(args.val, "val")} if args.val else {})
        lines = write_clean_copy(sources, ReadOptions.from_config(cfg), reader, args.write, args.link, _bar, scanned)
        print("\n".join(["", *lines, f"Changes: {os.path.join(args.write, CHANGES)}"]))
    return status


def _save_samples(path: str, item: Checked, reader: ImageReader) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    unreadable = {image.file_name for image in item.data.images} - item.digests.keys()
    if reader.value_range is None:
        unreadable |= set(pixel_depth(list(item.digests)).deep)
    with atomic_write(path, "wb") as stream:
        sheet = picture_sheet(item.data, reader, unreadable)
        sheet.save(stream, format="PNG" if path.lower().endswith(".png") else "JPEG")
    print(f"\nSamples: {path}")
