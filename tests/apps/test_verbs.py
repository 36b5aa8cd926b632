"""What all verbs of the command line have in common."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from fa_detectron.__main__ import VERBS
from tests.commands import call
from tests.engine.tiny import BASE, TRAIN_NET

ROOT = Path(__file__).resolve().parents[2]
# What each verb needs besides the model.
NEEDS = {
    "predict": ("--input", ROOT / "docs" / "bccd.jpg", "--json", "{tmp}/found.json"),
    "explain": ("--average",),
    "export": ("--output", "{tmp}/model.pt2"),
}
MODEL_VERBS = ("eval", "predict", "explain", "report", "export", "measure")
WITH_CONFIG = ("train", *MODEL_VERBS, "check-data")


def needs(verb: str, tmp: Path) -> list[str]:
    return [str(word).format(tmp=tmp) for word in NEEDS.get(verb, ())]


def options(verb: str, capsys: pytest.CaptureFixture) -> str:
    assert call(verb, "--help") == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_the_verb(verb, capsys):
    assert options(verb, capsys).startswith(f"usage: fa-detectron {verb} [-h]")


@pytest.mark.parametrize("verb", WITH_CONFIG)
def test_the_same_words_in_every_verb(verb, capsys):
    text = options(verb, capsys)
    assert "--run RUN" in text and "--config-file FILE" in text and "[KEY VALUE ...]" in text
    if verb != "check-data":  # which loads no model
        assert "(sets MODEL.WEIGHTS)" in text and "(sets MODEL.DEVICE)" in text
    assert "--output" in text or verb == "measure"  # which prints its table; --json has the figures
    assert "--opts" not in text


@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_option_is_an_error(verb, tmp_path, capsys):
    words = ("--run", tmp_path) if verb in MODEL_VERBS else ("data",) if verb == "check-data" else ()
    words = ("--config-file", BASE) if verb == "train" else words
    assert call(verb, *words, *needs(verb, tmp_path), "--nonsense") == 2
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("verb", MODEL_VERBS)
def test_a_run_that_is_missing_is_named(verb, tmp_path, capsys):
    assert call(verb, "--run", tmp_path / "gone", *needs(verb, tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and f"{tmp_path}/gone: no such folder" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", MODEL_VERBS)
def test_a_model_is_required(verb, tmp_path, capsys):
    assert call(verb, *needs(verb, tmp_path)) == 2
    assert "one of the arguments --run --config-file is required" in capsys.readouterr().err


@pytest.mark.parametrize("verb", sorted({*MODEL_VERBS} - {"measure"}))
def test_a_config_needs_weights(verb, tmp_path, capsys):
    assert call(verb, "--config-file", BASE, *needs(verb, tmp_path), "--output", tmp_path / "out.onnx") == 2
    assert "--weights FILE" in capsys.readouterr().err


def words_of(verb: str, tmp: Path) -> list:
    """A complete command line, but for what a test adds."""
    if verb == "check-data":
        return [tmp, "--config-file", BASE]
    weights = () if verb in ("train", "measure") else ("--weights", tmp / "gone.pth")
    output = ("--output", tmp / "out.onnx") if verb in ("report", "export") else ()
    return ["--config-file", BASE, *weights, *output, *[w for w in needs(verb, tmp) if verb != "export"]]


@pytest.mark.parametrize("verb", WITH_CONFIG)
@pytest.mark.parametrize(
    "words, message",
    [
        (("INPUT.MIN_SIZE_TSET", 512), "unknown config key INPUT.MIN_SIZE_TSET; did you mean INPUT.MIN_SIZE_TEST?"),
        (("INPUTS.MIN_SIZE_TEST", 512), "unknown config key INPUTS.MIN_SIZE_TEST; did you mean INPUT.MIN_SIZE_TEST?"),
        (("INPUT.MIN_SIZE_TEST", "large"), "INPUT.MIN_SIZE_TEST large"),
        (("INPUT.MIN_SIZE_TEST",), "config key INPUT.MIN_SIZE_TEST: its value is missing"),
        (("--opts", "INPUT.MIN_SIZE_TEST", 512), "--opts does not exist any more; write KEY VALUE without it"),
    ],
)
def test_a_bad_override_is_named(verb, words, message, tmp_path, capsys):
    assert call(verb, *words_of(verb, tmp_path), "--device", "cpu", *words) == 2 or verb == "check-data"
    if verb == "check-data":  # it has no --device
        assert call(verb, *words_of(verb, tmp_path), *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ("train", *MODEL_VERBS))
@pytest.mark.parametrize("words", [("--device", "tpu"), ("MODEL.DEVICE", "tpu")])
def test_a_device_that_does_not_exist_is_named(verb, words, tmp_path, capsys):
    assert call(verb, *words_of(verb, tmp_path), *words) == 2
    assert "device 'tpu': expected cpu" in capsys.readouterr().err or verb == "export"
    assert not list(tmp_path.iterdir())


def test_pairs_may_stand_anywhere_and_beat_options():
    from fa_detectron.apps.train import argument_parser

    words = [
        "SEED",
        "3",
        "--config-file",
        "x",
        "--epochs",
        "2",
        "SOLVER.EPOCHS",
        "5.0",
        "--classes",
        "a,b",
        "SEED",
        "-1",
    ]
    args = argument_parser().parse_args(words)
    pairs = list(zip(args.opts[0::2], args.opts[1::2]))
    assert pairs == [
        ("SOLVER.EPOCHS", "2.0"), ("DATASETS.KEEP_CLASSES", "('a', 'b')"),
        ("SEED", "3"), ("SOLVER.EPOCHS", "5.0"), ("SEED", "-1"),
    ]  # fmt: skip


def test_a_list_does_not_swallow_pairs_and_keeps_file_names():
    from fa_detectron.apps.predict.command import argument_parser

    words = ["--run", "r", "--input", "a.jpg", "DSC01.JPG", "TEST", "TEST.DETECTIONS_PER_IMAGE", "7", "--tta"]
    args = argument_parser().parse_args(words)
    assert args.input == ["a.jpg", "DSC01.JPG", "TEST"]
    assert args.opts == ["TEST.AUG.ENABLED", "True", "TEST.DETECTIONS_PER_IMAGE", "7"]


def python(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=os.environ)


def test_the_list_of_verbs_needs_no_torch():
    code = """
import sys
sys.modules["torch"] = sys.modules["detectron2"] = None  # importing them fails
from fa_detectron.__main__ import main
main(["--help"])
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert all(f"\n  {verb} " in done.stdout for verb in VERBS)


def test_an_unknown_verb_is_an_error():
    done = python("-m", "fa_detectron", "trainn")
    assert done.returncode == 2 and done.stderr.startswith("error: unknown verb trainn; expected one of: train, eval")


@pytest.mark.parametrize(
    "words, usage",
    [
        ((TRAIN_NET,), "usage: fa-detectron train"),
        ((TRAIN_NET.parent / "demo.py",), "usage: fa-detectron predict"),
        *(((TRAIN_NET.parent / f"{verb}.py",), f"usage: fa-detectron {verb}") for verb in MODEL_VERBS[2:]),
        (("-m", "fa_detectron.check_data"), "usage: fa-detectron check-data"),
        (("-m", "fa_detectron.doctor"), "usage: fa-detectron doctor"),
    ],
)
def test_scripts_and_modules_are_the_same_verbs(words, usage):
    assert python(*words, "--help").stdout.startswith(usage)
