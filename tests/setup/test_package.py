"""What the package promises: requirements, versions, and which part may import what."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fa_detectron
from tools import install_detectron2

ROOT = Path(__file__).resolve().parents[2]
# Import names of the core requirements that operators and layers may use.
LIGHT = {"torch", "torchvision", "fa_detectron"}


def load_setup():
    spec = importlib.util.spec_from_file_location("project_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


def pins() -> dict[str, str]:
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#")
    return {name.lower(): version for name, version in (line.split("==") for line in lines)}


def project() -> dict:
    """The table [project] of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_core_requirements_are_the_design_card():
    core = {name_of(requirement) for requirement in project()["dependencies"]}
    card = {"torch", "torchvision", "fvcore", "pycocotools", "ninja", "numpy"}
    assert core == card | {"defusedxml", "filelock", "safetensors"}


def test_every_requirement_has_a_tested_version_in_its_range():
    from packaging.requirements import Requirement

    extras = project()["optional-dependencies"]
    everything = extras.pop("all")
    assert everything == [f"fa_detectron[{','.join(extras)}]"]
    known = pins()
    for text in project()["dependencies"] + [name for names in extras.values() for name in names]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(known[requirement.name.lower()], prereleases=True), text


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {fa_detectron.__version__}\n" in citation
    assert f"({fa_detectron.__version__})" in (ROOT / "CHANGELOG.md").read_text()
    assert install_detectron2.PORT_VERSION.startswith(install_detectron2.UPSTREAM_VERSION + "+")


def test_pre_commit_runs_the_same_versions():
    text = (ROOT / ".pre-commit-config.yaml").read_text()
    hooks = dict(re.findall(r"repo: \S+/(\S+)\n +rev: v(\S+)", text))
    for hook, package in (("ruff-pre-commit", "ruff"), ("mirrors-clang-format", "clang-format"), ("typos", "typos")):
        assert hooks.pop(hook) == pins()[package]
    assert not hooks


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        ("License-Expression: MIT", 0),
        ("License-Expression: AGPL-3.0-or-later", 1),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 (GPLv3)", 1),
        ("Summary: without a licence", 1),
    ],
)
def test_the_licence_check_stops_at_copyleft_and_unknown_licences(tmp_path, metadata, status):
    folder = tmp_path / "something-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: something\nVersion: 1\n{metadata}\n")
    command = [sys.executable, "-m", "piplicenses", "--packages", "something"]
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stdout + result.stderr


def imported_roots(path: Path) -> set[str]:
    """Top-level names of all absolute imports of a file, those in functions too."""
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots.add(node.module.partition(".")[0])
    return roots


def files_below(*folders: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", files_below("fa_detectron/ops", "fa_detectron/layers"))
def test_operators_and_layers_import_torch_only(path):
    foreign = {root for root in imported_roots(ROOT / path) if root not in sys.stdlib_module_names} - LIGHT
    assert not foreign


@pytest.mark.parametrize("path", files_below("fa_detectron/ops", "fa_detectron/layers"))
def test_operators_and_layers_stay_below_the_models(path):
    text = (ROOT / path).read_text()
    assert not re.search(r"fa_detectron\.(modeling|data|engine|checkpoint|visualization|inference)\b", text)


DETECTOR = ("ops", "layers", "modeling", "data", "engine", "checkpoint", "visualization", "inference")


@pytest.mark.parametrize("path", files_below(*(f"fa_detectron/{room}" for room in DETECTOR)))
def test_the_detector_imports_no_app(path):
    assert not re.search(r"fa_detectron\.apps\b|fa_detectron import .*\bapps\b", (ROOT / path).read_text())


def test_import_is_light():
    code = "import sys, fa_detectron; print(sorted({'torch', 'detectron2', 'numpy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"


def test_develop_is_a_command_that_keeps_torch_in_sight(monkeypatch):
    import setuptools.command.develop as module
    from setuptools import Distribution

    seen = []
    monkeypatch.setattr(
        module.develop, "run", lambda self: seen.append(__import__("os").environ["PIP_NO_BUILD_ISOLATION"])
    )
    monkeypatch.delenv("PIP_NO_BUILD_ISOLATION", raising=False)
    monkeypatch.setattr(module.develop, "initialize_options", lambda self: None)
    load_setup().develop_command()(Distribution({"name": "x"})).run()
    assert seen == ["0"]


def test_develop_that_is_gone_says_what_to_type(monkeypatch):
    from setuptools import Distribution

    monkeypatch.setitem(sys.modules, "setuptools.command.develop", None)
    command = load_setup().develop_command()(Distribution({"name": "x"}))
    with pytest.raises(SystemExit, match=r"pip install -e \. --no-build-isolation"):
        command.run()


@pytest.mark.parametrize(
    ("ci", "cuda", "fails"), [("true", "auto", True), ("", "1", True), ("", "auto", False), ("", "0", False)]
)
def test_missing_compiler_fails_where_the_build_is_a_must(monkeypatch, capsys, ci, cuda, fails):
    setup = load_setup()
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("FA_CUDA", cuda)
    monkeypatch.setenv("CXX", "no-such-compiler")
    if fails:
        with pytest.raises(SystemExit, match="no C\\+\\+ compiler"):
            setup.native()
    else:
        assert setup.native() == {}
        assert "plain PyTorch" in capsys.readouterr().err


def test_build_without_torch_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit, match="--no-build-isolation"):
        load_setup().native()
