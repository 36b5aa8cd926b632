#!/usr/bin/env python
"""Train or evaluate FeatureAlign, FeatureAlign† or AutoAssign; see --help and README.md."""

import argparse
from typing import Any

from detectron2.config import CfgNode

from fa_detectron.engine import Trainer, argument_parser, evaluate, launch, setup, start_logging, start_process
from fa_detectron.errors import run_command


def main(args: argparse.Namespace, cfg: CfgNode) -> dict[str, Any]:
    """The work of one process."""
    start_process(cfg)
    if args.eval_only:
        return evaluate(cfg, resume=args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def run() -> None:
    args = argument_parser().parse_args()
    start_logging()
    launch(main, args, setup(args))


if __name__ == "__main__":
    run_command(run)
