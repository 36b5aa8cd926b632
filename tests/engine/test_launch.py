"""Workers that die or hang end the run, in words and in bounded time; a restart goes on."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

pytest.importorskip("detectron2")

from fa_detectron.apps.train import argument_parser
from fa_detectron.engine import launch, setup
from fa_detectron.errors import UserError
from tests.engine.processes import START, free_port
from tests.engine.tiny import TRAIN_NET

launching = importlib.import_module("fa_detectron.engine.run.processes")  # the package has the function by that name

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
LONG = ("SOLVER.MAX_ITER", 100_000, "SOLVER.CHECKPOINT_PERIOD", 5, "TEST.EVAL_PERIOD", 0)


def start(words: tuple, log: Path, launcher: tuple = ()) -> subprocess.Popen:
    line = [sys.executable, *launcher, str(TRAIN_NET), *map(str, words)]
    with open(log, "w") as out:
        return subprocess.Popen(
            line, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=out, stderr=out, start_new_session=True
        )


def end(process: subprocess.Popen) -> None:
    """With all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def workers(process: subprocess.Popen) -> list[int]:
    command = ["pgrep", "-P", str(process.pid), "-f", "spawn_main|train_net"]
    found = subprocess.run(command, capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def wait_for(path: Path, process: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 200
    while not path.exists() or not path.stat().st_size:
        assert process.poll() is None and time.monotonic() < end, (path, log.read_text())
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["killed", "hung", "killed under torchrun"])
def test_a_lost_worker_ends_the_run_which_can_be_resumed(tiny, tmp_path, how):
    torchrun = "torchrun" in how
    processes = () if torchrun else ("--num-processes", 2)
    words = (*tiny.args, *processes, "--timeout", 0.2, *LONG, "OUTPUT_DIR", tmp_path / "out")
    process = start(words, tmp_path / "log", TORCHRUN if torchrun else ())
    try:
        wait_for(tmp_path / "out" / "last_checkpoint", process, tmp_path / "log")
        victim = workers(process)[-1]
        os.kill(victim, signal.SIGSTOP if how == "hung" else signal.SIGKILL)
        status = process.wait(120)
    finally:
        end(process)
    text = (tmp_path / "log").read_text()
    assert status == (1 if torchrun else 2), text
    lost = f"(pid {victim}) died by signal SIGKILL" if how == "killed" else "has lost another worker"
    assert lost in text or ("torchrun" in how and "SIGKILL" in text)
    if how != "killed":
        return
    assert f"--resume continues from the last checkpoint in {tmp_path / 'out'}" in text
    iteration = int((tmp_path / "out" / "last_checkpoint").read_text()[len("model_") : -len(".pth")]) + 1
    words = (*words[:2], "--resume", *words[2:], "SOLVER.MAX_ITER", iteration + 2)
    assert start(words, tmp_path / "again").wait(120) == 0
    assert f"at iteration {iteration} of {iteration + 2}" in (tmp_path / "again").read_text()


def late(rank: int, port: int, words: list[str], folder: str) -> None:
    """Rank 0 comes seconds after the other, as one does that reads the data, or that shares a busy machine."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    args = argument_parser().parse_args(words)
    cfg = setup(args)
    time.sleep(0 if rank else 4)
    launch(lambda args, cfg: Path(folder, str(rank)).touch(), args, cfg)


def test_to_wait_for_each_others_start_is_no_loss(tiny, tmp_path):
    words = [str(word) for word in (*tiny.args, "--timeout", 0.02)]
    mp.start_processes(late, (free_port(), words, str(tmp_path)), nprocs=2, start_method=START)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_a_worker_that_is_alone_says_so(tiny, monkeypatch):
    monkeypatch.setattr(launching, "_START", timedelta(seconds=1))
    port = free_port()
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    args = argument_parser().parse_args([str(word) for word in (*tiny.args, "--timeout", 0.01)])
    with pytest.raises(UserError, match=rf"worker 1 has not found the other 1 at 127\.0\.0\.1:{port} .*started"):
        launch(print, args, setup(args))


def test_no_worker_leaves_before_all_have_finished():
    store, left = dist.HashStore(), []

    def leave(rank: int) -> None:
        launching._wait_for_all(store, rank, 2, timedelta(seconds=60))
        left.append(rank)

    first = threading.Thread(target=leave, args=(0,))
    first.start()
    first.join(0.5)
    assert not left
    leave(1)
    first.join(60)
    assert sorted(left) == [0, 1]


def test_sigterm_to_torchrun_ends_with_a_checkpoint(tiny, tmp_path):
    words = (*tiny.args, *LONG, "SOLVER.CHECKPOINT_PERIOD", 10_000, "OUTPUT_DIR", tmp_path / "out")
    process = start(words, tmp_path / "log", TORCHRUN)
    try:
        wait_for(tmp_path / "out" / "metrics.json", process, tmp_path / "log")
        process.terminate()
        process.wait(120)
    finally:
        end(process)
    log = (tmp_path / "out" / "log.txt").read_text()
    assert f"--resume continues from {tmp_path / 'out'}/{(tmp_path / 'out' / 'last_checkpoint').read_text()}" in log


def test_two_machines_by_detectron2s_launcher(tiny, tmp_path):
    url = f"tcp://127.0.0.1:{free_port()}"
    words = (*tiny.args, "--num-processes", 1, "--num-machines", 2, "--dist-url", url)
    parts = [
        start((*words, "--machine-rank", rank, "OUTPUT_DIR", tmp_path / "out"), tmp_path / f"log{rank}")
        for rank in (0, 1)
    ]
    logs = ends(parts, [tmp_path / "log0", tmp_path / "log1"])
    assert "2 process(es)" in logs[0] and "Results on data/set.json" in logs[0] and "Results on" not in logs[1]


PAGE = TRAIN_NET.parents[2] / "docs" / "training.md"


def of_this_machine(script: str, tiny, port: int, folder: Path, more: str = "") -> str:
    """A script of the page with one CPU process a node, and a data set and folder of the test."""
    for old, new in {
        "--nproc-per-node 8": "--nproc-per-node 1",
        "29500": str(port),
        "--config-file CONFIG": f"--config-file {tiny.config} --train {tiny.data} --val {tiny.data}",
        "OUTPUT_DIR /shared/run": f"OUTPUT_DIR {folder} {more}",
    }.items():
        assert old in script, old
        script = script.replace(old, new)
    return script


def shell(script: str, log: Path, **environment: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with open(log, "w") as out:
        options = {"cwd": TRAIN_NET.parents[2], "env": environment, "stdout": out, "stderr": out}
        return subprocess.Popen(["bash", "-c", script], start_new_session=True, **options)


def test_the_pages_lines_for_two_machines(tiny, tmp_path):
    section = PAGE.read_text().partition("## 2 machines")[2]
    commands = ["torchrun" + text for text in section.partition("```sh")[2].partition("```")[0].split("torchrun")[1:]]
    assert [f"--node-rank {rank} " in text for rank, text in enumerate(commands)] == [True, True]
    port, logs = free_port(), [tmp_path / "log0", tmp_path / "log1"]
    parts = [
        shell(of_this_machine(text, tiny, port, tmp_path / "out").replace("HOST", "127.0.0.1"), log)
        for text, log in zip(commands, logs)
    ]
    texts = ends(parts, logs)
    assert "2 process(es)" in texts[0] and "Results on data/set.json" in texts[0] and "Results on" not in texts[1]


# One machine plays all nodes.
SRUN = """#!/bin/bash
for node in $(seq 0 $((SLURM_NNODES - 1))); do SLURM_NODEID=$node SLURM_PROCID=$node "$@" & done
for job in $(jobs -p); do wait "$job" || status=1; done; exit "${status:-0}"
"""


def test_the_pages_slurm_script_runs_and_resumes(tiny, tmp_path):
    script = PAGE.read_text().partition("## A SLURM job")[2].partition("```sh\n")[2].partition("```")[0]
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/sh\nprintf "127.0.0.1\\nother\\n"\n'}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    slurm = {"SLURM_NNODES": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]"}
    slurm["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for iterations, words in ((3, "nothing to resume"), (4, "at iteration 3 of 4")):
        text = of_this_machine(script, tiny, free_port(), tmp_path / "out", f"SOLVER.MAX_ITER {iterations}")
        ends([shell(text, tmp_path / "log", **slurm)], [tmp_path / "log"])
        log = (tmp_path / "out" / "log.txt").read_text()
        assert words in log and "2 process(es)" in log


def ends(processes: list[subprocess.Popen], logs: list[Path]) -> list[str]:
    """Wait until all have ended well; their logs."""
    try:
        statuses = [process.wait(200) for process in processes]
    finally:
        for process in processes:
            end(process)
    texts = [log.read_text() for log in logs]
    assert statuses == [0] * len(processes), "\n".join(texts)
    return texts
