"""One tiny training run that several tests look at."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("detectron2")

from fa_detectron.apps.train import argument_parser
from fa_detectron.engine import Trainer, evaluate, setup, start_logging, start_process
from tests.engine.tiny import make_config, make_set


def run(*words: object) -> SimpleNamespace:
    """train_net.py's work in this process: cfg, results, trainer (None with --eval-only)."""
    args = argument_parser().parse_args([str(word) for word in words])
    start_logging()
    cfg = setup(args)
    start_process(cfg)
    if args.eval_only:
        return SimpleNamespace(cfg=cfg, results=evaluate(cfg, args.resume), trainer=None)
    trainer = Trainer(cfg)
    trainer.resume_or_load(args.resume)
    return SimpleNamespace(cfg=cfg, results=trainer.train(), trainer=trainer)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """config, data: a tiny detector's YAML and a COCO JSON; args: the words that name both."""
    folder = tmp_path_factory.mktemp("tiny")
    config, data = make_config(folder), make_set(folder / "data")
    return SimpleNamespace(config=config, data=data, args=("--config-file", config, "--train", data, "--val", data))


@pytest.fixture(scope="session")
def trained(tiny: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A finished run of 3 iterations, evaluated after 2 and 3; folder: its files, results: the last evaluation's."""
    folder: Path = tmp_path_factory.mktemp("run") / "out"
    done = run(*tiny.args, "OUTPUT_DIR", folder)
    return SimpleNamespace(folder=folder, results=done.results, cfg=done.cfg)
