#!/usr/bin/env python3
"""Install everything that the project needs into one Python environment; a second run takes seconds.

    python tools/setup_environment.py --venv .venv     own environment, exact versions of constraints.txt
    python tools/setup_environment.py                  the environment of this interpreter, which keeps its torch

`make setup` runs this. Steps: packages, Detectron2, the project itself with its native operators. At the end a stamp
records the inputs; while they are unchanged, the next run ends at once. It uses the standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 11), (3, 12))
PACKAGES = ["setuptools>=77", "wheel", "ninja", "torch", "torchvision", "numpy"]
# What the result depends on, besides the tables [project] and [build-system] of pyproject.toml.
INPUTS = ["constraints.txt", "setup.py", "tools/*.py", "tools/*.cfg", "csrc/**/*.*", "fa_detectron/ops/schemas.py"]
NEEDED_GB = 8.5  # a new environment (5.3), and the downloads beside what they unpack to while it is made
BUILD_VARIABLES = ["DETECTRON2", "FA_CUDA", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST", "CXX"]

# Run by the environment's interpreter: lists what an installation into somebody's own environment must not change.
LIST_INSTALLED = """
import importlib.metadata as m, json
print(json.dumps({d.metadata["Name"]: d.version for d in m.distributions() if d.metadata["Name"]}))
"""
# pip writes INSTALLER last: a package without it was interrupted. Without its record pip installs it again.
REPAIR = """
import pathlib, shutil, sysconfig
site = pathlib.Path(sysconfig.get_path("purelib"))
broken = [p for p in site.glob("*.dist-info") if not (p / "INSTALLER").exists()] + list(site.glob("~*"))
for path in broken:
    print("removing what an interrupted installation left:", path.name)
    shutil.rmtree(path, ignore_errors=True)
"""
# Imports everything once; exit status 3: all works, but without the native operators.
CHECK = """
import sys, torch, torchvision, detectron2, fa_detectron
from fa_detectron.ops import native
status = native.status()
print(f"ready: Python {sys.version.split()[0]}, torch {torch.__version__}, torchvision {torchvision.__version__}")
if not status.loaded:
    print(f"note: the operators run in plain PyTorch, slower: {status.reason}")
    sys.exit(3)
"""


class SetupError(Exception):
    """What went wrong and what to do about it, for the user."""


def compiler() -> str | None:
    """Path of the C++ compiler, None where there is none."""
    return shutil.which((os.environ.get("CXX", "").split() or ["c++"])[0])


def fingerprint(python: Path) -> str:
    """Hash of everything the result depends on: requirements, sources, interpreter, folder, compiler, variables."""
    variables = [os.environ.get(name, "") for name in BUILD_VARIABLES]
    digest = hashlib.sha256(f"{ROOT}|{python}|{compiler()}|{variables}".encode())
    import tomllib  # since Python 3.11; older versions were rejected before

    described = tomllib.loads((ROOT / "pyproject.toml").read_text())
    digest.update(json.dumps([described["project"], described["build-system"]], sort_keys=True).encode())
    for path in (path for pattern in INPUTS for path in sorted(ROOT.glob(pattern)) if path.suffix != ".pyc"):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def check_version(version: tuple[int, int], who: str) -> None:
    """Raise SetupError unless this is a Python that the project is tested with."""
    if version not in PYTHONS:
        wanted = " or ".join(".".join(map(str, known)) for known in PYTHONS)
        raise SetupError(
            f"{who} is Python {version[0]}.{version[1]}, but the project needs {wanted} (PYTHON=... chooses)"
        )


def check_room(folder: Path) -> None:
    """Raise SetupError if the disk is too full: pip would fail half-way with a message about a single file."""
    free = shutil.disk_usage(folder).free / 1e9
    if free < NEEDED_GB:
        raise SetupError(
            f"{folder} has {free:.1f} GB free, a new environment needs {NEEDED_GB} GB while it is made: make room, or "
            "choose another place with VENV=FOLDER"
        )


def run(*command: object) -> None:
    """Run a step in the repository's root; its output is shown."""
    if subprocess.run([str(part) for part in command], cwd=ROOT).returncode:
        raise SetupError("this step failed, its messages are above: " + " ".join(str(part) for part in command))


