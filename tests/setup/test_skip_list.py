"""The comparison of skipped tests with the checked-in list."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import skip_list

ENTRIES = skip_list.read("# comment\nno-cuda tests/a.py::test_gpu needs a CUDA device*\n")


def test_listed_skip_is_fine():
    skipped = {("tests/a.py::test_gpu", "needs a CUDA device (sm_90)")}
    assert skip_list.compare(ENTRIES, {"tests/a.py::test_gpu"}, skipped, whole_suite=True) == []


def test_unlisted_test_and_other_reason_are_problems():
    skipped = {("tests/a.py::test_gpu", "broken"), ("tests/b.py::test_x", "needs a CUDA device")}
    problems = skip_list.compare(ENTRIES, {test for test, _ in skipped}, skipped, whole_suite=False)
    assert len(problems) == 2 and all(problem.startswith("skipped, but not listed") for problem in problems)


def test_stale_entries_are_problems():
    assert "not skipped" in skip_list.compare(ENTRIES, {"tests/a.py::test_gpu"}, set(), whole_suite=False)[0]
    assert "no such test" in skip_list.compare(ENTRIES, {"tests/b.py::test_x"}, set(), whole_suite=True)[0]
    assert skip_list.compare(ENTRIES, {"tests/b.py::test_x"}, set(), whole_suite=False) == []


def test_an_entry_can_stand_for_a_file():
    entries = skip_list.read("no-native tests/a.py::* not built")
    one, other = "tests/a.py::test_x", "tests/a.py::test_y"
    assert skip_list.compare(entries, {one, other}, {(one, "not built"), (other, "not built")}, whole_suite=True) == []
    assert skip_list.compare(entries, {one, other}, {(one, "not built")}, whole_suite=False) == [
        f"listed, but not skipped here: {other}"
    ]
    assert "no such test" in skip_list.compare(entries, {"tests/b.py::test_x"}, set(), whole_suite=True)[0]


@pytest.mark.parametrize("line", ["no-cuda tests/a.py::test_gpu", "no-luck tests/a.py::test_gpu reason"])
def test_bad_lines_are_refused(line):
    with pytest.raises(ValueError, match="line 1"):
        skip_list.read(line)


@pytest.mark.parametrize(("ci", "jobs", "status"), [("true", "2", 1), ("", "0", 0)])
def test_run_with_an_unlisted_skip_fails_in_ci(tmp_path, ci, jobs, status):
    root = Path(__file__).resolve().parents[2]
    (tmp_path / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(root)!r})\nfrom tests.conftest import *\n"
    )
    (tmp_path / "test_it.py").write_text("import pytest\ndef test_a(): pytest.skip('no luck')\ndef test_b(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", jobs, "-p", "no:cacheprovider", str(tmp_path)]
    command += ["--rootdir", str(tmp_path), "--override-ini", "addopts="]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    result = subprocess.run(command, capture_output=True, text=True, env=environment | {"CI": ci}, cwd=tmp_path)
    assert result.returncode == status, result.stdout + result.stderr
    assert ("skipped, but not listed: CONDITION test_it.py::test_a no luck" in result.stdout) == (ci == "true")
    assert "1 passed, 1 skipped" in result.stdout.splitlines()[-1]
