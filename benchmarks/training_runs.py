"""Training runs of benchmarks that compare methods: what a run is, and a runner that trains and measures them."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fa_detectron.engine.config_file import load_config
from fa_detectron.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
_PROJECT = ROOT / "projects" / "FeatureAlign"
PREFIX = "MODEL.FEATURE_ALIGN."
_SWITCHES = ("FEATURE_FILTER", "MDQ", "DE_SUBNET", "GLOBAL_ATTENTION.ENABLED")
METHODS = {
    "autoassign": "",
    "ff": "FEATURE_FILTER",
    "mdq": "MDQ",
    "desubnet": "DE_SUBNET",
    "grfa": "GLOBAL_ATTENTION.ENABLED",
    "featurealign": "FEATURE_FILTER MDQ",
    "featurealign-desubnet": "FEATURE_FILTER MDQ DE_SUBNET",
    "featurealign-grfa": "FEATURE_FILTER MDQ GLOBAL_ATTENTION.ENABLED",
    "dagger": "FEATURE_FILTER MDQ DE_SUBNET GLOBAL_ATTENTION.ENABLED",
}
# Detectron2's detectors, by benchmarks/peers.py.
PEERS = {"fcos": "FCOSPeer", "retinanet": "RetinaNetPeer"}
# Keys that the data and the machine settle, or that do not touch the result.
_FREE = ("MODEL.DEVICE", f"{PREFIX}NUM_CLASSES", "SOLVER.REFERENCE_WORLD_SIZE", "TEST.EVAL_PERIOD")
CHANGES = {
    "static": [f"{PREFIX}TRAIN_PRIORS", "False"],
    "gated": [f"{PREFIX}GLOBAL_ATTENTION.GATED", "True"],
    "fast-priors": ["SOLVER.LR_FACTORS", "[('mu',20.0),('sigma',20.0)]"],
}


@dataclass(frozen=True)
class Job:
    """One run of the queue."""

    data: str
    variant: str
    iterations: int
    seed: int
    settings: tuple[str, ...]  # KEY VALUE ...

    def folder(self, output: Path) -> Path:
        return output / self.data / self.variant / f"{self.iterations}-seed{self.seed}"

    @property
    def is_peer(self) -> bool:
        return self.variant.partition("/")[0] in PEERS

    def overrides(self, output: Path) -> list[str]:
        method, _, change = self.variant.partition("/")
        on = METHODS.get(method, "").split()
        settings = {f"{PREFIX}{key}": key in on for key in _SWITCHES} | {
            "MODEL.META_ARCHITECTURE": PEERS.get(method, "FeatureAlign"),
            f"{PREFIX}TRAIN_PRIORS": True,
            f"{PREFIX}GLOBAL_ATTENTION.GATED": False,
            "SOLVER.MAX_ITER": self.iterations,
            "SOLVER.CHECKPOINT_PERIOD": 100,
            "SEED": self.seed,
            "TEST.EVAL_PERIOD": 0,
            "TEST.SAMPLE_PICTURES": 0,
            "INPUT.SAMPLE_PICTURES": 0,
            "DATALOADER.NUM_WORKERS": 1,
            "OUTPUT_DIR": self.folder(output),
        }
        words = [word for key, value in settings.items() for word in (key, str(value))]
        return [*words, *(self.settings or CHANGES.get(change, ()))]


class Runner:
    """Trains and measures jobs.

    Args:
        output: where the runs are.
        config: the YAML file that all start from.
        jobs: what is to be done, first things first; asked again before every run.
        data: a set, the words that name its training and evaluation data to train_net.py.
        lock: file descriptor of the locked file of ``output``; the runs hold it, too, and may outlive this process.
    """

    def __init__(
        self, output: Path, config: str, jobs: Callable[[], list[Job]], data: dict[str, list[str]], lock: int
    ) -> None:
        self._output, self._config, self._jobs, self._data, self._lock = output, config, jobs, data, lock
        self._choosing = threading.Lock()
        self._taken: set[Path] = set()

    def run(self, side_by_side: int) -> None:
        """Do all jobs, so many at a time, a core each.

        Raises:
            UserError: some failed.
        """
        with ThreadPoolExecutor(side_by_side) as pool:
            failed = sum(worker.result() for worker in [pool.submit(self._work) for _ in range(side_by_side)])
        if failed:
            raise UserError(f"{failed} runs failed; the reason stands in the output.txt of their folders")

    def _work(self) -> int:
        """Takes job after job until none is left; how many failed."""
        failed = 0
        while (job := self._take()) is not None:
            folder = job.folder(self._output)
            start = time.monotonic()
            status = self._train(job, folder) or self._measure(job, folder)
            failed += status != 0
            minutes = (time.monotonic() - start) / 60
            print(f"{folder}: {f'failed with status {status}' if status else 'done'}, {minutes:.1f} min", flush=True)
        return failed

    def _take(self) -> Job | None:
        with self._choosing:
            for job in self._jobs():
                folder = job.folder(self._output)
                if job.data not in self._data:
                    raise UserError(f"set {job.data} is unknown; give it with --set {job.data}")
                if folder not in self._taken and not self._finished(job, folder):
                    self._taken.add(folder)
                    return job
        return None

    def _finished(self, job: Job, folder: Path) -> bool:
        """Whether the run is complete; one that was made with other settings is an error, not a result."""
        if not (folder / "alignment.json").exists():
            return False
        was, now = load_config(str(folder / "config.yaml")), load_config(self._config, job.overrides(self._output))
        now.SOLVER.WARMUP_ITERS = min(now.SOLVER.WARMUP_ITERS, job.iterations // 10)  # as the trainer does
        for section in ("MODEL", "SOLVER", "INPUT", "TEST"):
            for key, before, after in _differences(was[section], now[section], section):
                if key not in _FREE:
                    raise UserError(f"{folder} was made with {key} {before}, now {after}: name the variant anew")
        return True

    def _train(self, job: Job, folder: Path) -> int:
        words = ["--config-file", self._config, "--num-gpus", "0", "--resume", *self._data[job.data]]
        program = ROOT / "benchmarks" / "peers.py" if job.is_peer else _PROJECT / "train_net.py"
        return self._call(program, [*words, *job.overrides(self._output)], folder)

    def _measure(self, job: Job, folder: Path) -> int:
        figures = folder / "alignment.json"
        if job.is_peer:  # the measure needs this project's head
            figures.write_text("null")
            return 0
        return self._call(_PROJECT / "explain.py", ["--run", folder, "--average", "--json", figures], folder)

    def _call(self, program: Path, words: list, folder: Path) -> int:
        """One of the project's programs, on one core and behind everything else."""
        folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        command = ["nice", "-n", "19", sys.executable, program, *words]
        with open(folder / "output.txt", "a", encoding="utf-8") as log:
            return subprocess.run(
                list(map(str, command)),
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
                pass_fds=(self._lock,),
                check=False,
            ).returncode


def _differences(was: dict, now: dict, prefix: str) -> list[tuple[str, object, object]]:
    found = []
    for key in was.keys() & now.keys():
        before, after, name = was[key], now[key], f"{prefix}.{key}"
        if isinstance(before, dict) and isinstance(after, dict):
            found += _differences(before, after, name)
        elif json.dumps(before) != json.dumps(after):  # YAML gives lists for tuples
            found.append((name, before, after))
    return found


@contextmanager
def locked(output: Path) -> Iterator[int]:
    """Keep others out of a folder of runs; the file descriptor of the lock.

    Raises:
        UserError: somebody is at work there.
    """
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{output}: another script, or a run that one has left, is at work there") from None
        yield lock.fileno()
