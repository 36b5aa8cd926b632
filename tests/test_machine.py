"""Data checks and prediction without what macOS and Windows lack."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

from fa_detectron.machine import usable_cpus
from tests.engine.tiny import make_config, make_set

ROOT = Path(__file__).resolve().parents[1]
# As on Windows: the modules and functions are not there, and a folder cannot be opened.
ELSEWHERE = """
import os, runpy, signal, sys
import portalocker  # another package's, which asks for the system's name instead of the module
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for module, names in (
    (os, ("sched_getaffinity", "O_DIRECTORY", "fchmod", "geteuid")),
    (signal, ("SIGHUP", "SIGALRM", "alarm", "SIGKILL")),
):
    for name in names:
        delattr(module, name)
opened = os.open
def open_file(path, *args, **more):
    if isinstance(path, (str, os.PathLike)) and os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return opened(path, *args, **more)
os.open = open_file
sys.argv = sys.argv[1:]
if os.path.isfile(sys.argv[0]):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def elsewhere(folder: Path, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", ELSEWHERE, *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DETECTRON2_DATASETS": str(folder / "datasets")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def test_check_data_works_elsewhere(tmp_path):
    data = make_set(tmp_path / "data")
    done = elsewhere(tmp_path, "fa_detectron.check_data", data, "--output", tmp_path / "sheet.jpg")
    assert "Traceback" not in done.stderr and done.returncode in (0, 1), done.stderr
    assert (tmp_path / "sheet.jpg").is_file() and "4 images" in done.stdout


def test_training_and_prediction_work_elsewhere(tmp_path):
    data = make_set(tmp_path / "data")
    words = ("--config-file", make_config(tmp_path), "--train", data, "--val", data)
    done = elsewhere(
        tmp_path, "projects/FeatureAlign/train_net.py", *words, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    demo = ("projects/FeatureAlign/demo.py", "--run", tmp_path / "out", "--input", tmp_path / "data")
    done = elsewhere(tmp_path, *demo, "--output", tmp_path / "drawn", "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "drawn").iterdir())) == 4


def test_the_built_in_set_is_made_elsewhere(tmp_path):
    from fa_detectron.data.builtin import dataset as builtin

    code = "from fa_detectron.data.builtin import dataset; dataset.SPLITS = {'train': (1, 2), 'val': (2, 1)}; "
    (tmp_path / "make.py").write_text(code + f"print(dataset.ensure_builtin_dataset({str(tmp_path)!r}))")
    done = elsewhere(tmp_path, tmp_path / "make.py")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fa_shapes" / f"v{builtin.VERSION}" / "train.json").is_file()


def test_the_cpus_of_the_machine_count_where_the_system_does_not_tell(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cpus() == 3
