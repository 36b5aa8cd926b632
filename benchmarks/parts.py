"""Which part of the method earns its place on small data: trains variants on several sets, and compares them.

python benchmarks/parts.py run --output FOLDER --queue benchmarks/parts_queue.txt \\
    --set bccd bccd:train bccd:val --set tumor tumor/train.json tumor/valid.json --set wagon wagon/train.json
python benchmarks/parts.py table --output FOLDER --json docs/parts.json --page docs/parts.md

The built-in sets "builtin" and "large" (one large object an image) need no --set. One without a validation split is a
COCO file that is cut in two by source photograph. Test splits have no place here.

The queue has a line for each group of runs: SETS VARIANT ITERATIONS SEEDS [KEY VALUE ...], the first and the fourth
separated by commas. VARIANT is one of METHODS or PEERS, or METHOD/NAME for a method with other settings: those of the
line, or of CHANGES. The queue is read again before every run, finished runs are skipped, unfinished ones resumed.
"""

import argparse
import os
from pathlib import Path

from parts_data import cut_by_photograph, make_builtin_test, make_large_objects
from parts_table import write_table
from training_runs import CHANGES, METHODS, PEERS, ROOT, Job, Runner, locked

from fa_detectron.data.builtin.dataset import ensure_builtin_dataset
from fa_detectron.errors import UserError, run_command


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
        if (method not in METHODS and method not in PEERS) or (change and not settings and change not in CHANGES):
            raise UserError(f"{path}:{number}: {variant} is no known variant; give its KEY VALUE pairs")
        if settings and not change:
            raise UserError(f"{path}:{number}: {variant} with other settings needs a name of its own: {variant}/NAME")
    return jobs


def data_words(sets: list[list[str]], output: Path, test: bool = False) -> dict[str, list[str]]:
    """A set: its arguments for train_net.py.

    Args:
        sets: NAME TRAIN, or NAME TRAIN EVALUATION, each; of the former a part is held out.
        output: where sets are made.
        test: evaluate the rendered sets on their test scenes.
    """
    os.environ["DETECTRON2_DATASETS"] = str(output / "data")  # where the runs make the built-in set
    builtin = ensure_builtin_dataset(str(output / "data"))
    builtin_val = make_builtin_test(output / "data" / "builtin") if test else builtin / "val.json"
    large = make_large_objects(output / "data" / "large")
    words = {
        "builtin": ["--train", f"{builtin}/train.json", "--val", str(builtin_val)],
        "large": ["--train", str(large["train"]), "--val", str(large["test" if test else "val"])],
    }
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
    text = "table: the runs of this folder, too"
    parser.add_argument("--with", type=Path, action="append", default=[], dest="with_runs", metavar="FOLDER", help=text)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a core each (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="table: write the runs' figures")
    parser.add_argument("--page", type=Path, metavar="FILE", help="table: put the tables between the page's markers")
    args = parser.parse_args()
    args.output = args.output.resolve()
    if args.command == "table":
        return write_table([args.output, *args.with_runs], args.json, args.page)
    with locked(args.output) as lock:
        data = data_words(args.set, args.output)
        Runner(args.output, args.config_file, lambda: read_queue(args.queue), data, lock).run(args.jobs)


if __name__ == "__main__":
    run_command(main)
