"""A run's config in short, for people."""

import os

from detectron2.config import CfgNode

from fa_detectron.data.set_names import set_name
from fa_detectron.inference import Run
from fa_detectron.modeling.config import method_name


def config_in_short(run: Run) -> list[tuple[str, str]]:
    """(what, value) pairs; folders are left out."""
    cfg, parts = run.cfg, run.cfg.MODEL.FEATURE_ALIGN
    on = [
        name
        for name, enabled in (
            ("global attention (G-RFA)", parts.GLOBAL_ATTENTION.ENABLED),
            ("De-Subnet", parts.DE_SUBNET),
            ("feature filter", parts.FEATURE_FILTER),
            ("per-level Gaussians (MDQ)", parts.MDQ),
        )
        if enabled
    ]
    solver, inputs = cfg.SOLVER, cfg.INPUT
    short = " or ".join(map(str, inputs.MIN_SIZE_TRAIN))
    if inputs.MIN_SIZE_TRAIN_SAMPLING == "range":
        short = " to ".join(map(str, inputs.MIN_SIZE_TRAIN))
    pixels = " to ".join(f"{value:.7g}" for value in inputs.PIXEL_RANGE)
    return [
        ("Method", f"{method_name(cfg)}: {', '.join(on) or 'all parts of FeatureAlign off'}"),
        ("Backbone", _backbone(cfg)),
        ("Classes", str(parts.NUM_CLASSES)),
        ("Training data", _sets(cfg, cfg.DATASETS.TRAIN)),
        ("Evaluation data", _sets(cfg, cfg.DATASETS.TEST)),
        ("Images, training", f"short side {short}, long side at most {inputs.MAX_SIZE_TRAIN} pixels"),
        ("Images, testing", f"short side {inputs.MIN_SIZE_TEST}, long side at most {inputs.MAX_SIZE_TEST} pixels"),
        ("Pixel values", f"{pixels} become 0 to 255" if pixels else "8 bits, as they are"),
        ("Optimizer", f"{solver.OPTIMIZER}, rate {solver.BASE_LR:g}, {solver.LR_SCHEDULER_NAME}"),
        ("Length", f"{solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images"),
        ("Precision", f"mixed, {solver.AMP.DTYPE}".rstrip(", ") if solver.AMP.ENABLED else "float32"),
        ("Seed", str(cfg.SEED) if cfg.SEED >= 0 else "random"),
        ("Detections", f"score above {parts.SCORE_THRESH_TEST:g}, NMS at IoU {parts.NMS_THRESH_TEST:g}, "
                       f"at most {cfg.TEST.DETECTIONS_PER_IMAGE} an image"),
        ("Weights", os.path.basename(cfg.MODEL.WEIGHTS)),
    ]  # fmt: skip


def _backbone(cfg: CfgNode) -> str:
    if "timm" in cfg.MODEL.BACKBONE.NAME:
        return f"{cfg.MODEL.TIMM.NAME} (timm)"
    resnets = cfg.MODEL.RESNETS
    groups = f", {resnets.NUM_GROUPS} groups of {resnets.WIDTH_PER_GROUP}" if resnets.NUM_GROUPS > 1 else ""
    return f"ResNet-{resnets.DEPTH}{groups}"


def _sets(cfg: CfgNode, names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(set_name(cfg, name) for name in names) or "none"
