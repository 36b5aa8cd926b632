"""Configs: safe YAML, bases, and errors that name the file and the key."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from fa_detectron.engine import load_config
from fa_detectron.engine.config_file import find_config, given_keys
from fa_detectron.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def write(folder, name, text):
    (folder / name).write_text(text)
    return str(folder / name)


def test_bases_are_read_first_and_relative_to_the_file_that_names_them(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, "root.yaml", "SOLVER: {BASE_LR: 0.5, MAX_ITER: 10}\n")
    write(tmp_path / "sub", "middle.yaml", "_BASE_: ../root.yaml\nSOLVER: {MAX_ITER: 20, STEPS: [5]}\n")
    leaf = write(tmp_path, "leaf.yaml", "_BASE_: [root.yaml, sub/middle.yaml]\nSOLVER: {STEPS: [7]}\n")
    cfg = load_config(leaf, ["SEED", "3"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SEED) == (0.5, 20, (7,), 3)


@pytest.mark.parametrize("where", ["file", "base"])
def test_yaml_runs_no_code(tmp_path, where):
    trap = tmp_path / "trap"
    evil = write(tmp_path, "evil.yaml", f"OUTPUT_DIR: !!python/object/apply:os.mkdir ['{trap}']\n")
    path = evil if where == "file" else write(tmp_path, "leaf.yaml", "_BASE_: evil.yaml\n")
    with pytest.raises(UserError, match=r"evil\.yaml.*not plain YAML"):
        load_config(path)
    assert not trap.exists()


def test_overrides_run_no_code(tmp_path):
    path = write(tmp_path, "a.yaml", "SEED: 1\n")
    text = "__import__('os').getcwd()"
    assert load_config(path, ["OUTPUT_DIR", text]).OUTPUT_DIR == text


@pytest.mark.parametrize(
    "text, message",
    [
        ("SOLVER: {MAX_ITERS: 3}\n", r"a\.yaml: unknown config key SOLVER\.MAX_ITERS; did you mean SOLVER\.MAX_ITER\?"),
        ("SOLVER: 3\n", r"a\.yaml: SOLVER is a section"),
        ("SOLVER: {MAX_ITER: {A: 3}}\n", r"a\.yaml: unknown config key SOLVER\.MAX_ITER\.A"),
        ("SOLVER: {MAX_ITER: many}\n", r"a\.yaml: .*SOLVER\.MAX_ITER"),
        ("_BASE_: gone.yaml\n", r"gone\.yaml \(named by _BASE_ in .*a\.yaml\): No such file"),
        ("_BASE_: a.yaml\n", "leads back"),
        ("_BASE_: 0\n", "_BASE_ must be a file name or a list of them, not 0"),
        ("_BASE_: [[a]]\n", "_BASE_ must be a file name or a list of them"),
        ("VERSION: 1\n", "VERSION 1"),
        ("- 1\n", "KEY: VALUE"),
        ("", "KEY: VALUE"),
        ("a: [", "not plain YAML"),
        ("a: \xff", "a.yaml"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    (tmp_path / "a.yaml").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=message):
        load_config(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    "words, message",
    [
        (["SOLVER.FOO", "1"], r"SOLVER\.FOO"),
        (["SOLVER.MAX_ITER"], "in twos"),
        (["SOLVER.MAX_ITER", "many"], r"SOLVER\.MAX_ITER many"),
        (["SEED", "1", "--num-gpus", "2"], "unknown config key --num-gpus"),
    ],
)
def test_broken_overrides_are_named(tmp_path, words, message):
    path = write(tmp_path, "a.yaml", "SEED: 1\n")
    with pytest.raises(UserError, match=message):
        load_config(path, words)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "none.yaml"))):
        load_config(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    "name",
    [
        "feature_align_dagger_R_50_FPN_1x",
        "feature_align_dagger_R_50_FPN_1x.yaml",
        "COCO-Detection/feature_align_dagger_R_50_FPN_1x",
        "configs/COCO-Detection/feature_align_dagger_R_50_FPN_1x.yaml",
    ],
)
def test_the_projects_configs_are_found_by_name_from_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feature_align_dagger_R_50_FPN_1x").mkdir()  # a run's folder of that name is no config
    assert load_config(name).MODEL.FEATURE_ALIGN.DE_SUBNET
    assert "MODEL.FEATURE_ALIGN.DE_SUBNET" in given_keys(name)


def test_a_file_that_exists_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "demo", "SEED: 77\n")
    assert load_config("demo").SEED == 77


def test_every_config_has_a_name_of_its_own():
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert find_config(path.stem) == str(path)


@pytest.mark.parametrize("name", ["feature_align_R50_FPN_1x", "/nowhere/feature_align_R_50_FPN_1x.yaml"])
def test_an_unknown_name_is_answered_with_near_ones(name):
    with pytest.raises(UserError, match=f"config file {name}: .*did you mean .*feature_align_R_50_FPN_1x"):
        load_config(name)


@pytest.mark.parametrize("value", ["{[]: 1}", "+-" * 1500 + "1", "[" * 150 + "]" * 150, "'\\ud800'"])
def test_values_over_which_pythons_parser_fails_are_refused_or_taken(tmp_path, value):
    """Fuzzing found them: literals that raise something else than ValueError."""
    text = write(tmp_path, "a.yaml", f"OUTPUT_DIR: {json.dumps(value)}\n")
    plain = write(tmp_path, "plain.yaml", "SEED: 1\n")
    for file, overrides in ((text, []), (plain, ["OUTPUT_DIR", value])):
        try:
            assert load_config(file, overrides).OUTPUT_DIR
        except UserError as error:
            assert "a.yaml" in str(error) or "OUTPUT_DIR" in str(error)


@pytest.mark.parametrize("text", ["SEED: 2001-99-99", "SEED: !!timestamp x", "SEED: !!bool x", "SEED: " + "[" * 3000])
def test_values_over_which_yamls_constructors_fail_are_refused(tmp_path, text):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=r"a\.yaml is not plain YAML"):
        load_config(str(tmp_path / "a.yaml"))


def test_bases_of_bases_have_an_end(tmp_path):
    for i in range(12):  # 3 to the power of 11 files, were all of them read
        write(tmp_path, f"{i}.yaml", f"_BASE_: [{', '.join([f'{i + 1}.yaml'] * 3)}]\n")
    write(tmp_path, "12.yaml", "SEED: 1\n")
    with pytest.raises(UserError, match="leads to more than 100 files"):
        load_config(str(tmp_path / "0.yaml"))
    for i in range(30):
        write(tmp_path, f"d{i}.yaml", f"_BASE_: d{i + 1}.yaml\n")
    with pytest.raises(UserError, match="more than 20 levels of _BASE_"):
        load_config(str(tmp_path / "d0.yaml"))
