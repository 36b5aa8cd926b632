"""What a trained run does level by level: where the weights and the best scores lie, what C5 adds, how FF pulls.

python benchmarks/level_statistics.py RUN [RUN ...] --count 60 [--json FILE]

Of each box of the run's first validation images:
  W          the share of the foreground weights that a level has
  wins       the share of boxes whose best score lies on the level, and the mean IoU of the box predicted there
  best IoU   of all boxes that the level predicts from within the object
and of the run: the mean of mu and sigma on each level; the share of the variance of P3 and P4, before their output
convolutions, that comes from C5; with G-RFA the variance of the encoder's output from cell to cell, averaged over the
channels (about 1 when it tells cells apart, 0 where it has collapsed to a constant); the factors by which FF scales
dP/dq and dP/dR, averaged with W P.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate

from fa_detectron.apps.explain import explain_image
from fa_detectron.data import annotated_records
from fa_detectron.errors import run_command
from fa_detectron.inference import Predictor, Run, load_run
from fa_detectron.ops.reference.box import paired_iou

_IMAGES_OF_MAPS = 8


@torch.no_grad()
def level_rows(run: Run, records: list[dict]) -> dict[str, Any]:
    """The figures of boxes, a list over the levels each, and FF's factors."""
    levels = len(run.model.head.strides)
    weight, wins = torch.zeros(levels), torch.zeros(levels)
    win_iou: list[list[float]] = [[] for _ in range(levels)]
    best_iou: list[list[float]] = [[] for _ in range(levels)]
    by_q, by_r = [], []
    for record in records:
        seen = explain_image(run, record)
        box, location = seen.pairs  # (S,)
        level = torch.repeat_interleave(torch.arange(levels), torch.tensor([h * w for h, w in seen.sizes]))[location]
        iou, _ = paired_iou(seen.predictions[location], seen.boxes[box])
        q, r = seen.scores[location, seen.classes[box]], seen.quality
        for g in range(len(seen.boxes)):
            own = (box == g).nonzero().squeeze(1)
            if not len(own):
                continue
            weight.index_add_(0, level[own], seen.weight[own])
            winner = own[q[own].argmax()]
            wins[level[winner]] += 1
            win_iou[level[winner]].append(iou[winner].item())
            for number in level[own].unique().tolist():
                best_iou[number].append(iou[own[level[own] == number]].max().item())
            gap, share = q[own] - r[own], seen.weight[own] * q[own] * r[own]
            factor, share = (2 - gap.square()) / 2, share / share.sum()
            by_q.append((share * (factor - q[own] * gap)).sum().item())
            by_r.append((share * (factor + r[own] * gap)).sum().item())
    return {
        "W": (weight / weight.sum()).tolist(),
        "wins": (wins / wins.sum()).tolist(),
        "win IoU": [_mean(values) for values in win_iou],
        "best IoU": [_mean(values) for values in best_iou],
        "FF dP/dq, dP/dR": [_mean(by_q), _mean(by_r)],
    }


@torch.no_grad()
def map_rows(run: Run, records: list[dict]) -> dict[str, Any]:
    """The figures of the maps and of the priors."""
    model, backbone = run.model, run.model.backbone
    predictor = Predictor(run)
    items = [predictor.model_input(predictor.reader.read(record["file_name"])) for record in records[:_IMAGES_OF_MAPS]]
    images = model.preprocess(items)
    maps = backbone.bottom_up(images.tensor)
    rows: dict[str, Any] = {}
    top = backbone.in_features[-1]
    if hasattr(backbone, "global_attention"):
        encoder, outputs = backbone.global_attention, []
        hook = encoder.layers[-1].register_forward_hook(lambda module, args, output: outputs.append(output))
        maps[top] = encoder(maps[top])  # with the gate, C5 is in it, too
        hook.remove()
        rows["variance of the encoder's output"] = [outputs[0].flatten(0, 1).var(0).mean().item()]  # (N * S, d)
    sides = [lateral(maps[name]) for name, lateral in zip(reversed(backbone.in_features), backbone.lateral_convs)]
    shares = []
    for count in (3, 2):  # P3, P4
        size = sides[count - 1].shape[-2:]
        variances = [_spatial_variance(interpolate(side, size=size, mode="nearest")) for side in sides[:count]]
        shares.append(variances[0] / sum(variances))
    rows["share of C5 in P3, P4"] = shares
    for name in ("mu", "sigma"):
        prior = getattr(model, name).detach()
        rows[name] = prior.flatten(1).mean(1).tolist() if prior.dim() == 3 else [prior.mean().item()]
    return rows


def _spatial_variance(x: torch.Tensor) -> float:
    return (x - x.mean((0, 2, 3), keepdim=True)).square().mean().item()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", metavar="RUN", help="the OUTPUT_DIR of a training run")
    parser.add_argument("--count", type=int, default=60, metavar="N", help="images to look at (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    args = parser.parse_args()
    figures = {}
    for folder in args.run:
        run = load_run(folder, device="cpu")
        records = annotated_records(run.cfg, "", "")[: args.count]
        figures[folder] = level_rows(run, records) | map_rows(run, records)
        print(f"\n{folder}\n" + " " * 34 + "".join(f"{name:>8}" for name in run.model.in_features))
        for name, values in figures[folder].items():
            print(f"{name:34}" + "".join(f"{value:8.3f}" for value in values), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1).replace("NaN", "null") + "\n")


if __name__ == "__main__":
    run_command(main)
