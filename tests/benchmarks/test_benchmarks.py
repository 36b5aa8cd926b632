"""The benchmarks still run (tiny sizes), compare equal results, and write both tables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fa_detectron.ops import native

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--size", "64", "64", "--repeats", "2")
TINY = ("--images", "1", *SMALL)
ON_CPU = ("--device", "cpu", "--classes", "3", "--batches", "1", *SMALL)
COMMANDS = {
    "training_step.py": ((*TINY, "--boxes", "2"), "native is x torchvision + eager"),
    "gpu.py deform": ((*ON_CPU, "--spreads", "2"), "native is x torchvision"),
    "gpu.py chunks": (ON_CPU, "backward ms"),
    "gpu.py ceilings": (ON_CPU, "ms"),
    "gpu.py loss": ((*ON_CPU, "--boxes", "0", "7"), "native is x eager"),
    "gpu.py decode": (ON_CPU, "native is x eager"),
}


@pytest.mark.skipif(not native.loaded(), reason="the native operators are not built")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_benchmark_runs_and_writes_its_tables(command: str, tmp_path: Path) -> None:
    options, column = COMMANDS[command]
    name, *words = command.split()
    run = subprocess.run(
        [sys.executable, f"benchmarks/{name}", *words, *options, "--json", tmp_path / "table.json"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert f"| {column} |" in run.stdout
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert all(row[column] == "-" or row[column]["median"] > 0 for row in rows)
    assert any(row[column] != "-" for row in rows)
