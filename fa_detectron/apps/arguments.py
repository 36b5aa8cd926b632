"""The command-line arguments that verbs share. Config overrides, KEY VALUE, may stand anywhere on the line."""

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from detectron2.config import get_cfg

from fa_detectron.errors import UserError
from fa_detectron.inference import Run, load_model, load_run

_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)*")


class CommandParser(argparse.ArgumentParser):
    """A parser of options and KEY VALUE pairs. Wrong arguments raise UserError.

    ``opts`` of the result has all config overrides, ["KEY", "VALUE", ...]: first those of options that set a key (see
    :class:`SetKey`), then the pairs, which therefore win.
    """

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, allow_abbrev=False, formatter_class=layout)
        self.set_defaults(option_keys=())

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        if not any(action.dest == "opts" for action in self._actions):  # here, because it must be the last positional
            text = "config keys and their values, for example INPUT.MIN_SIZE_TEST 512; they override the config"
            self.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help=text)
        words, pairs = self._split(sys.argv[1:] if args is None else args)
        if "--opts" in words:
            self.error("--opts does not exist any more; write KEY VALUE without it")
        found = self.parse_intermixed_args(words, namespace)
        found.opts = [*found.option_keys, *pairs, *found.opts]
        return found

    def _split(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Separate the pairs, so that an option with a list of values does not swallow them."""
        config = get_cfg()
        others, pairs, rest = [], [], iter(words)
        for word in rest:
            section, dot, _ = word.partition(".")
            if _KEY.fullmatch(word) and section in config and bool(dot) == isinstance(config[section], dict):
                value = next(rest, "--")
                if value.startswith("--"):
                    self.error(f"config key {word}: its value is missing")
                pairs += [word, value]
            else:
                others.append(word)
        return others, pairs

    def error(self, message: str) -> None:
        raise UserError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")


class SetKey(argparse.Action):
    """An option that sets exactly one config key and says so in its help.

    Args:
        key: the config key.
        value: for an option without an argument, the key's value.
        convert: for one with an argument, the function from its text to the key's value; raises ValueError.
    """

    def __init__(self, option_strings, dest, help, key, value=None, convert: Callable[[str], Any] = str, **options):
        self._key, self._value, self._convert = key, value, convert
        options["nargs"] = None if value is None else 0
        sets = key if value is None else f"{key} {value}"
        super().__init__(option_strings, argparse.SUPPRESS, help=f"{help} (sets {sets})", **options)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        try:
            value = self._convert(values) if self._value is None else self._value
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        namespace.option_keys = (*namespace.option_keys, self._key, str(value))


def positive(text: str) -> float:
    """A finite number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise ValueError(f"expected a number above 0, not {text}")
    return number


def names(text: str) -> tuple[str, ...]:
    """``A,B`` as ("A", "B")."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def add_model_arguments(
    parser: argparse.ArgumentParser, several: bool = False, devices: str = "cpu, cuda or cuda:N"
) -> None:
    """--run or --config-file, --weights, --device: which model works, and on what; see :func:`load`."""
    source = parser.add_mutually_exclusive_group(required=True)
    text = "a run's folder (OUTPUT_DIR of the training): its config and its weights"
    if several:
        source.add_argument("--run", action="append", metavar="RUN", help=f"{text}; repeat it to compare runs")
    else:
        source.add_argument("--run", metavar="RUN", help=text)
    text = "instead of a run, a config file or the name of one in configs/; give --weights with it"
    source.add_argument("--config-file", metavar="FILE", help=text)
    text = "a checkpoint; default: the run's final one, else its best, else its last"
    parser.add_argument("--weights", action=SetKey, key="MODEL.WEIGHTS", metavar="FILE", help=text)
    add_device_argument(parser, devices)


def add_device_argument(parser: argparse.ArgumentParser, devices: str) -> None:
    text = f"{devices}; default: a GPU where there is one"
    parser.add_argument("--device", action=SetKey, key="MODEL.DEVICE", metavar="DEVICE", help=text)


def load(args: argparse.Namespace, run: str | None = None, random_weights: bool = False) -> Run:
    """The model that the arguments of :func:`add_model_arguments` name.

    Args:
        run: the folder, of several; None: ``args.run``.
        random_weights: whether a config without --weights is accepted.

    Raises:
        UserError: no such run or file, --config-file without --weights, or weights of another model.
    """
    folder = run or args.run
    if folder:
        return load_run(folder, overrides=args.opts)
    if not random_weights:
        require_weights(args)
    return load_model(args.config_file, overrides=args.opts)


def require_weights(args: argparse.Namespace) -> None:
    """Without them, a config's MODEL.WEIGHTS would be taken: what a training starts from.

    Raises:
        UserError: --config-file without --weights.
    """
    if not args.run and "MODEL.WEIGHTS" not in args.opts:
        raise UserError("--config-file: --weights FILE is missing; or give --run RUN, which has both")


def add_data_arguments(parser: argparse.ArgumentParser, use: str) -> None:
    """--data and --images: annotated images in place of the run's own test set.

    Args:
        use: what --data is for, at the beginning of its help.
    """
    text = f"{use}: a file or folder of annotations, PATH:SPLIT for one split (docs/data.md)"
    parser.add_argument("--data", default="", metavar="PATH", help=text)
    parser.add_argument("--images", default="", metavar="FOLDER", help="the images of --data, if not beside it")


def add_reading_arguments(group: argparse._ActionsContainer) -> None:
    """How annotated data is read: for training, evaluation and check-data alike."""
    text = "use these classes of the set alone"
    group.add_argument("--classes", action=SetKey, key="DATASETS.KEEP_CLASSES", convert=names, metavar="A,B", help=text)
    text = "treat all classes as one"
    group.add_argument("--single-class", action=SetKey, key="DATASETS.SINGLE_CLASS", value=True, help=text)
    group.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="short side of the images (sets INPUT.MIN_SIZE_TEST, and in proportion INPUT.MIN_SIZE_TRAIN, "
        "MAX_SIZE_TRAIN, MAX_SIZE_TEST and the sizes of TEST.AUG)",
    )
    text, key = "leave out images that do not exist, instead of stopping", "DATASETS.SKIP_MISSING_IMAGES"
    group.add_argument("--skip-missing-images", action=SetKey, key=key, value=True, help=text)
    text, ways = "unusable boxes: stop (default), clip those that leave their image, or skip", ("stop", "clip", "skip")
    group.add_argument("--bad-boxes", action=SetKey, key="DATASETS.BAD_BOXES", choices=ways, help=text)
    text = "read files that symbolic links take out of the set's folder"
    group.add_argument("--follow-links", action=SetKey, key="DATASETS.FOLLOW_LINKS", value=True, help=text)


def add_tta_argument(parser: argparse.ArgumentParser) -> None:
    text = "test-time augmentation: several scales, mirrored too, as TEST.AUG says"
    parser.add_argument("--tta", action=SetKey, key="TEST.AUG.ENABLED", value=True, help=text)
