"""The small recipe against Detectron2's own detectors on test splits: same backbone, trainer, data and iterations.

python benchmarks/small_sets.py tune  --output FOLDER --set bccd BCCD:train BCCD:val BCCD:test --set ...
python benchmarks/small_sets.py run   --output FOLDER --set ...
python benchmarks/small_sets.py table --output FOLDER --json docs/small_sets.json --page docs/small_sets.md

``tune`` trains every method of --methods at three learning rates on each set's training images and evaluates on its
validation images. The rate with the best mean AP over the sets is the method's; FOLDER/rates.json keeps it. ``tune``
says where the best rate is the smallest or the largest of the three: give more --rates then. ``run`` trains with the
chosen rates, seeds 0, 1 and 2, and evaluates on the test images, once. Both resume.

The built-in set and "large" (one large object an image) are always among the sets; their test images are drawn with
seeds of their own.
"""

import argparse
import json
import statistics
from pathlib import Path

from parts import data_words
from parts_table import collect, write_table
from training_runs import METHODS, PEERS, ROOT, Job, Runner, locked

from fa_detectron.errors import UserError, run_command
from fa_detectron.files import atomic_write

_SEEDS = (0, 1, 2)


def tuning_jobs(methods: list[str], sets: list[str], rates: list[float], iterations: int) -> list[Job]:
    """Every method at every rate on every set, seed 0."""
    return [
        Job(name, f"{method}/{rate:g}", iterations, 0, ("SOLVER.BASE_LR", f"{rate:g}"))
        for rate in rates
        for name in sets
        for method in methods
    ]


def best_rates(rows: list[dict], methods: list[str]) -> dict[str, float]:
    """The rate of each method with the best mean AP over the sets of ``rows`` (those of ``collect``).

    Raises:
        UserError: a method has not been tuned, or not on the same sets at every rate.
    """
    chosen = {}
    for method in methods:
        by_rate: dict[float, dict[str, float]] = {}
        for row in rows:
            name, _, rate = row["variant"].partition("/")
            if name == method:
                by_rate.setdefault(float(rate), {})[row["set"]] = row["AP"]
        if not by_rate or len({tuple(sorted(of)) for of in by_rate.values()}) > 1:
            raise UserError(f"{method} has not been tuned on the same sets at every rate; finish `small_sets.py tune`")
        means = {rate: statistics.fmean(of.values()) for rate, of in by_rate.items()}
        chosen[method] = max(means, key=means.__getitem__)
        shown = ", ".join(f"{rate:g}: {mean:.1f}" for rate, mean in sorted(means.items()))
        edge = "; the best is at the edge, try more --rates" if chosen[method] in (min(means), max(means)) else ""
        print(f"{method}: mean AP {shown}{edge}")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("tune", "run", "table"))
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the runs are")
    parser.add_argument("--config-file", default=str(ROOT / "configs" / "small_data.yaml"), metavar="FILE")
    parser.add_argument("--set", nargs=4, action="append", default=[], metavar=("NAME", "TRAIN", "VAL", "TEST"))
    parser.add_argument("--methods", nargs="+", default=["autoassign", "featurealign", "dagger", *PEERS], metavar="M")
    parser.add_argument("--rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3], metavar="RATE")
    parser.add_argument("--iterations", type=int, default=600, help="of a run; tuning takes half (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, a core each (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="table: write the runs' figures")
    parser.add_argument("--page", type=Path, metavar="FILE", help="table: put the tables between the page's markers")
    args = parser.parse_args()
    if unknown := set(args.methods) - METHODS.keys() - PEERS.keys():
        raise UserError(f"--methods {' '.join(sorted(unknown))}: expected some of {', '.join([*METHODS, *PEERS])}")
    args.output = args.output.resolve()
    tuning, final, rates_file = args.output / "tune", args.output / "test", args.output / "rates.json"
    if args.command == "table":
        return write_table([final], args.json, args.page)
    if args.command == "tune":
        with locked(tuning) as lock:
            data = data_words([[name, train, val] for name, train, val, _ in args.set], tuning)
            jobs = tuning_jobs(args.methods, list(data), args.rates, args.iterations // 2)
            Runner(tuning, args.config_file, lambda: jobs, data, lock).run(args.jobs)
        with atomic_write(str(rates_file)) as file:
            json.dump(best_rates(collect(tuning), args.methods), file, indent=1)
        return
    if not rates_file.exists():
        raise UserError(f"{rates_file} is not there: `small_sets.py tune` comes first")
    rates = json.loads(rates_file.read_text(encoding="utf-8"))
    with locked(final) as lock:
        data = data_words([[name, train, test] for name, train, _, test in args.set], final, test=True)
        jobs = [
            Job(name, method, args.iterations, seed, ("SOLVER.BASE_LR", f"{rates[method]:g}"))
            for seed in _SEEDS
            for name in data
            for method in args.methods
        ]
        Runner(final, args.config_file, lambda: jobs, data, lock).run(args.jobs)


if __name__ == "__main__":
    run_command(main)
