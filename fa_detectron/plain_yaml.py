"""YAML files that come from elsewhere: read without code, and of bounded size once their aliases are followed."""

from typing import Any

import yaml

from fa_detectron.errors import UserError
from fa_detectron.files import read_bounded

MOST_BYTES = 1 << 20  # the longest config of this project has a hundredth of it
MOST_NODES = 100_000  # a few lines of aliases to aliases could stand for more values than a memory holds


def read_plain_yaml(path: str, name: str = "") -> Any:
    """The content of a YAML file of plain values.

    Args:
        path: the file.
        name: how messages call it; "" is the path.

    Raises:
        UserError: it cannot be read, is too long, or is not plain YAML.
    """
    name = name or path
    data = read_bounded(path, MOST_BYTES, name)
    try:
        return _load(data.decode("utf-8-sig"))
    except RecursionError:
        raise UserError(f"{name} is not plain YAML: nested too deeply") from None
    except Exception as error:  # besides YAMLError, the constructors of single values raise nearly anything
        raise UserError(f"{name} is not plain YAML: {' '.join(str(error).split())}") from None


def _load(text: str) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _count(root, {})
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, aliases followed."""
    if id(node) in known:
        if known[id(node)] == 0:  # being counted
            raise yaml.YAMLError("an alias leads back to its own anchor")
        return known[id(node)]
    known[id(node)] = 0
    count = 1
    if isinstance(node, yaml.SequenceNode):
        count += sum(_count(item, known) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        count += sum(_count(key, known) + _count(value, known) for key, value in node.value)
    if count > MOST_NODES:
        raise yaml.YAMLError(f"its aliases stand for more than {MOST_NODES} values")
    known[id(node)] = count
    return count
