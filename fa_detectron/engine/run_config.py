"""From command-line arguments to the checked config of a run. Nothing is written here."""

import argparse
import logging
import os

from detectron2.config import CfgNode

from fa_detectron.checkpoint import last_checkpoint, numbered_checkpoints
from fa_detectron.engine.config_file import given_keys, load_config, set_input_size
from fa_detectron.engine.resume import check_resumable
from fa_detectron.engine.run.processes import count_processes, is_first_process, under_torchrun
from fa_detectron.engine.run.resources import check_folder
from fa_detectron.engine.schedule import choose_length, keep_length, scale_to_workers, settle_schedule
from fa_detectron.errors import UserError

_SAMPLE_PICTURES = ("INPUT.SAMPLE_PICTURES", 16)  # for a run on data given by path
_VAL_FRACTION = "DATASETS.VAL_FRACTION"
_FILTER_EMPTY = (
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS"  # Detectron2's default, True, is what the published configs train with
)


def setup(args: argparse.Namespace) -> CfgNode:
    """Load the config, apply the arguments, register and check the data.

    Args:
        args: what the parsers of `fa-detectron train` and `fa-detectron eval` return.

    Returns:
        The frozen config of the run; MODEL.DEVICE is what it runs on.

    Raises:
        UserError: wrong arguments, config or data.
    """
    from fa_detectron.data import check_data, register_from_config, resolve_data_arguments
    from fa_detectron.data.sources.find import parse_source

    cfg = load_config(args.config_file, args.opts)
    if (args.resume or args.eval_only) and "OUTPUT_DIR" not in args.opts:
        cfg.OUTPUT_DIR = _run_folder(args.config_file) or cfg.OUTPUT_DIR
    given, typed = given_keys(args.config_file, args.opts), set(args.opts[0::2])
    if args.val and _VAL_FRACTION in typed and cfg.DATASETS.VAL_FRACTION:
        raise UserError("--val-fraction goes without --val: it cuts the validation set from the training set")
    if cfg.TEST.PATIENCE < 0:
        raise UserError(
            f"--patience (TEST.PATIENCE) is {cfg.TEST.PATIENCE}, must be at least 1, or 0 for no early stop"
        )
    if args.size is not None:
        set_input_size(cfg, args.size)
    ours = cfg.DATASETS.TRAIN_PATH or cfg.DATASETS.VAL_PATH
    if args.eval_only and args.val and ours and str(parse_source(args.val, "val")) != cfg.DATASETS.VAL_PATH:
        cfg.DATASETS.IMAGES_ROOT = ""  # that of the run's own data, where other images may have the same names
    resolve_data_arguments(cfg, train=args.train or "", val=args.val or "", images=args.images or "")
    if cfg.DATASETS.TRAIN_PATH and _FILTER_EMPTY not in given:
        cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    if cfg.DATASETS.TRAIN_PATH and _SAMPLE_PICTURES[0] not in given:
        cfg.INPUT.SAMPLE_PICTURES = _SAMPLE_PICTURES[1]
    local, cfg.MODEL.DEVICE = count_processes(args, cfg)
    world = int(os.environ["WORLD_SIZE"]) if under_torchrun() else local * args.num_machines
    if not args.eval_only:
        cfg = scale_to_workers(cfg, world * max(1, cfg.SOLVER.ACCUMULATION_STEPS))
        choose_length(cfg, typed)
    _check(cfg, args, world)
    if is_first_process() and args.machine_rank == 0:  # one process checks the data for all
        resumes = _resumes(cfg, args)
        before = check_resumable(cfg) if resumes else None
        if not args.eval_only:
            _keep_of_resumed_run(cfg, before)
            _settle_validation(cfg)
        register_from_config(cfg)
        images = check_data(cfg, training=not args.eval_only)
        if not args.eval_only:
            settle_schedule(cfg, images, given, keep_length(cfg, before, given, typed) if resumes else 0)
    cfg.freeze()
    return cfg


def _keep_of_resumed_run(cfg: CfgNode, before: CfgNode | None) -> None:
    """Take what a resumed run has measured on its data: held-out images and the range of pixel values.

    Args:
        before: the config of the run so far; None for a new run, or if it cannot be read.
    """
    from fa_detectron.data.registration import VAL_NAME

    if before is None:
        return
    if not cfg.DATASETS.TEST:
        cfg.DATASETS.VAL_IMAGES = before.DATASETS.VAL_IMAGES
        cfg.DATASETS.TEST = (VAL_NAME,) if cfg.DATASETS.VAL_IMAGES else ()
    cfg.INPUT.PIXEL_RANGE = cfg.INPUT.PIXEL_RANGE or before.INPUT.PIXEL_RANGE


def _settle_validation(cfg: CfgNode) -> None:
    """Hold out validation images if there is no validation set."""
    from fa_detectron.data import hold_out_validation

    hold_out_validation(cfg)
    if not cfg.DATASETS.TEST:
        logging.getLogger("fa_detectron.engine").warning("DATASETS.TEST is empty: this run will not be evaluated")


def _run_folder(config_file: str) -> str:
    """The folder of the run whose config.yaml ``config_file`` is, even if it was moved; "" for other files."""
    folder, name = os.path.split(os.path.abspath(config_file))
    return folder if name == "config.yaml" and os.path.isfile(os.path.join(folder, "log.txt")) else ""


def _resumes(cfg: CfgNode, args: argparse.Namespace) -> bool:
    """Whether training continues from a checkpoint, so that MODEL.WEIGHTS is not read."""
    return bool(
        args.resume and not args.eval_only and (numbered_checkpoints(cfg.OUTPUT_DIR) or last_checkpoint(cfg.OUTPUT_DIR))
    )


def _check(cfg: CfgNode, args: argparse.Namespace, world: int) -> None:
    check_folder(cfg.OUTPUT_DIR)
    if args.eval_only:
        if not cfg.DATASETS.TEST:
            raise UserError("DATASETS.TEST is empty; give --data PATH (train_net.py: --val PATH) or a registered set")
        if not cfg.MODEL.WEIGHTS and not args.resume:
            raise UserError("which weights are to be evaluated? Give --weights FILE (it sets MODEL.WEIGHTS)")
        return
    if not cfg.DATASETS.TRAIN:
        raise UserError("DATASETS.TRAIN is empty; give --train PATH or a registered set")
    if cfg.SOLVER.MAX_ITER < 1:
        raise UserError(f"SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}, must be at least 1")
    solver, parts = cfg.SOLVER, world * max(1, cfg.SOLVER.ACCUMULATION_STEPS)
    if solver.ACCUMULATION_STEPS < 1:
        raise UserError(f"SOLVER.ACCUMULATION_STEPS is {solver.ACCUMULATION_STEPS}, must be at least 1")
    if solver.IMS_PER_BATCH < 1 or solver.IMS_PER_BATCH % parts:
        steps = f" times {solver.ACCUMULATION_STEPS} accumulation steps" if solver.ACCUMULATION_STEPS > 1 else ""
        raise UserError(
            f"SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH} cannot be shared evenly by {world} processes{steps}"
        )
    if solver.CHECKPOINTS_KEPT < 0 or solver.CHECKPOINTS_KEPT == 1:
        raise UserError(f"SOLVER.CHECKPOINTS_KEPT is {solver.CHECKPOINTS_KEPT}, must be at least 2, or 0 to keep all")
    weights = "" if _resumes(cfg, args) else cfg.MODEL.WEIGHTS
    if weights and "://" not in weights and not os.path.isfile(weights):
        raise UserError(f"MODEL.WEIGHTS {weights}: no such file")
