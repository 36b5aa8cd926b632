"""Reading configs: only ever with YAML's safe loader, and with errors that name the file and the key.

Detectron2's ``CfgNode.merge_from_file`` falls back to ``yaml.unsafe_load``, which runs code that a file (or a file
named by its ``_BASE_``) asks for. Configs travel in run folders, so that fallback must not exist here.
"""

import ast
import difflib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg

import fa_detectron
from fa_detectron.errors import UserError
from fa_detectron.plain_yaml import read_plain_yaml

_BASE = "_BASE_"
_SMALLEST_SIZE = 32  # pixels
_MOST_FILES, _MOST_PARENTS = 100, 20  # some lists of bases of lists of bases would never end


def load_config(path: str, overrides: list[str] | tuple[str, ...] = ()) -> CfgNode:
    """Defaults of Detectron2 and FeatureAlign, then the file with its bases, then KEY VALUE overrides.

    Args:
        path: YAML file, or the name of one of the project's configs as :func:`find_config` takes it. ``_BASE_`` (a file
            or a list of files, relative to the file that names them) is followed.
        overrides: ``["KEY", "VALUE", ...]``; values are read as Python literals, else as text.

    Returns:
        The config, not frozen.

    Raises:
        UserError: a missing or broken file, an unknown key, a value of a wrong type.
    """
    from fa_detectron.modeling.config import add_feature_align_config

    cfg = get_cfg()
    add_feature_align_config(cfg)
    for count, (file, content) in enumerate(_read_chain(path, ())):
        if count >= _MOST_FILES:
            raise UserError(f"config file {path}: {_BASE} leads to more than {_MOST_FILES} files")
        version = content.pop("VERSION", cfg.VERSION)
        if version != cfg.VERSION:
            raise UserError(f"{file}: VERSION {version} is not supported; configs have VERSION {cfg.VERSION}")
        _merge_file(cfg, content, file)
    merge_overrides(cfg, overrides)
    return cfg


def find_config(name: str) -> str:
    """The path of a config that is given by its path or by its name.

    Args:
        name: a file, which comes first, or a config of this project: its path in configs/ or its file name, with
            or without ``.yaml``.

    Raises:
        UserError: neither; the message has the names that are near.
    """
    path = os.path.expanduser(name)
    if os.path.exists(path) and not os.path.isdir(path):
        return path
    package = Path(fa_detectron.__file__).resolve().parent
    folder = next((place for place in (package / "configs", package.parent / "configs") if place.is_dir()), package)
    known = {str(file.relative_to(folder).with_suffix("")): str(file) for file in sorted(folder.rglob("*.yaml"))}
    wanted = name.removesuffix(".yaml").removeprefix("configs/")
    found = [file for key, file in known.items() if wanted in (key, os.path.basename(key))]
    if len(found) == 1:
        return found[0]
    stems = [os.path.basename(key) for key in known]
    near = difflib.get_close_matches(os.path.basename(wanted), stems, n=3, cutoff=0.4)
    if len(found) > 1:
        raise UserError(f"config file {name}: this name stands for {' and '.join(found)}; give the path")
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise UserError(f"config file {name}: no such file, and no config of this project has this name{hint}")


def merge_overrides(cfg: CfgNode, overrides: list[str] | tuple[str, ...]) -> None:
    """Merge ``["KEY", "VALUE", ...]`` of the command line into ``cfg``.

    Raises:
        UserError: a key without a value, an unknown key, a value of a wrong type.
    """
    if len(overrides) % 2:
        words = " ".join(map(str, overrides))
        raise UserError(f"KEY VALUE pairs come in twos; here are {len(overrides)} words: {words}")
    for key, value in zip(overrides[0::2], overrides[1::2]):
        if not _has_key(cfg, key):
            raise UserError(f"command line: unknown config key {key}{_suggestion(cfg, key)}")
        try:
            cfg.merge_from_list([key, _fitting(_value(cfg, key), value)])
        except Exception as error:  # values are Python literals, over which its parser raises many types
            raise UserError(f"command line: {key} {value!s:.80}: {error or type(error).__name__}") from None


def set_input_size(cfg: CfgNode, size: int) -> None:
    """Make ``size`` pixels the short side of test images, and scale the other input sizes of a config with it."""
    if size < _SMALLEST_SIZE:
        raise UserError(f"--size {size}: expected {_SMALLEST_SIZE} pixels or more")
    if cfg.INPUT.MIN_SIZE_TEST <= 0:
        raise UserError("--size: INPUT.MIN_SIZE_TEST is 0 (images as they are), so there is nothing to scale")
    factor = size / cfg.INPUT.MIN_SIZE_TEST
    for node, key in (
        (cfg.INPUT, "MIN_SIZE_TRAIN"), (cfg.INPUT, "MAX_SIZE_TRAIN"), (cfg.INPUT, "MIN_SIZE_TEST"),
        (cfg.INPUT, "MAX_SIZE_TEST"), (cfg.TEST.AUG, "MIN_SIZES"), (cfg.TEST.AUG, "MAX_SIZE"),
    ):  # fmt: skip
        value = node[key]
        node[key] = tuple(round(v * factor) for v in value) if isinstance(value, tuple) else round(value * factor)