def create(venv: Path) -> Path:
    """The environment's interpreter; makes the environment if it is missing or broken."""
    python = venv / "bin/python"
    works = [str(python), "-c", "import sys, pip; print(*sys.version_info[:2])"]
    found = subprocess.run(works, capture_output=True, text=True) if python.exists() else None
    if found is not None and found.returncode == 0:
        check_version(tuple(map(int, found.stdout.split())), f"{venv} (delete it to make a new one)")
        return python
    check_version(sys.version_info[:2], sys.executable)
    check_room(next(folder for folder in venv.absolute().parents if folder.exists()))
    print(f"making {venv} with Python {sys.version_info[0]}.{sys.version_info[1]}", flush=True)
    if subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)]).returncode:
        raise SetupError(f"{sys.executable} -m venv failed (Debian, Ubuntu: apt-get install python3-venv)")
    return python


def own_constraints(python: Path, folder: Path) -> Path:
    """Constraints for somebody's own environment: installed packages stay, new ones get the tested versions."""
    listed = subprocess.run([python, "-c", LIST_INSTALLED], capture_output=True, text=True, check=True).stdout
    installed = {name.lower().replace("_", "-"): version for name, version in json.loads(listed).items()}
    lines = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name = line.partition("==")[0].lower().replace("_", "-")
        if "==" in line and name not in ("torch", "torchvision") and name not in installed:
            lines.append(line)
    lines += [f"{name}=={installed[name]}" for name in ("torch", "torchvision") if name in installed]
    target = folder / "constraints.txt"
    target.write_text("\n".join(lines) + "\n")
    return target


def install(python: Path, constraints: Path, packages: list[str]) -> None:
    """The three steps. Each one skips what an earlier, interrupted run has done."""
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--constraint", constraints]
    print(f"step 1 of 3: {', '.join(packages)}", flush=True)
    run(*pip, *packages)
    print("step 2 of 3: Detectron2", flush=True)
    run(python, ROOT / "tools/install_detectron2.py", "--constraint", constraints)
    work = "compiling its native operators takes minutes" if compiler() else "without a C++ compiler: in plain PyTorch"
    print(f"step 3 of 3: fa_detectron; {work}", flush=True)
    run(*pip, "--quiet", "--no-build-isolation", "--editable", ".[all]")


def native_works(python: Path) -> bool:
    """Import everything in the environment. False if only the native operators are missing."""
    environment = {name: value for name, value in os.environ.items() if name != "FA_NO_NATIVE"}
    status = subprocess.run([python, "-c", CHECK], env=environment, cwd=tempfile.gettempdir()).returncode
    if status not in (0, 3):
        raise SetupError(f"the environment of {python} does not work, see above")
    if status and os.environ.get("CI") == "true":
        raise SetupError("with CI=true the native operators must work")
    return status == 0


def set_up(venv: Path | None) -> None:
    """Install what is missing, then write the stamp: the inputs' hash, and whether the native operators work."""
    if venv is None:
        check_version(sys.version_info[:2], sys.executable)
    python = create(venv.absolute()) if venv else Path(sys.executable)
    stamp = (venv or ROOT / "build") / "fa_detectron.stamp"
    inputs = fingerprint(python)
    known = stamp.read_text().split() if stamp.exists() else []
    if known[:1] == [inputs] and (known[1:] == ["native"] or os.environ.get("CI") != "true"):
        return
    with tempfile.TemporaryDirectory() as name:
        if venv:
            run(python, "-c", REPAIR)
            install(python, ROOT / "constraints.txt", PACKAGES)
        else:
            print(f"setting up in {sys.prefix}; its torch stays", flush=True)
            constraints = own_constraints(python, Path(name))
            install(python, constraints, [name for name in PACKAGES if name != "torch"])
    state = "native" if native_works(python) else "fallback"
    stamp.parent.mkdir(exist_ok=True)
    partial = stamp.with_suffix(".partial")
    partial.write_text(f"{inputs} {state}\n")
    os.replace(partial, stamp)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, help="the project's own environment (default: this interpreter's)")
    arguments = parser.parse_args()
    try:
        set_up(arguments.venv)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
