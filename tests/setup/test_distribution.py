"""`python -m build` makes an sdist that builds and a wheel that runs, both away from the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fa_detectron.ops import native

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "output", "datasets", "*.so", "*.egg-info", "__pycache__", ".*_cache"
)
# Runs in an empty folder: everything must come out of the wheel.
USE = """
import sys, torch, fa_detectron
from detectron2.modeling import build_model
from fa_detectron.engine import load_config
from fa_detectron.ops import native
assert fa_detectron.__file__.startswith(sys.argv[1]), fa_detectron.__file__
cfg = load_config("feature_align_dagger_lite0")
cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.PRETRAINED = "cpu", "", False
with torch.no_grad():
    (result,) = build_model(cfg).eval()([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}])
print(native.loaded(), len(result["instances"]) >= 0)
"""
# Writes an empty object for each source, and the library at the end; answers questions as the real one.
COMPILER = """#!/bin/sh
for word; do
    [ "$last" = -o ] && output="$word"
    last="$word"
done
case " $* " in
*" -c "*) : >"$output" ;;
*" -shared "*) cp "{library}" "$output" ;;
*) exec c++ "$@" ;;
esac
"""


def run(*command: object, folder: Path, **environment: str) -> str:
    result = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The unpacked sdist of a copy of this checkout."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "checkout", ignore=NOT_SOURCES)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, folder=folder / "checkout")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return next((folder / "unpacked").iterdir())


@pytest.fixture(scope="module")
def wheel(sdist) -> Path:
    """The wheel of that sdist, without the minutes that compiling takes: the linker "finds" this checkout's library."""
    library = next((ROOT / "fa_detectron").glob("_C*.so"), None) if native.loaded() else None
    compiler = sdist.parent / "c++"
    compiler.write_text(COMPILER.format(library=library))
    compiler.chmod(0o755)
    # Without a library: no compiler, as where there is none.
    environment = {"CXX": str(compiler)} if library else {"CXX": "no-such-compiler", "CI": ""}
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation")
    run(*command, folder=sdist, FA_CUDA="0", **environment)
    return next((sdist / "dist").glob("*.whl"))


def test_the_sdist_has_all_that_a_build_and_the_tests_need(sdist):
    there = {str(path.relative_to(sdist)) for path in sdist.rglob("*")}
    folders = ("csrc", "configs", "fa_detectron", "projects", "tests", "tools")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    ours = {str(path.relative_to(ROOT)) for path in files if path.suffix != ".so" and "__pycache__" not in path.parts}
    assert ours - there == set()
    assert {"LICENSE", "NOTICE", "README.md", "Makefile", "constraints.txt", "pyproject.toml", "setup.py"} <= there


def test_the_wheel_has_library_configs_templates_and_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("fa_detectron/_C") for name in names) == native.loaded()
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.yaml")}
    assert {f"fa_detectron/{config}" for config in configs} <= set(names)
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "fa_detectron").rglob("template/*")}
    assert templates and templates <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "tools/", "csrc/"))]


def test_the_wheel_runs_in_an_empty_folder(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel, folder=empty)
    assert run(sys.executable, "-c", USE, site, folder=empty, PYTHONPATH=str(site)) == f"{native.loaded()} True\n"
    command = site / "bin" / "fa-detectron"
    run(command, "doctor", folder=empty, PYTHONPATH=str(site))
    short = ("OUTPUT_DIR", "run", "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "DATASETS.TEST", "()")
    run(command, "train", "--config-file", "demo", *short, folder=empty, PYTHONPATH=str(site))
    assert (empty / "run" / "model_final.pth").is_file()