def given_keys(path: str, overrides: list[str] | tuple[str, ...] = ()) -> set[str]:
    """The keys that a config file with its bases and KEY VALUE overrides set; both as of :func:`load_config`."""
    in_files = {key for _, content in _read_chain(path, ()) for key in _leaf_keys(content)}
    return in_files | set(overrides[0::2])


def flatten(cfg: CfgNode) -> dict[str, Any]:
    """All values by their dotted keys; sequences are tuples."""

    def settled(value: Any) -> Any:
        return tuple(map(settled, value)) if isinstance(value, (list, tuple)) else value

    return {key: settled(_value(cfg, key)) for key in _leaf_keys(cfg)}


def _read_chain(path: str, parents: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file, content without ``_BASE_``), bases first."""
    path = os.path.expanduser(path) if parents else find_config(path)
    if os.path.realpath(path) in map(os.path.realpath, parents):
        raise UserError(f"{path}: {_BASE} leads back to the file itself ({' -> '.join((*parents, path))})")
    if len(parents) > _MOST_PARENTS:
        raise UserError(f"{parents[0]}: more than {_MOST_PARENTS} levels of {_BASE}")
    content = _read_yaml(path, parents)
    bases = content.pop(_BASE, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: {_BASE} must be a file name or a list of them, not {bases!r:.80}")
    for base in bases:
        yield from _read_chain(os.path.join(os.path.dirname(path), os.path.expanduser(base)), (*parents, path))
    yield path, content


def _read_yaml(path: str, parents: tuple[str, ...]) -> dict[str, Any]:
    named_by = f" (named by {_BASE} in {parents[-1]})" if parents else ""
    content = read_plain_yaml(path, f"config file {path}{named_by}")
    if not isinstance(content, dict):
        raise UserError(f"config file {path}{named_by}: expected KEY: VALUE lines, found {type(content).__name__}")
    return content


def _merge_file(cfg: CfgNode, content: dict[str, Any], file: str) -> None:
    for key in _leaf_keys(content):
        if not _has_key(cfg, key):
            raise UserError(f"{file}: unknown config key {key}{_suggestion(cfg, key)}")
        if isinstance(_value(cfg, key), CfgNode) and _value(content, key) != {}:
            raise UserError(f"{file}: {key} is a section of keys, not a value")
    try:
        _fit(content, cfg)
        cfg.merge_from_other_cfg(CfgNode(content))
    except Exception as error:  # texts are read as Python literals, over which its parser raises many types
        raise UserError(f"{file}: {error or type(error).__name__}") from None


def _fit(content: dict[str, Any], cfg: CfgNode) -> None:
    """Give all values of a file the types that their keys want (in place)."""
    for key, value in content.items():
        if isinstance(value, dict) and isinstance(cfg.get(key), CfgNode):
            _fit(value, cfg[key])
        elif key in cfg:
            content[key] = _fitting(cfg[key], value)


def _fitting(current: Any, value: Any) -> Any:
    """``value`` as the type of the key's ``current`` value wants it, where there is no doubt.

    A bare number or name becomes a list of one for a key that holds a list, a whole number a float and 1e3 an int where
    the key holds such, true and false in any case truth values.
    """
    if isinstance(current, bool) and isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    if isinstance(value, str) and not any(sign in value for sign in "()[]{},"):
        with suppress(ValueError, SyntaxError):
            literal = ast.literal_eval(value.strip())
            value = literal if type(literal) in (int, float) else value
    if type(value) is int and type(current) is float:
        return float(value)
    if type(value) is float and type(current) is int and value.is_integer():
        return int(value)
    if isinstance(current, (tuple, list)) and type(value) in (int, float, str) and str(value).strip():
        return value if isinstance(value, str) and any(sign in value for sign in "()[]{},") else [value]
    return value


def _leaf_keys(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from _leaf_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _has_key(cfg: CfgNode, key: str) -> bool:
    try:
        _value(cfg, key)
    except KeyError:
        return False
    return True


def _value(node: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(node, dict):  # CfgNode is a dict
            raise KeyError(key)
        node = node[part]
    return node


def _suggestion(cfg: CfgNode, key: str) -> str:
    near = difflib.get_close_matches(key, list(_leaf_keys(cfg)), n=1)
    return f"; did you mean {near[0]}?" if near else ""
