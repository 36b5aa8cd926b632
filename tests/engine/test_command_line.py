"""The command: wrong arguments cost one line and leave nothing; several processes work and end together."""

import os
import subprocess
import sys

import pytest
import torch

from fa_detectron.apps.train import argument_parser
from fa_detectron.engine import setup
from fa_detectron.errors import UserError, run_command
from tests.engine.conftest import run
from tests.engine.tiny import TRAIN_NET, make_set


def command(*words, launcher=()):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, *launcher, str(TRAIN_NET), *map(str, words)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=240)


def test_a_users_error_is_one_line_and_status_2(tiny, tmp_path):
    done = command("--config-file", tmp_path / "none.yaml")
    assert done.returncode == 2
    assert (
        done.stderr
        == f"error: config file {tmp_path}/none.yaml: no such file, and no config of this project has this name\n"
    )


def test_errors_out_of_a_data_loader_lose_the_workers_traceback(capsys):
    text = (
        "Caught UserError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1\nfa_detectron.errors.UserError: a.png: broken\n'
    )

    def fail():
        raise UserError(text)

    with pytest.raises(SystemExit) as end:
        run_command(fail)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: a.png: broken\n"


@pytest.mark.parametrize(
    "words, message",
    [
        (("--eval-only",), "MODEL.WEIGHTS"),
        (("MODEL.WEIGHTS", "/nowhere/a.pth"), "/nowhere/a.pth"),
        (("--num-processes", "3"), "SOLVER.IMS_PER_BATCH 2"),
        (("--num-processes", "2", "--num-gpus", "1"), "exclude"),
        (("SOLVER.OPTIMIZER", "LION"), "LION"),
        (("MODEL.BACKBONE.NAME", "nothing"), "nothing"),
        (("DATASETS.TRAIN_PATH", "", "DATASETS.TRAIN", "('nothing',)"), None),
    ],
)
def test_wrong_arguments_leave_nothing_behind(tiny, tmp_path, words, message):
    folder = tmp_path / "out"
    options = [word for word in words if word.startswith("--")]
    start = len(words) if options else 0
    with pytest.raises(UserError, match=message):
        if message is None:
            run("--config-file", tiny.config, *words, "OUTPUT_DIR", folder)
        else:
            run(*tiny.args, *words[:start], "OUTPUT_DIR", folder, *words[start:])
    assert not folder.exists()


@pytest.mark.skipif(torch.cuda.device_count() >= 4, reason="this machine has the four GPUs")
def test_gpus_that_are_not_there_are_refused(tiny):
    args = argument_parser().parse_args([*map(str, tiny.args), "--num-gpus", "4"])
    with pytest.raises(UserError, match="--num-gpus 4: this machine has"):
        setup(args)


@pytest.mark.parametrize(
    "url, machines, message",
    [("auto", 2, "--dist-url tcp://"), ("here:1", 2, "expected tcp://"), ("tcp://a", 2, "PORT")],
)
def test_a_wrong_address_is_named(tiny, url, machines, message):
    from fa_detectron.engine import launch

    words = [*tiny.args, "--num-processes", "1", "--num-machines", machines, "--dist-url", url]
    args = argument_parser().parse_args([str(word) for word in words])
    with pytest.raises(UserError, match=message):
        launch(print, args, setup(args))


@pytest.mark.parametrize(
    "words, message",
    [
        (("--num-processes", -1), "--num-processes -1: expected a number"),
        (("--num-machines", 2, "--machine-rank", 2), "--machine-rank 2: the 2 of --num-machines are numbered from 0"),
        (("--num-machines", 0), "--machine-rank 0: the 0 of"),
        (("--timeout", "nan"), "--timeout nan: expected a number of minutes"),
        (("--timeout", 0), "--timeout 0.0: expected"),
    ],
)
def test_numbers_that_are_none_are_named(tiny, words, message):
    args = argument_parser().parse_args([str(word) for word in (*tiny.args, *words)])
    with pytest.raises(UserError, match=message):
        setup(args)


def test_classes_that_the_training_set_lacks_are_named(tiny, tmp_path):
    other = make_set(tmp_path / "other", classes=("block", "cone"))
    with pytest.raises(UserError, match="cone"):
        run("--config-file", tiny.config, "--train", tiny.data, "--val", other, "OUTPUT_DIR", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_cpu_processes_train_and_evaluate(tiny, tmp_path):
    folder = tmp_path / "out"
    done = command(*tiny.args, "--num-processes", 2, "OUTPUT_DIR", folder)
    assert done.returncode == 0, done.stderr
    assert "2 process(es) of 1 threads" in done.stdout
    assert done.stdout.count("Results on data/set.json") == 1
    assert (folder / "model_final.pth").exists() and (folder / "log.txt.rank1").exists()


def test_torchrun_runs_it_too(tiny, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    folder = tmp_path / "out"
    done = command(*tiny.args, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", folder, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Results on data/set.json") == 1


def test_a_runs_config_stands_for_its_folder(tiny, tmp_path, monkeypatch):
    """Seen from another working folder, and without the weights that the run started from."""
    monkeypatch.chdir(tmp_path)
    run(*tiny.args, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", "first")
    run(*tiny.args, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", "out", "MODEL.WEIGHTS", "first/model_final.pth")
    (tmp_path / "first/model_final.pth").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run("--config-file", tmp_path / "out/config.yaml", "--resume", "SOLVER.MAX_ITER", "2")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    log = (tmp_path / "out/log.txt").read_text()
    assert "resumed from" in log and "at iteration 1 of 2" in log
