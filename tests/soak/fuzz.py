"""Fuzz each target for SOAK_SECONDS (600): its tests run again and again, with other examples every time.

What fails ends its target; output/soak then has its log and the example that ran last (for what ended the process).
Hypothesis remembers failing examples in .hypothesis and tries them first next time.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / "output" / "soak"
TARGETS = {
    "coco": "test_data.py::test_coco",
    "voc": "test_data.py::test_voc",
    "yolo": "test_data.py::test_yolo",
    "images": "test_images.py",
    "config": "test_config.py",
    "checkpoint": "test_checkpoint.py",
    "ops": "test_ops.py",
}
SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
EXAMPLES = 1500  # of a test in one round: some dozen seconds
ROUND_LIMIT = 1800  # seconds; an example of its own is ended after 60


@pytest.mark.parametrize("target", TARGETS)
def test_fuzz(target):
    LOGS.mkdir(parents=True, exist_ok=True)
    log, case = LOGS / f"{target}.log", LOGS / f"{target}.case"
    environment = dict(os.environ, FA_FUZZ_EXAMPLES=str(EXAMPLES), FA_FUZZ_CASE=str(case), OMP_NUM_THREADS="1")
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]  # they would make the rounds workers of this run
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:xdist",
        "--timeout",
        "0",
        f"tests/fuzz/{TARGETS[target]}",
    ]
    start, rounds = time.monotonic(), 0
    with open(log, "w", encoding="utf-8") as stream:
        while time.monotonic() - start < SECONDS:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, timeout=ROUND_LIMIT
            )
            rounds += 1
            if done.returncode:
                end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-60:])
                pytest.fail(f"round {rounds} of {target}; all of it: {log}, the last example: {case}\n{end}")
    print(f"{target}: {rounds} rounds, {time.monotonic() - start:.0f} s")
