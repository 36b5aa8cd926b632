"""With CI=true a missing native library or compiler ends the tests instead of skipping them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRESENT, ABSENT = (f"from fa_detectron.ops import native\nnative.loaded = lambda: {value}\n" for value in (True, False))


@pytest.mark.parametrize(
    ("library", "variables", "message"),
    [
        (PRESENT, {"CI": "true", "CXX": "python3"}, ""),
        (ABSENT, {"CI": "true"}, "the native operators must be built"),
        (PRESENT, {"CI": "true", "CXX": "no-such-compiler"}, "a C++ compiler must be there"),
        (ABSENT, {"CI": "true", "FA_NO_NATIVE": "1", "CXX": "no-such-compiler"}, ""),
        (ABSENT, {"CI": "", "CXX": "no-such-compiler"}, ""),
    ],
    ids=["complete", "no library", "no compiler", "plain PyTorch wanted", "not CI"],
)
def test_the_run_ends(tmp_path, library, variables, message):
    (tmp_path / "conftest.py").write_text(f"{library}from tests.conftest import *\n")
    (tmp_path / "test_it.py").write_text("import pytest\ndef test_a(): pytest.skip('no luck')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    command += ["--rootdir", str(tmp_path), "--override-ini", "addopts="]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "FA_"))}
    environment |= {"PYTHONPATH": str(ROOT)} | variables
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert result.returncode == (1 if message else 0), result.stdout + result.stderr
    assert message in result.stdout + result.stderr
    assert ("1 skipped" in result.stdout) == (not message)
