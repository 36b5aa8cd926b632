"""What a run leaves in its folder: earlier runs, its log, and how it ends there."""

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("detectron2")

from fa_detectron.apps.train import argument_parser
from fa_detectron.engine import setup
from fa_detectron.errors import UserError, run_command
from tests.engine.conftest import run
from tests.engine.tiny import TRAIN_NET, make_set

QUICK = ("TEST.EVAL_PERIOD", 0, "SOLVER.MAX_ITER", 1)


def command(*words, **environment) -> subprocess.CompletedProcess:
    line = [sys.executable, str(TRAIN_NET), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(line, env=environment, capture_output=True, timeout=240)


def test_earlier_runs_are_kept_and_numbered_with_their_records(tiny, tmp_path):
    (tmp_path / "mine.txt").write_text("not a run's")
    for seed in (1, 2, 3):
        run(*tiny.args, *QUICK, "SEED", seed, "OUTPUT_DIR", tmp_path)
    for folder, seed in ((tmp_path / "previous" / "1", 1), (tmp_path / "previous" / "2", 2), (tmp_path, 3)):
        names = {path.name for path in folder.iterdir()}
        assert {"model_final.pth", "last_checkpoint", "metrics.json", "log.txt", "config.yaml", "samples"} <= names
        assert f"SEED: {seed}\n" in (folder / "config.yaml").read_text()
        log = (folder / "log.txt").read_text()  # of this run alone, and whole
        assert log.count(f"saved checkpoint {tmp_path}/model_final.pth") == 1 and log.count("1 classes: block") == 1
    assert (tmp_path / "mine.txt").exists() and not (tmp_path / "previous" / "3").exists()
    assert f"held an earlier run: its files are now in {tmp_path}/previous/2" in (tmp_path / "log.txt").read_text()


def test_a_run_without_a_checkpoint_is_kept_too(tiny, tmp_path):
    """Its metrics would be mixed with the new run's."""
    (tmp_path / "metrics.json").write_text('{"iteration": 0}\n')
    run(*tiny.args[:2], "--resume", *tiny.args[2:], *QUICK, "OUTPUT_DIR", tmp_path)
    assert (tmp_path / "previous" / "1" / "metrics.json").read_text() == '{"iteration": 0}\n'


def test_what_ends_a_run_stands_in_its_log(tiny, tmp_path, capfd):
    words = (*tiny.args, "SOLVER.BASE_LR", 1e30, "SOLVER.MAX_ITER", 5, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", tmp_path)
    with pytest.raises(SystemExit):
        run_command(lambda: run(*words))
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "Training diverged" in line
    assert f"fa_detectron.failures ERROR: {line.removeprefix('error: ')}\n" in (tmp_path / "log.txt").read_text()


def test_a_defect_stands_there_with_its_traceback(tiny, tmp_path, monkeypatch):
    from fa_detectron.engine.step import StepTrainer

    monkeypatch.setattr(StepTrainer, "run_step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: run(*tiny.args, *QUICK, "OUTPUT_DIR", tmp_path))
    assert "ZeroDivisionError: division by zero" in (tmp_path / "log.txt").read_text()


def test_what_is_said_before_the_workers_start_stands_there_too(tiny, tmp_path):
    done = command(*tiny.args, "--num-processes", 2, *QUICK, "SOLVER.WARMUP_ITERS", 9, "OUTPUT_DIR", tmp_path)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert "SOLVER.WARMUP_ITERS 9 -> 0" in (tmp_path / "log.txt").read_text()
    assert done.stdout.decode().count("SOLVER.WARMUP_ITERS 9 -> 0") == 1


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONIOENCODING": "cp1252"},
    ],
)
def test_names_that_the_terminal_cannot_show_are_no_error(tiny, tmp_path, environment):
    data = make_set(tmp_path / "data", images=2, classes=("Käfer", "甲虫"))
    words = ("--config-file", tiny.config, "--train", data, "--val", data, *QUICK, "OUTPUT_DIR", tmp_path / "out")
    done = command(*words, **environment)
    assert done.returncode == 0 and b"Error" not in done.stderr, done.stderr
    assert "Käfer, 甲虫" in (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")


def refusal(tiny, folder) -> str:
    args = argument_parser().parse_args([str(word) for word in (*tiny.args, "OUTPUT_DIR", folder)])
    with pytest.raises((UserError, SystemExit)) as caught:
        run_command(lambda: setup(args)) if len(str(folder)) > 255 else setup(args)
    return str(caught.value)


def test_a_name_that_is_too_long_is_an_error_in_words(tiny, tmp_path, capsys):
    assert refusal(tiny, tmp_path / ("x" * 300)) == "2"
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"^error: .*xxx\.\.\.xxx.*: File name too long; choose a shorter name$", error)


def test_a_read_only_file_system_is_an_error_before_anything_is_read(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    words = f"OUTPUT_DIR {tmp_path}/a/b: {tmp_path} cannot be written to"
    assert refusal(tiny, tmp_path / "a" / "b").startswith(words)


@pytest.mark.parametrize("name, remedy", [("EROFS", "name a folder"), ("EMFILE", "ulimit -n"), ("EIO", "")])
def test_errors_of_the_machine_are_one_line(name, remedy, capsys):
    import errno

    number = getattr(errno, name)

    def fail() -> None:
        raise OSError(number, os.strerror(number), "/some/file")

    with pytest.raises(SystemExit):
        run_command(fail)
    error = capsys.readouterr().err
    assert error.startswith(f"error: /some/file: {os.strerror(number)}") and remedy in error
