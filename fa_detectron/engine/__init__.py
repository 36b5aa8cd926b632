"""Training and evaluation: arguments, config files, processes, the trainer, and what it reports."""

from fa_detectron.engine.arguments import argument_parser
from fa_detectron.engine.config_file import load_config
from fa_detectron.engine.eval_only import evaluate
from fa_detectron.engine.run.logs import start_logging, start_process
from fa_detectron.engine.run.processes import launch
from fa_detectron.engine.run_config import setup
from fa_detectron.engine.trainer import Trainer

__all__ = ["Trainer", "argument_parser", "evaluate", "launch", "load_config", "setup", "start_logging", "start_process"]
