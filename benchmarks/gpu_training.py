"""Trains `configs/demo.yaml` with mixed precision for a while, and says how many images a second that takes.

python benchmarks/gpu_training.py --iterations 200      # configs/demo.yaml: built-in data; exit status 3: no Detectron2
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, a few iterations")
    options = parser.parse_args()
    if importlib.util.find_spec("detectron2") is None:
        print("Detectron2 is not installed")
        return 3
    iterations = 5 if options.rehearse else options.iterations
    with tempfile.TemporaryDirectory() as folder:
        words = ["--config-file", "configs/demo.yaml", "SOLVER.AMP.ENABLED", "True", "TEST.EVAL_PERIOD", "0"]
        words += ["SOLVER.MAX_ITER", iterations, "OUTPUT_DIR", folder, "DATASETS.TEST", "()"]
        words += ["SOLVER.IMS_PER_BATCH", "2"] if options.rehearse else []
        words += ["MODEL.DEVICE", "cpu" if options.rehearse else "cuda"]
        command = [sys.executable, ROOT / "projects/FeatureAlign/train_net.py", *map(str, words)]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        if status:
            return 1
        from detectron2.config import get_cfg

        from fa_detectron import add_feature_align_config

        cfg = get_cfg()
        add_feature_align_config(cfg)
        cfg.merge_from_file(f"{folder}/config.yaml")
        rows = [json.loads(line) for line in Path(folder, "metrics.json").read_text().splitlines()]
    times = [row["time"] for row in rows if "time" in row]
    print("| iterations | loss, first and last | s an iteration | images a second |\n|---|---|---|---|")
    losses = [row["total_loss"] for row in rows if "total_loss" in row]
    print(f"| {iterations} | {losses[0]:.3f}, {losses[-1]:.3f} | {times[-1]:.3f} "
          f"| {cfg.SOLVER.IMS_PER_BATCH / times[-1]:.1f} |")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
