"""Where a YOLO set has its class names and images.

Ultralytics' ``data.yaml`` has ``names``, ``path`` (the root, relative to the file; by default the file's folder), maybe
``kpt_shape``, and one key per split: a folder of images, a .txt list of images, or a list of these. Darknet's
``obj.data`` has the same as KEY = VALUE. For folders with neither, see
:func:`fa_detectron.data.sources.splits.has_split`.
"""

import os
from typing import Any, NamedTuple

from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.readers.yolo.images import Reach, Search, entries_of, tails
from fa_detectron.data.readers.yolo.names import described_names, names_beside
from fa_detectron.data.records import ReadOptions
from fa_detectron.data.sources.source import LINKS, AnyCase, Source, is_file_name
from fa_detectron.data.sources.splits import (
    LABEL_FOLDERS,
    SPLIT_NAMES,
    find_description,
    has_split,
    read_description,
    split_names,
)
from fa_detectron.errors import UserError

_SETTINGS = ("path", "names", "nc", "download", "kpt_shape", "flip_idx", "roboflow", "channels", "backup", "kpt_names")


class Layout(NamedTuple):
    roots: list[str]  # absolute: --images, if given, and the set's folder; nothing outside is read
    names: dict[int, str]  # by class number, in order; {} if no file has them
    keypoints: tuple[int, int] | None  # number and dimensions, of kpt_shape
    images: dict[str, list[str]]  # absolute, sorted: the possible label files of each, in this order
    only_labelled: bool  # the images' folder contains those of other splits, too


def find_layout(source: Source, options: ReadOptions, findings: Findings) -> tuple[Layout, Reach]:
    """The layout of a split.

    Args:
        source: of parse_source.
        options: ``images_root`` is the root instead of the one in data.yaml, or the folder of the images alone.
        findings: gets images that cannot be used, and guesses.

    Raises:
        UserError: data.yaml is broken, or names no such split, or there is no image.
    """
    is_file = os.path.isfile(source.path)
    description = source.path if is_file else find_description(source.path)
    content = _description(description) if description else {}
    entries = _split_entries(description, content, source.split) if description else []
    roots = _roots(source.path, description, content, options.images_folder(), findings)
    reach = Reach(roots, options.follow_links)
    keypoints = _keypoints(description, content.get("kpt_shape"))
    if not description:
        entries = [has_split(roots[0], source.split) or has_split(source.path, source.split)]
    search = Search(source, roots, reach, bool(options.images_root))
    found = {image: labels for entry in entries for image, labels in search.images_of(entry, findings).items()}
    findings.refuse(str(source), f"images that a link takes out of {' and '.join(roots)}", search.outside, LINKS)
    if not found:
        raise UserError(f"{source}: no image in {', '.join(os.path.join(roots[0], entry) for entry in entries)}")
    splits = {key: value for key, value in content.items() if key not in _SETTINGS}
    search.report_guesses(description or str(source), splits, findings)
    if description:
        names = described_names(description, content, roots[-1], findings)
    else:
        names = _names_around(roots, list(found), findings)
    return Layout(roots, names, keypoints, dict(sorted(found.items())), search.only_labelled), reach


def _roots(path: str, description: str, content: dict[str, Any], images_root: str, findings: Findings) -> list[str]:
    folder = os.path.dirname(description) if description else path
    own = os.path.abspath(os.path.join(folder, content.get("path", ".")))
    if images_root:
        # The folder above images/ has labels/, too.
        parent = [os.path.dirname(images_root)] if os.path.basename(images_root).lower() == "images" else []
        return list(dict.fromkeys([images_root, *parent, own if os.path.isdir(own) else folder]))
    if not os.path.isdir(own):
        # The folder on the machine of its author, such as /content/dataset; usually the set's folder has everything.
        names = (name for key in SPLIT_NAMES for entry in entries_of(content.get(key)) for name in tails(entry))
        if not any(map(AnyCase().find, (os.path.join(folder, name) for name in names))):
            raise UserError(
                f"{description}: key 'path': no such folder: {own}. Correct it, or name the folder with --images."
            )
        findings.say(NOTE, description, f"there is no folder {own} (key 'path'), so {folder} is read")
        return [folder]
    return [own]


def _description(path: str) -> dict[str, Any]:
    content = read_description(path)
    if not isinstance(content.setdefault("path", "."), (str, type(None))):
        raise UserError(f"{path}: 'path' must be a folder's name, is {content['path']!r:.80}")
    content["path"] = os.path.expanduser(content["path"] or ".")
    return content


def _split_entries(path: str, content: dict[str, Any], split: str) -> list[str]:
    keys = [key for key in split_names(split) if content.get(key) is not None and key not in _SETTINGS]
    if not keys:
        known = [str(key) for key in content if key not in _SETTINGS and content[key]]
        raise UserError(f"{path}: has no split {split!r}; it has {', '.join(known) or 'none'} (FILE.yaml:SPLIT)")
    value = content[keys[0]]
    entries = value if isinstance(value, list) else [value]
    bad = [repr(entry)[:80] for entry in entries if not is_file_name(entry)]
    Findings(strict=True).refuse(path, f"entries of {split!r} that are no names of files or folders", bad)
    return entries


def _keypoints(path: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or [type(v) for v in value] != [int, int] or value[0] < 0 or value[1] not in (2, 3):
        raise UserError(f"{path}: 'kpt_shape' must be [number of keypoints, 2 or 3], is {value!r:.80}")
    return value[0], value[1]


def _names_around(roots: list[str], images: list[str], findings: Findings) -> dict[int, str]:
    """The names in the files of a folder without a description; for a folder of one split, in the set around it."""
    folders = [folder for root in roots for folder in (root, *(os.path.join(root, name) for name in LABEL_FOLDERS))]
    folders += dict.fromkeys(os.path.dirname(image) for image in images)
    names = names_beside(folders)
    above = os.path.dirname(roots[-1])
    if names or os.path.basename(roots[-1]).lower() not in SPLIT_NAMES:
        return names
    description = find_description(above)
    if not description:
        return names_beside([above])
    return described_names(description, _description(description), above, findings)
