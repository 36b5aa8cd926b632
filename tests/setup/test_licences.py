"""Everything the project brings along is under a licence that lets it be used anywhere; no GPL, no AGPL."""

import importlib.metadata
import os
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tools import check_licences as licences


@pytest.fixture
def package(tmp_path: Path):
    """package(name, *metadata lines): an installed distribution of that name, as Python sees it."""

    def make(name: str, *lines: str) -> importlib.metadata.Distribution:
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1", *lines, ""])
        )
        return importlib.metadata.Distribution.at(folder)

    return make


def test_all_that_is_required_here_is_permissive():
    found = licences.required(licences.roots(), licences.installed)
    assert {"torch", "numpy", "pyyaml", "pytest"} <= set(found)  # the last but one only comes with others
    assert {name: licences.problem(found[name]) for name in found if licences.problem(found[name])} == {}
    if os.environ.get("CI") == "true":  # there an extra that is absent would be one that nobody looks at
        direct = {licences.canonicalize_name(Requirement(line).name) for line in licences.roots() if "==" not in line}
        assert direct <= set(found)


@pytest.mark.parametrize(
    "lines",
    [
        ("License-Expression: MIT",),
        ("License-Expression: GPL-3.0-only OR MIT",),
        ("License-Expression: (BSD-3-Clause AND 0BSD)",),
        ("License-Expression: MPL-2.0 AND MIT", "License: GPL"),  # the expression alone counts
        ("License: Apache 2.0",),
        ("Classifier: License :: OSI Approved", "Classifier: License :: OSI Approved :: BSD License"),
        ("License: The long licence text", "        of the BSD.", "Classifier: License :: OSI Approved :: BSD License"),
    ],
)
def test_permissive_licences_pass(package, lines):
    assert licences.problem(package("something", *lines)) == ""


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("License-Expression: AGPL-3.0-or-later",), "AGPL-3.0-or-later: copyleft"),
        (("License-Expression: MIT AND GPL-2.0-only",), "copyleft"),
        (("License-Expression: (MIT OR GPL-2.0-only) AND MIT",), "copyleft"),
        (("License: LGPLv2+",), "copyleft"),
        (("License: MIT", "Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)"), "copyleft"),
        (("License: GNU GENERAL PUBLIC LICENSE", "        Version 3"), "copyleft"),
        (("License: UNKNOWN",), "no licence in its metadata"),
        ((), "no licence in its metadata"),
        (("License: Do what is right",), "Do what is right: not known as permissive"),
    ],
)
def test_copyleft_and_unknown_licences_are_named(package, lines, words):
    assert words in licences.problem(package("something", *lines))


def test_what_was_read_by_hand_passes(package):
    assert licences.problem(package("nvidia-anything")) == ""
    assert licences.problem(package("iopath-fork")) != ""


def test_requirements_are_followed_with_their_extras(package):
    here = {
        "a": package("a", "Requires-Dist: B_B[fast]>=1", "Requires-Dist: absent", "Requires-Dist: c; extra == 'more'"),
        "b-b": package("b-b", "Requires-Dist: d; extra == 'fast'", "Requires-Dist: e; python_version < '3'"),
        **{name: package(name, "Requires-Dist: a") for name in "cde"},
    }
    assert set(licences.required(["a>=1"], here.get)) == {"a", "b-b", "d"}
    assert set(licences.required(["a[more]"], here.get)) == {"a", "b-b", "c", "d"}


def test_one_bad_package_fails_the_command(package, monkeypatch, capsys):
    here = {"good": package("good", "License: MIT", "Requires-Dist: bad"), "bad": package("bad", "License: GPLv3")}
    monkeypatch.setattr(licences, "roots", lambda: ["good"])
    monkeypatch.setattr(licences, "installed", here.get)
    assert licences.main() == 1
    assert "WRONG bad" in capsys.readouterr().out
    monkeypatch.setattr(licences, "roots", lambda: ["torch"])
    monkeypatch.setattr(licences, "installed", {"torch": package("torch", "License: BSD")}.get)
    assert licences.main() == 0
