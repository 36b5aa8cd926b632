#!/usr/bin/env python3
"""Install Detectron2 into the environment that runs this script, unless it is there already.

    python tools/install_detectron2.py [--constraint constraints.txt] [--sdist FILE]

From upstream's main branch where git reaches it and its build works, otherwise the port of version 0.6. DETECTRON2=git
and DETECTRON2=port choose; docs/install.md says why there are two. The port is made of the registry's sdist
``pb1-detectron2==0.6``: its hash is checked before anything of it is read, PORTS below are applied to its Python files,
and the result is installed as a pure-Python wheel.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

UPSTREAM_VERSION = "0.6"
PORT_VERSION = "0.6+fa1"  # raise the local number whenever PORTS changes: older ports are then replaced
REQUIREMENT = "pb1-detectron2==0.6"
SDIST_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
SETUP_CFG = Path(__file__).with_name("detectron2-0.6.setup.cfg")
# Byte for byte upstream's files; the registry's model-zoo configs, which nothing here reads, are not.
TAKEN = re.compile(r"detectron2/(?!model_zoo/configs/).*\.py|LICENSE")
GIT_URL = "https://github.com/facebookresearch/detectron2.git"
GIT_REQUIREMENT = f"detectron2 @ git+{GIT_URL}"
GIT_SECONDS = 15  # a network that drops packets does not answer at all


class InstallError(Exception):
    """What went wrong and what to do about it, for the user."""


class Port(NamedTuple):
    """One replacement, applied with re.MULTILINE to every file whose path starts with `where`."""

    pattern: str
    replacement: str
    reason: str
    where: str = "detectron2/"


PORTS = [
    Port(r"\bnp\.(int|bool|float|object|str)\b(?!_)", r"\1", "numpy 1.24 removed the aliases of the builtins"),
    Port(r"\bImage\.LINEAR\b", "Image.BILINEAR", "Pillow 10 removed the alias"),
    Port(
        r"^from detectron2 import _C$",
        "try:\n    from detectron2 import _C\nexcept ImportError:  # a build without native code\n    _C = None",
        "this build is pure Python; FeatureAlign needs none of these three native layers",
        where="detectron2/layers/",
    ),
    Port(
        r"^from detectron2\.evaluation\.fast_eval_api import COCOeval_opt$",
        "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:  # a build without native code\n    COCOeval_opt = COCOeval",
        "without native code COCO evaluation is pycocotools' own",
        where="detectron2/evaluation/",
    ),
    Port(
        r"^import cv2$",
        "try:\n    import cv2\nexcept ImportError:  # only drawing masks and videos needs it\n    cv2 = None",
        "OpenCV is no requirement; drawing boxes does not need it",
        where="detectron2/utils/",
    ),
    Port(r"^import pkg_resources\n", "", "setuptools 82 removed pkg_resources", where="detectron2/model_zoo/"),
    Port(
        r"pkg_resources\.resource_filename\(\n\s*\"detectron2\.model_zoo\", (os\.path\.join\(.*\))\n\s*\)",
        r"os.path.join(os.path.dirname(__file__), \1)",
        "setuptools 82 removed pkg_resources",
        where="detectron2/model_zoo/",
    ),
]


def port_source(path: str, text: str) -> tuple[str, list[Port]]:
    """Apply PORTS to one file. Returns its text, which says so if it changed (Apache-2.0, 4b), and the ports used."""
    used = []
    for port in PORTS:
        if path.startswith(port.where):
            text, count = re.subn(port.pattern, port.replacement, text, flags=re.MULTILINE)
            if count:
                used.append(port)
    if used:
        reasons = "; ".join(dict.fromkeys(port.reason for port in used))
        text = f"# Modified by fa_detectron (tools/install_detectron2.py): {reasons}.\n{text}"
    return text, used


def check_archive_hash(sdist: Path) -> None:
    """Raise InstallError for any archive but the one that was reviewed."""
    found = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if found != SDIST_SHA256:
        raise InstallError(
            f"{sdist.name} has sha256 {found}, expected {SDIST_SHA256}: nothing of it was run or installed. "
            "Delete it and download it again; if the hash stays, the registry serves another file."
        )


def read_sources(sdist: Path) -> dict[str, str]:
    """The archive's Python files below detectron2/ and its licence, by path; nothing else is taken."""
    sources = {}
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            path = member.name.partition("/")[2]
            if member.isfile() and ".." not in path and TAKEN.fullmatch(path):
                sources[path] = archive.extractfile(member).read().decode()
    return sources


