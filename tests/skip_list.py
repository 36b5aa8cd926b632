"""The tests that may be skipped, where, and why: tests/skips.txt. With CI=true every other skip is a failure."""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tests.shared import SHARED

FILE = Path(__file__).with_name("skips.txt")


def _no_cuda() -> bool:
    import torch

    return not torch.cuda.is_available()


def _four_gpus() -> bool:
    import torch

    return torch.cuda.device_count() >= 4


def _no_native() -> bool:
    from fa_detectron.ops import native

    return not native.loaded()


def _no_cuda_operators() -> bool:
    from fa_detectron.ops import native

    return not _no_cuda() and not native.status().cuda_version


def _no_cuda_build() -> bool:
    import importlib.util

    from fa_detectron.ops import native

    return not native.status().cuda_version or importlib.util.find_spec("triton") is None


def _no_objdump() -> bool:
    return not _no_native() and shutil.which("objdump") is None


def _no_compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "c++")) is None


# What a machine can lack or have. A skip for any other reason is a defect.
CONDITIONS: dict[str, Callable[[], bool]] = {
    "no-cuda": _no_cuda,
    "no-shared": lambda: not SHARED.is_dir(),
    "four-gpus": _four_gpus,
    "no-native": _no_native,
    "no-cuda-operators": _no_cuda_operators,
    "no-cuda-build": _no_cuda_build,
    "no-objdump": _no_objdump,
    "no-compiler": _no_compiler,
}


@dataclass(frozen=True)
class Entry:
    """One line of the list. ``test``: a node id without parameters, or ``FILE::*`` where a whole file is skipped."""

    condition: str
    test: str
    reason: str


def read(text: str) -> list[Entry]:
    """Parse the list: condition, test and reason, separated by white space; # starts a comment line."""
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            parts = line.split(maxsplit=2)
            if len(parts) != 3 or parts[0] not in CONDITIONS:
                known = ", ".join(CONDITIONS)
                raise ValueError(f"{FILE.name}, line {number}: needs CONDITION TEST REASON, a condition being {known}")
            entries.append(Entry(*parts))
    return entries


def compare(entries: Iterable[Entry], seen: set[str], skipped: set[tuple[str, str]], whole_suite: bool) -> list[str]:
    """Where the list and a run disagree, in words.

    Args:
        entries: the list, without the entries whose condition does not hold on this machine.
        seen: node ids without parameters of all tests of the run.
        skipped: (node id without parameters, reason) of those that were skipped.
        whole_suite: whether tests that the run did not see no longer exist.
    """
    entries = list(entries)
    problems = []
    for test, reason in sorted(skipped):
        if not any(fnmatchcase(test, entry.test) and fnmatchcase(reason, entry.reason) for entry in entries):
            problems.append(f"skipped, but not listed: CONDITION {test} {reason}")
    skipped_tests = {test for test, _ in skipped}
    for entry in entries:
        named = {test for test in seen | skipped_tests if fnmatchcase(test, entry.test)}
        problems += [f"listed, but not skipped here: {test}" for test in sorted(named - skipped_tests)]
        if whole_suite and not named:
            problems.append(f"listed, but there is no such test: {entry.test}")
    return problems
