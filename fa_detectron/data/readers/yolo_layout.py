"""Where a YOLO set has its class names and images.

``data.yaml`` (as Ultralytics has it) has ``names``, ``path`` (the root, relative to the file; the file's own folder
where it is left out), maybe ``kpt_shape``, and a key a split: a folder of images, a .txt list of images, or a list of
these. Darknet's ``obj.data`` says the same as KEY = VALUE. Of folders without either see
:func:`fa_detectron.data.splits.has_split`.
"""

import os
from typing import Any, NamedTuple

from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.image_finder import ImageFinder
from fa_detectron.data.paths import LINKS, Source
from fa_detectron.data.records import ReadOptions
from fa_detectron.data.splits import LABEL_FOLDERS, SPLITS, find_description, has_split, is_image, split_names
from fa_detectron.data.text_files import read_text
from fa_detectron.errors import UserError
from fa_detectron.plain_yaml import read_plain_yaml

from .yolo_labels import is_below, label_files
from .yolo_names import described_names, names_beside

_SETTINGS = ("path", "names", "nc", "download", "kpt_shape", "flip_idx", "roboflow", "channels", "backup", "kpt_names")


class Layout(NamedTuple):
    roots: list[str]  # absolute: the set's own folder, --images before it; nothing outside is read
    names: dict[int, str]  # by class number, in their order; {} where no file has them
    keypoints: tuple[int, int] | None  # number and dimensions, of kpt_shape
    images: dict[str, list[str]]  # absolute, sorted: where the labels of each may be, in this order
    only_labelled: bool  # the images' folder holds those of other splits, too


class Reach:
    """What may be read: files below the given folders, wherever links lead with ``follow``."""

    def __init__(self, roots: list[str], follow: bool) -> None:
        self._real = [os.path.join(os.path.realpath(root), "") for root in roots]
        self._follow = follow

    def __call__(self, path: str) -> bool:
        return self._follow or os.path.join(os.path.realpath(path), "").startswith(tuple(self._real))


def find_layout(source: Source, options: ReadOptions, findings: Findings) -> tuple[Layout, Reach]:
    """Find out what belongs to a split.

    Args:
        source: of parse_source.
        options: ``images_root`` is the root instead of the one that data.yaml names, or a folder of the images alone.
        findings: gets images that cannot be used, and what was guessed.

    Raises:
        UserError: data.yaml is broken, or names no such split, or there is no image.
    """
    is_file = os.path.isfile(source.path)
    description = source.path if is_file else find_description(source.path)
    content = _description(description) if description else {}
    entries = _split_entries(description, content, source.split) if description else []
    roots = _roots(source.path, description, content, options.images_root, findings)
    reach = Reach(roots, options.follow_links)
    keypoints = _keypoints(description, content.get("kpt_shape"))
    if not description:
        entries = [has_split(roots[0], source.split) or has_split(source.path, source.split)]
    search = _Search(source, roots, reach, bool(options.images_root))
    found = {image: labels for entry in entries for image, labels in search.images_of(entry, findings).items()}
    findings.refuse(str(source), f"images that a link takes out of {' and '.join(roots)}", search.outside, LINKS)
    if not found:
        raise UserError(f"{source}: no image in {', '.join(os.path.join(roots[0], entry) for entry in entries)}")
    search.report_guesses(description, content, findings)
    if description:
        names = described_names(description, content, roots[-1], findings)
    else:
        names = _names_around(roots, list(found), findings)
    return Layout(roots, names, keypoints, dict(sorted(found.items())), search.only_labelled), reach


def _roots(path: str, description: str, content: dict[str, Any], images_root: str, findings: Findings) -> list[str]:
    folder = os.path.dirname(description) if description else path
    own = os.path.abspath(os.path.join(folder, content.get("path", ".")))
    if images_root:
        named = os.path.abspath(os.path.expanduser(images_root))
        if not os.path.isdir(named):
            raise UserError(f"--images (DATASETS.IMAGES_ROOT): no such folder: {named}")
        parent = [os.path.dirname(named)] if os.path.basename(named) == "images" else []  # which has labels/, too
        return list(dict.fromkeys([named, *parent, own if os.path.isdir(own) else folder]))
    if not os.path.isdir(own):
        # Where the set was described: /content/dataset, say. Its own folder has all of it in most cases.
        splits = [content[key] for key in content if key in SPLITS and isinstance(content[key], str)]
        if not any(os.path.exists(os.path.join(folder, split)) for split in splits if not os.path.isabs(split)):
            raise UserError(
                f"{description}: key 'path': no such folder: {own}. Correct it, or name the folder with --images."
            )
        findings.say(NOTE, description, f"there is no folder {own} (key 'path'), so {folder} is read")
        return [folder]
    return [own]


def _description(path: str) -> dict[str, Any]:
    if path.endswith(".data"):
        lines = [line.partition("=") for line in read_text(path).splitlines() if "=" in line and line.strip()[0] != "#"]
        content: Any = {key.strip(): value.strip() for key, _, value in lines}
        content["nc"] = content.pop("classes", None)
        content.setdefault("names", None)
    else:
        content = read_plain_yaml(path)
    if not isinstance(content, dict) or not {"names", "nc"} & content.keys():
        raise UserError(f"{path}: a YOLO set's file needs the key 'names' and one a split (train, val)")
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
    bad = [repr(entry)[:80] for entry in entries if not isinstance(entry, str) or not _is_name(entry)]
    Findings(strict=True).refuse(path, f"entries of {split!r} that are no names of files or folders", bad)
    return entries


def _is_name(entry: str) -> bool:
    """Whether the file system can be asked for it."""
    try:
        return bool(entry) and b"\0" not in os.fsencode(entry)
    except UnicodeEncodeError:
        return False