def write_source_tree(sources: dict[str, str], folder: Path) -> None:
    """Write the ported package with its packaging files; a port that matches nothing is an error."""
    unused, modified = set(PORTS), []
    for path, original in sources.items():
        text, used = port_source(path, original)
        unused -= set(used)
        modified += [f"{path}: {'; '.join(port.reason for port in used)}"] if used else []
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    if unused:
        raise InstallError(f"these ports match nothing any more: {[port.pattern for port in unused]}")
    (folder / "MODIFICATIONS").write_text("Files changed by fa_detectron:\n" + "\n".join(modified) + "\n")
    (folder / "setup.cfg").write_text(SETUP_CFG.read_text().replace("@VERSION@", PORT_VERSION))
    (folder / "setup.py").write_text("from setuptools import setup\n\nsetup()\n")


def pip(*arguments: str) -> None:
    """Run this interpreter's pip with the user's own configuration (index, proxies, certificates)."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command).returncode:
        raise InstallError(f"pip {arguments[0]} failed, see its messages above")


def download(folder: Path) -> Path:
    """Fetch the sdist through pip's configured index; pip checks the hash before it reads the metadata."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{SDIST_SHA256}\n")
    flags = ["--require-hashes", "--no-deps", "--no-binary=:all:", "--no-build-isolation", "--quiet"]
    pip("download", *flags, "--dest", str(folder), "--requirement", str(requirements))
    return next(folder.glob("*.tar.gz"))


def install_port(sdist: Path | None, constraints: list[str]) -> None:
    """Build the ported wheel in a temporary folder and install it."""
    with tempfile.TemporaryDirectory(prefix="detectron2-") as name:
        folder = Path(name)
        sdist = sdist or download(folder)
        check_archive_hash(sdist)
        source = folder / "source"
        write_source_tree(read_sources(sdist), source)
        pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
        pip("install", "--quiet", *constraints, str(next(folder.glob("detectron2-*.whl"))))


def installed_version() -> str | None:
    """Version of the Detectron2 that pip knows, None when there is none."""
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return None


def check_import() -> tuple[int, str]:
    """Import in a fresh interpreter (the running one has stale path caches). Returns (status, last line)."""
    code = "import detectron2, detectron2.engine, detectron2.evaluation; print(detectron2.__file__)"
    # Another folder than the caller's: a source tree there must not be taken for an installation.
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tempfile.gettempdir())
    lines = (result.stdout if result.returncode == 0 else result.stderr).strip().splitlines()
    return result.returncode, lines[-1] if lines else ""


def git_reaches_upstream() -> bool:
    """Whether git is there and upstream's repository answers."""
    command = ["git", "ls-remote", "--exit-code", GIT_URL, "HEAD"]
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    try:
        return not subprocess.run(command, env=environment, capture_output=True, timeout=GIT_SECONDS).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def install_git(constraints: list[str]) -> None:
    """Build upstream's main branch against the torch that is installed."""
    pip("install", "--no-build-isolation", *constraints, GIT_REQUIREMENT)
    status, detail = check_import()
    if status:
        raise InstallError(f"upstream's main branch was installed, but importing it fails: {detail}")


def install(sdist: Path | None, constraint: Path | None, source: str) -> str:
    """Make `import detectron2` work. Returns one line that says what is used.

    Args:
        sdist: the registry's archive; None downloads it.
        constraint: pip's constraints file for Detectron2's own requirements.
        source: "git", "port", or "" for git where that works.
    """
    version = installed_version()
    ported = version is not None and version.startswith(f"{UPSTREAM_VERSION}+fa")
    stale = ported and (version != PORT_VERSION or source == "git")
    status, detail = check_import()
    if status == 0 and not stale:
        return f"detectron2 {version or ''} is there already: {detail}"
    if status and version is not None and not ported:
        raise InstallError(
            f"detectron2 {version} is installed, but importing it fails: {detail}\n"
            f"Repair it, or remove it with: {sys.executable} -m pip uninstall detectron2"
        )
    constraints = ["--constraint", str(constraint)] if constraint else []
    use_git = source == "git" or (not source and not ported and sdist is None and git_reaches_upstream())
    if use_git:
        try:
            install_git(constraints)
        except InstallError as error:
            if source == "git":
                raise
            print(f"{error}; the port of Detectron2 {UPSTREAM_VERSION} is installed instead", flush=True)
            use_git = False
    if not use_git:
        install_port(sdist, constraints)
    status, detail = check_import()
    if status:
        raise InstallError(f"detectron2 was installed, but importing it fails: {detail}")
    return f"detectron2 installed: {detail}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--constraint", type=Path, help="pip constraints file for Detectron2's own requirements")
    parser.add_argument("--sdist", type=Path, help="use this archive instead of downloading it")
    arguments = parser.parse_args()
    source = os.environ.get("DETECTRON2", "")
    try:
        if source not in ("", "git", "port"):
            raise InstallError(f"DETECTRON2={source} is neither git (upstream's main branch) nor port (of version 0.6)")
        if arguments.sdist and not arguments.sdist.is_file():
            raise InstallError(f"--sdist {arguments.sdist}: no such file")
        print(install(arguments.sdist, arguments.constraint, source))
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
