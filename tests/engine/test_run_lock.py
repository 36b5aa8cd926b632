"""Two runs do not share a folder; a dead one does not keep it."""

import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import threading
import time

import pytest
from filelock import FileLock

pytest.importorskip("detectron2")

from fa_detectron.engine.run import lock as run_lock
from fa_detectron.engine.run.lock import RunLock
from fa_detectron.errors import UserError
from tests.engine.conftest import run
from tests.engine.tiny import TRAIN_NET

HOLD = """
import sys, time, torch
from fa_detectron.engine.run.lock import RunLock
lock = RunLock(sys.argv[1])
assert lock.acquire() == ""
if len(sys.argv) > 2:  # a data worker that lives on
    import os
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    print(pid, flush=True)
print("held", flush=True)
time.sleep(60)
"""


def holder(folder, *words) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), *words], stdout=subprocess.PIPE, text=True)
    while (line := process.stdout.readline()) and line != "held\n":
        process.forked = int(line)
    return process


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(run_lock, "_BEAT", 0.05)
    monkeypatch.setattr(run_lock, "_SILENCE", 1.0)


def record(folder, **content) -> None:
    (folder / ".run.json").write_text(json.dumps({"host": "other", "pid": os.getpid(), "since": "then", **content}))


def test_the_other_process_and_its_host_are_named_and_a_killed_one_lets_go(tmp_path):
    process = holder(tmp_path)
    try:
        refusal = RunLock(str(tmp_path)).acquire()
        assert f"process {process.pid} on {platform.node()}, since " in refusal and str(tmp_path) in refusal
    finally:
        process.kill()
        process.wait()
    start = time.monotonic()
    lock = RunLock(str(tmp_path))
    assert lock.acquire() == "" and time.monotonic() - start < 5
    lock.release()
    assert not (tmp_path / ".run.json").exists()


def test_a_forked_process_does_not_keep_it(tmp_path):
    process = holder(tmp_path, "fork")
    process.kill()
    process.wait()
    try:
        lock = RunLock(str(tmp_path))
        assert lock.acquire() == ""
        lock.release()
    finally:
        os.kill(process.forked, 9)


def test_a_process_number_that_is_in_use_again_proves_nothing(tmp_path):
    """Of a killed run: the record has a living process's number, this one's."""
    record(tmp_path, host=platform.node(), machine=run_lock._this_machine())
    lock = RunLock(str(tmp_path))
    assert lock.acquire() == ""
    lock.release()


@pytest.mark.parametrize("machine", ["another one", f"{platform.node()} before it was restarted"])
def test_a_silent_record_of_another_machine_is_stale(tmp_path, quick, machine):
    record(tmp_path, machine=machine)
    lock = RunLock(str(tmp_path))
    assert lock.acquire() == ""
    lock.release()


@pytest.mark.parametrize("locks", [True, False])
def test_a_record_that_is_being_touched_counts(tmp_path, quick, monkeypatch, locks):
    """On a shared file system whose locks do not reach the other machine, or that has none at all."""
    if not locks:
        monkeypatch.setattr(FileLock, "acquire", lambda self, timeout: (_ for _ in ()).throw(OSError("no locks")))
    record(tmp_path, machine="another one" if locks else run_lock._this_machine())
    released = threading.Event()
    threading.Thread(target=run_lock._touch, args=(str(tmp_path / ".run.json"), released)).start()
    try:
        assert f"process {os.getpid()} on other, since then, trains there" in RunLock(str(tmp_path)).acquire()
    finally:
        released.set()


def test_the_holder_touches_its_record(tmp_path, quick):
    lock = RunLock(str(tmp_path))
    lock.acquire()
    try:
        assert RunLock(str(tmp_path))._is_touched()
    finally:
        lock.release()


def test_a_run_refuses_a_folder_in_use_and_leaves_it_as_it_is(tiny, trained, tmp_path):
    process = holder(tmp_path)
    (tmp_path / "log.txt").write_text("of the other run")
    try:
        with pytest.raises(UserError, match=rf"process {process.pid} on .* trains there"):
            run(*tiny.args, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", tmp_path)
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "log.txt").read_text() == "of the other run" and not (tmp_path / "previous").exists()
    run(*tiny.args, "TEST.EVAL_PERIOD", 0, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", tmp_path)


def test_all_processes_of_a_run_end_in_time_when_the_folder_is_in_use(tiny, tmp_path):
    process = holder(tmp_path)
    words = [*tiny.args, "--num-processes", 2, "TEST.EVAL_PERIOD", 0, "OUTPUT_DIR", tmp_path]
    try:
        command = [sys.executable, str(TRAIN_NET), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    finally:
        process.kill()
        process.wait()
    assert done.returncode == 2 and len(re.findall("trains there", done.stderr)) == 1, done.stderr
    assert multiprocessing.active_children() == []
