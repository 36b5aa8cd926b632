"""csrc/build.py: what it chooses, what it prints, and the one line that a failed build ends with."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fa_detectron.ops import native

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def build():
    spec = importlib.util.spec_from_file_location("project_build", ROOT / "csrc/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def make_toolkit(folder: Path, release: str) -> Path:
    """A folder that looks like a CUDA toolkit, whose nvcc says nothing but its release."""
    executable(folder / "bin/nvcc", f'echo "Cuda compilation tools, release {release}, V{release}.48"')
    (folder / "lib64").mkdir()
    (folder / "lib64/libcudart.so").touch()
    return folder


# ---- with CUDA or without


def choose(build, monkeypatch, choice, home: Path | None, archs: str | None = None, search: Path | str = "/nowhere"):
    for name, value in (("FA_CUDA", choice), ("CUDA_HOME", home and str(home)), ("TORCH_CUDA_ARCH_LIST", archs)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", str(search))
    monkeypatch.setattr(build, "DEFAULT_TOOLKIT", "/nowhere")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return build._cuda()


def test_cuda_is_left_out_when_told_so(build, monkeypatch, capsys, tmp_path):
    assert choose(build, monkeypatch, "0", make_toolkit(tmp_path, "13.0")) is None
    assert "CPU operators only (FA_CUDA=0)" in capsys.readouterr().out


def test_auto_takes_a_toolkit_that_fits_and_prints_it(build, monkeypatch, capsys, tmp_path):
    archs = "7.5;8.0;8.6;8.9;9.0+PTX;12.0+PTX"
    assert choose(build, monkeypatch, None, make_toolkit(tmp_path, "13.0")) == (tmp_path, archs)
    assert f"CPU and CUDA operators with {tmp_path} for {archs}" in capsys.readouterr().out


def test_the_architectures_go_as_far_as_the_toolkit(build, monkeypatch, tmp_path):
    folder = make_toolkit(tmp_path, "11.8")
    monkeypatch.setattr(build.torch.version, "cuda", "11.8")
    monkeypatch.setattr(build, "DEFAULT_TOOLKIT", "/nowhere")
    monkeypatch.setenv("CUDA_HOME", str(folder))
    monkeypatch.delenv("FA_CUDA", raising=False)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    assert build._cuda()[1] == "7.5;8.0;8.6;8.9;9.0+PTX"


@pytest.mark.parametrize("release", ["11.8", "12.6", "12.8", "13.0"])
@pytest.mark.parametrize(
    "capability",
    [(7, 5), (8, 0), (8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (11, 0), (12, 0), (12, 1), (13, 0)],
)
def test_every_card_finds_code_or_ptx_in_the_default_build(build, monkeypatch, tmp_path, release, capability):
    folder = make_toolkit(tmp_path, release)
    monkeypatch.setattr(torch.version, "cuda", release)
    monkeypatch.setenv("CUDA_HOME", str(folder))
    for name in ("FA_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    assert native.architectures_fit(build._cuda()[1], capability)


@pytest.mark.parametrize(
    ("wanted", "compiled"),
    [("8.0;9.0", "8.0;9.0"), ("8.0 9.0+PTX", "8.0;9.0+PTX"), ("Hopper", "9.0+PTX"), ("9.0a", "9.0a")],
)
def test_the_extension_says_in_numbers_what_it_is_compiled_for(build, monkeypatch, wanted, compiled):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", wanted)
    assert build._compiled_architectures() == compiled


def test_the_usual_variable_names_the_architectures(build, monkeypatch, capsys, tmp_path):
    assert choose(build, monkeypatch, "1", make_toolkit(tmp_path, "13.0"), "8.0;9.0")[1] == "8.0;9.0"
    assert "for 8.0;9.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("release", "words"),
    [(None, "no CUDA toolkit with bin/nvcc"), ("12.6", "is CUDA 12.6, torch is built for 13.0")],
    ids=["none", "another"],
)
def test_without_a_toolkit_that_fits(build, monkeypatch, capsys, tmp_path, release, words):
    home = make_toolkit(tmp_path, release) if release else None
    assert choose(build, monkeypatch, "auto", home) is None
    printed = capsys.readouterr().out
    assert "CPU operators only: " in printed and words in printed
    with pytest.raises(build.BuildError, match=f"^FA_CUDA=1, but .*{words}"):
        choose(build, monkeypatch, "1", home)


def test_a_toolkit_is_found_by_its_compiler_on_the_path(build, monkeypatch, tmp_path):
    folder = make_toolkit(tmp_path / "cuda", "13.0")
    (folder / "lib64").rename(folder / "lib")  # as conda has it
    assert choose(build, monkeypatch, "1", None, "9.0", search=folder / "bin") == (folder, "9.0")


def test_another_choice_is_refused(build, monkeypatch):
    with pytest.raises(build.BuildError, match="FA_CUDA=yes is not one of auto, 0, 1"):
        choose(build, monkeypatch, "yes", None)


# ---- a build that fails

GOOD = "int fa_something() { return 0; }\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one source, built by the real csrc/build.py."""
    folder = tmp_path / "a project"
    for name in ("csrc", "fa_detectron/ops"):
        (folder / name).mkdir(parents=True)
    for name in ("csrc/build.py", "fa_detectron/ops/schemas.py"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "csrc/module.cpp").write_text(GOOD)
    return folder


def run_build(project: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "csrc/build.py"],
        cwd=project,
        env=os.environ | {"FA_CUDA": "0", "MAX_JOBS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def last_line(run: subprocess.CompletedProcess) -> str:
    assert run.returncode == 1 and "Traceback" not in run.stderr, run.stdout + run.stderr
    return run.stderr.strip().splitlines()[-1]


def test_a_missing_compiler_is_named(project):
    line = last_line(run_build(project, CXX="no-such-g++"))
    assert line.startswith("error: no C++ compiler (no-such-g++): install g++")


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++")) is None, reason="no C++ compiler")
def test_a_source_that_does_not_compile_ends_in_one_line_below_the_compilers_words(project):
    (project / "csrc/module.cpp").write_text('#include "no/such_header.h"\n' + GOOD)
    run = run_build(project)
    assert last_line(run).startswith("error: the native operators were not built (")
    assert "no/such_header.h: No such file" in run.stdout + run.stderr
