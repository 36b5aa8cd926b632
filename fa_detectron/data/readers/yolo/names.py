"""The class names of a YOLO set."""

import os
from typing import Any

from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.readers.files import read_text
from fa_detectron.data.sources.source import AnyCase, is_inside
from fa_detectron.data.values import class_name
from fa_detectron.errors import UserError

NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")  # LabelImg's and Label Studio's, CVAT's, Roboflow's
_MOST_CLASSES = 100_000


def described_names(path: str, content: dict[str, Any], root: str, findings: Findings) -> dict[int, str]:
    """The names of a data.yaml (or obj.data): a list, a map from numbers, or a file with one name per line.

    If it has none, those of a file beside it; else the numbers up to ``nc``, the number of classes.

    Returns:
        Name by class number, in the order of the numbers.
    """
    names, count = content.get("names"), _count(path, content.get("nc"))
    if isinstance(names, str):
        return _checked(path, dict(enumerate(_lines(_name_file(path, names, root)))), count)
    if isinstance(names, list):
        names = dict(enumerate(names))
    if names is None or names == []:
        found = names_beside([os.path.dirname(path), root])
        if found or count is None:
            return found
        findings.say(NOTE, path, f"no 'names', so the {count} classes of 'nc' are called by their numbers")
        names = {number: str(number) for number in range(count)}
    if not isinstance(names, dict) or not names:
        raise UserError(f"{path}: 'names' must be a list, a map from numbers or a file's name, is {names!r:.80}")
    return _checked(path, names, count)


def names_beside(folders: list[str]) -> dict[int, str]:
    """The names of the files that tools write beside labels; {} if there is no such file.

    Raises:
        UserError: two of them differ.
    """
    paths = [os.path.join(folder, name) for folder in dict.fromkeys(folders) for name in NAME_FILES]
    there = dict.fromkeys(filter(os.path.isfile, map(AnyCase().find, paths)))
    found = {path: _checked(path, dict(enumerate(_lines(path))), None) for path in there}
    for path, names in found.items():
        first = next(iter(found))
        if names != found[first]:
            raise UserError(f"{first} and {path} differ: keep the one that has the class names of this set")
    return next(iter(found.values()), {})


def _lines(path: str) -> list[str]:
    return [line.strip() for line in read_text(path).rstrip().splitlines()]


def _name_file(path: str, name: str, root: str) -> str:
    """The file of names; Darknet's and CVAT's exports say "data/obj.names" for a file in their own folder."""
    parts = name.replace("\\", "/").split("/")
    below = [tail for tail in ("/".join(parts[start:]) for start in range(len(parts))) if is_inside(tail)]
    for tail in below:
        for folder in (os.path.dirname(path), root):
            if os.path.isfile(os.path.join(folder, tail)):
                return os.path.join(folder, tail)
    raise UserError(
        f"{path}: 'names' must be a list, a map from numbers or a file's name; there is no file {name!r:.80}"
    )


def _count(path: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        count = int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else 0
    except ValueError:
        count = 0
    if not 0 < count <= _MOST_CLASSES:
        raise UserError(f"{path}: 'nc' must be the number of classes, is {value!r:.20}")
    return count


def _checked(path: str, names: dict[Any, Any], count: int | None) -> dict[int, str]:
    broken, known = [], {}
    for key, name in names.items():
        number = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10 else key
        text = class_name(name)
        if type(number) is not int or number < 0:
            broken.append(f"the class number {key!r:.40} is invalid")
        elif not text:
            broken.append(
                f"class {number}: {name!r:.80} is not a name (YAML reads a bare yes or no as a truth value: quote it)"
            )
        elif number in known:
            broken.append(f"class {number} is there twice")
        elif text in known.values():
            broken.append(f"class {number} repeats the name {text!r:.80}")
        else:
            known[number] = text
    Findings(strict=True).refuse(path, "bad class names", broken)
    if count is not None and count != len(known):
        raise UserError(f"{path}: 'nc' is {count}, but there are {len(known)} names")
    return dict(sorted(known.items()))
