"""benchmarks/gpu.sh without a GPU: its plan, and rehearsals in which stand-ins play the programs that need one."""

import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = {"a": 420, "b": 280}
# Plays the interpreter on a machine with a GPU; $FAILS and $SLEEPS are words of commands that do so.
PYTHON = """#!/bin/bash
case "$*" in *get_device_capability*) echo 9.0; exit ;; esac
case "$*" in *"${SLEEPS:-nothing}"*) echo "| a | row |"; sleep 60 ;; esac
case "$*" in *"${FAILS:-nothing}"*) exit 1 ;; esac
case "$*" in *gpu.py*) echo "| column |"; echo "|---|"; echo "| $2 |" ;; *gpu_training*) exit 3 ;; esac
echo "$TORCH_CUDA_ARCH_LIST: $*"
"""
TOOL = """#!/bin/bash
while [ "${1##*/}" != python ]; do shift; done
exec "$@"
"""


def gpu(folder: Path, *words: str, with_tools: bool = True, **variables: str) -> subprocess.CompletedProcess:
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for name, text in ({"python": PYTHON} | ({"ncu": TOOL, "compute-sanitizer": TOOL} if with_tools else {})).items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    environment = os.environ | {"PYTHON": str(tools / "python"), "OUT": str(folder / "out")} | variables
    environment["PATH"] = f"{tools}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", ROOT / "benchmarks/gpu.sh", *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("call", SECONDS)
def test_the_plan_fits_into_the_calls_time_and_runs_nothing(call: str, tmp_path: Path) -> None:
    run = gpu(tmp_path, call, "--plan")
    *stages, total = run.stdout.splitlines()
    limits = [int(re.match(r" *(\d+) s  [a-z]+ +\S", stage)[1]) for stage in stages]
    assert run.returncode == 0 and len(limits) >= 6
    assert sum(limits) <= SECONDS[call] and total == f"{sum(limits)} s in all"
    assert not (tmp_path / "out").exists()


def test_the_profile_asks_for_all_kernels_of_the_deformable_convolution() -> None:
    asked = re.search(r"^ours='regex:(.+)'$", (ROOT / "benchmarks/gpu.sh").read_text(), re.MULTILINE)[1]
    sources = "".join(path.read_text() for path in ROOT.glob("csrc/deform_conv/cuda/*.cu"))
    kernels = set(re.findall(r"__global__[^;{]*?\b(\w+_kernel)\(", sources))
    assert len(kernels) >= 8 and all(re.search(asked, kernel) for kernel in kernels)


@pytest.mark.parametrize("words", [(), ("c",), ("a", "--dry")])
def test_another_call_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    run = gpu(tmp_path, *words)
    assert run.returncode == 2 and "usage" in run.stderr


@pytest.mark.parametrize("call", SECONDS)
def test_a_call_leaves_one_archive_with_tables_logs_and_a_summary(call: str, tmp_path: Path) -> None:
    run = gpu(tmp_path, call)
    assert run.returncode == 0, run.stdout
    with tarfile.open(tmp_path / f"out/gpu-{call}.tar.gz") as archive:
        names = archive.getnames()
        summary = archive.extractfile(f"{call}/summary.txt").read().decode()
    planned = {line.split()[2] for line in gpu(tmp_path, call, "--plan").stdout.splitlines()[:-1]}
    assert {f"{call}/{name}.log" for name in planned} <= set(names) and f"{call}/tables.md" in names
    assert {line.split()[1].rstrip(":") for line in summary.splitlines()} == planned
    build = (tmp_path / f"out/{call}/build.log").read_text()
    assert build.startswith("9.0: csrc/build.py")  # for this GPU alone
    if call == "a":
        assert "| deform |" in (tmp_path / "out/a/tables.md").read_text()
    else:
        assert "skipped  training" in summary and "gpu_kernels.py" in (tmp_path / "out/b/racecheck.log").read_text()


def test_what_is_missing_is_said_and_skipped(tmp_path: Path) -> None:
    run = gpu(tmp_path, "b", with_tools=False)
    assert run.returncode == 0
    assert "skipped  profile: no ncu on PATH" in run.stdout
    assert "skipped  memcheck: no compute-sanitizer on PATH" in run.stdout


def test_a_stage_that_fails_or_takes_too_long_stops_no_other(tmp_path: Path) -> None:
    run = gpu(tmp_path, "a", FAILS="gpu.py loss", SLEEPS="gpu.py decode")
    assert run.returncode == 1
    assert "FAILED   loss: status 1" in run.stdout and "TIMEOUT  decode: after 15 s" in run.stdout
    assert "ok       chunks" in run.stdout
    assert "| a | row |" in (tmp_path / "out/a/tables.md").read_text()  # what it had written
    assert (tmp_path / "out/gpu-a.tar.gz").exists()