def _keypoints(path: str, value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or [type(v) for v in value] != [int, int] or value[0] < 0 or value[1] not in (2, 3):
        raise UserError(f"{path}: 'kpt_shape' must be [number of keypoints, 2 or 3], is {value!r:.80}")
    return value[0], value[1]


def _names_around(roots: list[str], images: list[str], findings: Findings) -> dict[int, str]:
    """The names in the files of a folder without a description, or, of a split's own folder, in the set around it."""
    folders = [folder for root in roots for folder in (root, *(os.path.join(root, name) for name in LABEL_FOLDERS))]
    folders += dict.fromkeys(os.path.dirname(image) for image in images)
    names = names_beside(folders)
    above = os.path.dirname(roots[-1])
    if names or os.path.basename(roots[-1]) not in SPLITS:
        return names
    description = find_description(above)
    return (
        described_names(description, _description(description), above, findings)
        if description
        else names_beside([above])
    )


class _Search:
    """Finds the images of the entries of one split."""

    def __init__(self, source: Source, roots: list[str], reach: Reach, named: bool) -> None:
        self._source, self._roots, self._reach = source, roots, reach
        self._named = named  # the first root by --images
        self.only_labelled = False
        self.outside: list[str] = []
        self._guessed: dict[str, str] = {}

    def images_of(self, entry: str, findings: Findings) -> dict[str, list[str]]:
        """The images of a folder or a .txt list, absolute, with where their labels may be."""
        place = self._place(entry)
        if not place or not self._reach(place):
            raise UserError(
                f"{self._source.path}: {entry!r} leads out of {self._roots[-1]}. Name the folder of the data with "
                "--images (DATASETS.IMAGES_ROOT), or follow links with --follow-links (DATASETS.FOLLOW_LINKS)."
            )
        if os.path.isdir(place):
            away = entry if self._named else ""
            return {image: label_files(image, self._roots, away, place) for image in self._walk(place)}
        finder = ImageFinder(self._roots, self._roots[0], self._roots[0], follow_links=True)
        images = [self._listed(line, place, finder) for line in read_text(place).splitlines() if line.strip()]
        finder.report(str(self._source), findings)
        self.outside += [image for image in images if image and not self._reach(image)]
        return {image: label_files(image, self._roots) for image in images if image and self._reach(image)}

    def report_guesses(self, description: str, content: dict[str, Any], findings: Findings) -> None:
        """Say which entries were found in another place than the one they name.

        Raises:
            UserError: another split was, in the same place.
        """
        others = {
            key: value for key, value in content.items() if key not in (*_SETTINGS, *split_names(self._source.split))
        }
        for key, other in others.items() if self._guessed else ():
            place = self._find(other)[0] if isinstance(other, str) and _is_name(other) else ""
            if place in self._guessed.values():
                raise UserError(
                    f"{description}: {self._source.split!r} and {key!r} lead nowhere, or to the same folder {place}. "
                    "Correct them."
                )
        found = [f"{entry}: {place}" for entry, place in self._guessed.items()]
        findings.note(description, "entries that lead nowhere here, and what was taken for them", found)

    def _place(self, entry: str) -> str:
        """The folder or list that an entry means, "" where it lies outside the roots."""
        place, is_guess = self._find(entry)
        if is_guess and place == self._roots[0]:
            self.only_labelled = True
        elif is_guess:
            self._guessed[entry] = place
        return place

    def _find(self, entry: str) -> tuple[str, bool]:
        """(path, whether it is a guess); the path that the entry names itself where there is nothing.

        Exports of Roboflow say "../train/images" and mean "train/images".
        """
        entry = os.path.expanduser(entry.replace("\\", "/"))
        direct = self._below(entry) + (self._below(entry[3:]) if entry.startswith("../") else [])
        parts = [part for part in entry.split("/") if part not in ("", ".", "..")]
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        guesses = [path for tail in tails for name in _other_names(tail) for path in self._below(name)]
        for path in (*direct, *guesses):
            if os.path.exists(path):
                return path, path not in direct
        if self._named and any(map(is_image, os.listdir(self._roots[0]))):
            return self._roots[0], True
        outside = not self._below(entry) and os.path.exists(os.path.join(self._roots[-1], entry))
        return (direct[0] if direct and not outside else ""), False

    def _below(self, name: str) -> list[str]:
        paths = [os.path.normpath(os.path.join(root, name)) for root in self._roots]
        return [path for path, root in zip(paths, self._roots) if is_below(path, root)]

    def _walk(self, place: str) -> list[str]:
        """The images below a folder; links to folders are followed once, those out of reach are told."""
        found, seen, waiting = [], set(), [place]
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(folder)
            if not self._reach(folder):
                self.outside.append(folder)
            elif real not in seen:
                seen.add(real)
                with os.scandir(folder) as items:
                    for item in items:
                        if item.is_dir():
                            waiting.append(item.path)
                        elif is_image(item.name):
                            reached = not item.is_symlink() or self._reach(item.path)
                            (found if reached else self.outside).append(item.path)
        return found

    def _listed(self, line: str, place: str, finder: ImageFinder) -> str:
        """The image that a line of a list names: from the root, from the list's folder, or by its name alone."""
        name = line.strip()
        for path in (*self._below(name), *self._below(os.path.join(os.path.dirname(place), name))):
            if "\0" not in path and os.path.isfile(path):
                return path
        return finder.find(name)


def _other_names(tail: str) -> list[str]:
    """A path, and the same with other names of its validation split."""
    parts = tail.split("/")
    changed = [
        "/".join([*parts[:i], name, *parts[i + 1 :]]) for i, part in enumerate(parts) for name in split_names(part)
    ]
    return list(dict.fromkeys([tail, *changed]))
