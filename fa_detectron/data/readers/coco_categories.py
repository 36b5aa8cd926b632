"""The classes of a COCO JSON file."""

from collections import Counter, defaultdict
from typing import Any, NamedTuple

from fa_detectron.data.findings import NOTE, Findings
from fa_detectron.data.values import class_name, identity, short
from fa_detectron.errors import UserError

_NO_PARENT = ("none", "None", "null")


class Categories(NamedTuple):
    names: tuple[str, ...]  # of the classes, in the order of their ids
    ids: tuple[int | str, ...] | None  # as in the file (1 for 1.0); None if it has none
    by_key: dict[int | str | None, str]  # identity of a category id: class name; None: boxes without an id

    def named(self, item: dict[str, Any]) -> str | None:
        """The class of an annotation; None if there is none."""
        value = item.get("category_id")
        key = identity(value)
        return None if key is None and value is not None else self.by_key.get(key)


class _Category(NamedTuple):
    key: int | str
    name: str
    own_id: int | str
    parent: str  # its supercategory, "" for none


def read_categories(path: str, content: dict[str, Any], findings: Findings) -> Categories:
    """The classes of a COCO file.

    Ids are compared by value, names in Unicode NFC. A category without boxes that is the supercategory of others is not
    a class (the root of Roboflow's exports). Two categories of one name are one class, unless they have boxes and
    different supercategories. Without categories, the annotations determine the classes.

    Raises:
        UserError: a category has no id or name, or an id has two names.
    """
    counts = Counter(identity(item.get("category_id")) for item in content["annotations"])
    if not content.get("categories"):
        return _without_categories(path, counts, findings)
    categories = _leave_out_roots(path, _parse(path, content["categories"]), counts, findings)
    by_name: dict[str, list[_Category]] = defaultdict(list)
    for category in categories:
        by_name[category.name].append(category)
    chosen, repeated, contrary = [], [], []
    for name, group in by_name.items():
        used = [category for category in group if counts[category.key]]
        chosen.append((used or group)[0])
        if len(group) > 1:
            ids = ", ".join(repr(category.own_id) for category in group)
            parents = {"" if category.parent == name else category.parent for category in used}
            where = contrary if len(parents) > 1 else repeated
            where.append(f"{name!r}: ids {ids}")
    Findings(strict=True).refuse(
        path, "names that categories of different supercategories share", contrary, "Rename all but one of each."
    )
    findings.problem(path, "names that several categories share: taken as one class", repeated)
    by_key: dict[int | str | None, str] = {category.key: category.name for category in categories}
    if len(chosen) == 1 and counts[None]:
        by_key[None] = chosen[0].name
        findings.say(NOTE, path, f"annotations without a category_id are {chosen[0].name!r}, the only class")
    return Categories(tuple(c.name for c in chosen), tuple(c.own_id for c in chosen), by_key)


def _parse(path: str, items: list[dict[str, Any]]) -> list[_Category]:
    """The categories in the order of the ids, without repeated entries."""
    broken, found = [], {}
    for i, item in enumerate(items):
        key = identity(item.get("id"))
        name, parent = class_name(item.get("name")), class_name(item.get("supercategory"))
        if key is None or not name:
            shown = f"id {short(item.get('id'))}, name {short(item.get('name'))}"
            broken.append(f"categories[{i}] needs an id (a whole number or a text) and a name, has {shown}")
        elif key in found and found[key].name != name:
            broken.append(f"categories[{i}] ({short(name)}) has the id {short(item['id'])} of {short(found[key].name)}")
        else:
            own_id = item["id"].strip() if isinstance(item["id"], str) else key
            parent = "" if parent in _NO_PARENT else parent
            found.setdefault(key, _Category(key, name, own_id, parent))
    Findings(strict=True).refuse(path, "bad categories", broken)
    return sorted(found.values(), key=lambda category: (isinstance(category.key, str), category.key))


def _leave_out_roots(
    path: str, categories: list[_Category], counts: Counter[int | str | None], findings: Findings
) -> list[_Category]:
    parents = {category.parent for category in categories}
    # A category that is its own supercategory (COCO's person) is a class.
    roots = [c for c in categories if not counts[c.key] and c.parent != c.name and c.name in parents]
    if len(roots) == len(categories):  # they name each other
        return categories
    shown = [f"{root.name!r} (id {root.own_id!r})" for root in roots]
    findings.note(path, "categories left out: without a box, and only the supercategory of others", shown)
    return [category for category in categories if category not in roots]


def _without_categories(path: str, counts: Counter[int | str | None], findings: Findings) -> Categories:
    keys = sorted((key for key in counts if key is not None), key=lambda key: (isinstance(key, str), key))
    if not counts:
        raise UserError(f"{path}: has neither categories nor annotations, so no class is known")
    if not keys:
        findings.say(NOTE, path, "has no categories: the class of all its boxes is called 'object'")
        return Categories(("object",), None, {None: "object"})
    names = tuple(map(str, keys))
    findings.say(NOTE, path, f"has no categories: its classes are called by their ids, {', '.join(names[:20])}")
    return Categories(names, tuple(keys), dict(zip(keys, names)))
