"""Which part of the method earns its place on small data: trains variants on several sets, and compares them.

python benchmarks/parts.py run --output FOLDER --queue benchmarks/parts_queue.txt \\
    --set bccd bccd:train bccd:val --set tumor tumor/train.json tumor/valid.json --set wagon wagon/train.json
python benchmarks/parts.py table --output FOLDER --json docs/parts.json --page docs/parts.md

The built-in sets "builtin" and "large" (one large object an image) need no --set. One without a validation split is a
COCO file that is cut in two by source photograph. Test splits have no place here.

The queue has a line for each group of runs: SETS VARIANT ITERATIONS SEEDS [KEY VALUE ...], the first and the fourth
separated by commas. VARIANT is one of METHODS, or METHOD/NAME for a method with other settings: those of the line, or
of CHANGES. The queue is read again before every run, finished runs are skipped, unfinished ones resumed.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from parts_data import cut_by_photograph, make_large_objects
from parts_table import write_table

from fa_detectron.data.builtin.scenes import CLASS_NAMES
from fa_detectron.engine.config_file import load_config
from fa_detectron.errors import UserError, run_command

ROOT = Path(__file__).resolve().parents[1]
_FA = "MODEL.FEATURE_ALIGN."
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
# Keys that the data and the machine settle, or that do not touch the result.
_FREE = ("MODEL.DEVICE", f"{_FA}NUM_CLASSES", "SOLVER.REFERENCE_WORLD_SIZE", "TEST.EVAL_PERIOD")
CHANGES = {
    "static": [f"{_FA}TRAIN_PRIORS", "False"],
    "gated": [f"{_FA}GLOBAL_ATTENTION.GATED", "True"],
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

    def overrides(self, output: Path) -> list[str]:
        method, _, change = self.variant.partition("/")
        on = METHODS[method].split()
        settings = {f"{_FA}{key}": key in on for key in _SWITCHES} | {
            f"{_FA}TRAIN_PRIORS": True,
            f"{_FA}GLOBAL_ATTENTION.GATED": False,
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


def read_queue(path: Path) -> list[Job]:
    """The jobs of a queue file, in its order.

    Raises:
        UserError: a line is not a job; the message quotes it.
    """
    jobs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            sets, variant, iterations, seeds, *settings = words
            jobs += [
                Job(data, variant, int(iterations), int(seed), tuple(settings))
                for seed in seeds.split(",")
                for data in sets.split(",")
            ]
        except ValueError:
            raise UserError(f"{path}:{number}: expected SETS VARIANT ITERATIONS SEEDS [KEY VALUE ...]") from None
        method, _, change = variant.partition("/")
        if method not in METHODS or (change and not settings and change not in CHANGES):
            raise UserError(f"{path}:{number}: {variant} is no known variant; give its KEY VALUE pairs")
        if settings and not change:
            raise UserError(f"{path}:{number}: {variant} with other settings needs a name of its own: {variant}/NAME")
    return jobs


class Runner:
    """Trains and measures the jobs of the queue.

    Args:
        args: of the command line.
        data: a set, the words that name its training and validation data to train_net.py.
        lock: file descriptor of the locked file of --output; the runs hold it, too, and may outlive this process.
    """

    def __init__(self, args: argparse.Namespace, data: dict[str, list[str]], lock: int) -> None:
        self._output, self._queue, self._config, self._data = args.output, args.queue, args.config_file, data
        self._lock = lock
        self._choosing = threading.Lock()
        self._taken: set[Path] = set()

    def work(self) -> int:
        """Takes job after job until none is left; how many failed."""
        failed = 0
        while (job := self._take()) is not None:
            folder = job.folder(self._output)
            start = time.monotonic()
            status = self._train(job, folder) or self._measure(folder)
            failed += status != 0
            minutes = (time.monotonic() - start) / 60
            print(f"{folder}: {f'failed with status {status}' if status else 'done'}, {minutes:.1f} min", flush=True)
        return failed

    def _take(self) -> Job | None:
        with self._choosing:
            for job in read_queue(self._queue):
                folder = job.folder(self._output)
                if job.data not in self._data:
                    raise UserError(f"{self._queue}: set {job.data} is unknown; give --set {job.data} TRAIN [VAL]")
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
        return self._call("train_net.py", [*words, *job.overrides(self._output)], folder)

    def _measure(self, folder: Path) -> int:
        return self._call("explain.py", ["--run", folder, "--average", "--json", folder / "alignment.json"], folder)

    def _call(self, program: str, words: list, folder: Path) -> int:
        """One of the project's programs, on one core and behind everything else."""
        folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        command = ["nice", "-n", "19", sys.executable, ROOT / "projects" / "FeatureAlign" / program, *words]
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


def data_words(sets: list[list[str]], output: Path) -> dict[str, list[str]]:
    """A set: its arguments for train_net.py."""
    builtin = "DATASETS.TRAIN ('fa_shapes_train',) DATASETS.TEST ('fa_shapes_val',)".split()
    words = {"builtin": [*builtin, f"{_FA}NUM_CLASSES", str(len(CLASS_NAMES))]}
    os.environ["DETECTRON2_DATASETS"] = str(output / "data")  # where the runs make the built-in set
    train, val = make_large_objects(output / "data" / "large")
    words["large"] = ["--train", str(train), "--val", str(val)]
    for name, *paths in sets:
        if len(paths) not in (1, 2):
            raise UserError(f"--set {name}: expected NAME TRAIN [VAL]")
        train, *given = paths
        if given:
            words[name] = ["--train", train, "--val", *given]
        else:
            halves = cut_by_photograph(Path(train), output / "data" / name)
            images = str(Path(train).resolve().parent)
            words[name] = ["--train", str(halves[0]), "--val", str(halves[1]), "--images", images]
    return words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the runs are")
    parser.add_argument("--queue", type=Path, default=ROOT / "benchmarks" / "parts_queue.txt", metavar="FILE")
    parser.add_argument("--config-file", default=str(ROOT / "configs" / "small_data.yaml"), metavar="FILE")
    parser.add_argument("--set", nargs="+", action="append", default=[], metavar=("NAME TRAIN", "VAL"))
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a core each (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="table: write the runs' figures")
    parser.add_argument("--page", type=Path, metavar="FILE", help="table: put the tables between the page's markers")
    args = parser.parse_args()
    args.output = args.output.resolve()
    if args.command == "table":
        return write_table(args.output, args.json, args.page)
    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{args.output}: another parts.py, or a run that one has left, is at work there") from None
        runner = Runner(args, data_words(args.set, args.output), lock.fileno())
        with ThreadPoolExecutor(args.jobs) as pool:
            failed = sum(worker.result() for worker in [pool.submit(runner.work) for _ in range(args.jobs)])
        if failed:
            raise UserError(f"{failed} runs failed; the reason stands in the output.txt of their folders")


if __name__ == "__main__":
    run_command(main)
