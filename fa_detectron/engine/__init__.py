"""Training and evaluation.

config_file, run_config      from arguments and YAML to the checked config of a run
trainer, step, hooks         the loop, one step, and what happens between steps
solver, schedule, resume     optimizer and learning rate, length of a run, what it starts from
evaluators, results          metrics, tables and files; eval_only evaluates a checkpoint
progress                     how long a run takes
run/                         processes, signals, logs, folder, lock and resources of a run
"""

from fa_detectron.engine.config_file import load_config
from fa_detectron.engine.eval_only import evaluate
from fa_detectron.engine.run.logs import start_logging, start_process
from fa_detectron.engine.run.processes import launch
from fa_detectron.engine.run_config import setup
from fa_detectron.engine.trainer import Trainer

__all__ = ["Trainer", "evaluate", "launch", "load_config", "setup", "start_logging", "start_process"]
