"""The command line: `fa-detectron VERB ...`, or `python -m fa_detectron VERB ...`."""

import importlib
import sys
from collections.abc import Sequence

import fa_detectron
from fa_detectron.errors import run_command

# Module of fa_detectron.apps, imported when it is asked for: torch and Detectron2 take seconds.
VERBS = {
    "train": ("train", "train a detector, or continue a run"),
    "eval": ("evaluate", "evaluate a checkpoint on a data set"),
    "predict": ("predict.command", "detect in images, a video or a camera"),
    "explain": ("explain.command", "show and measure how well scores and boxes agree"),
    "report": ("report.command", "write one HTML page about a run"),
    "export": ("export.command", "write a run as ONNX or torch.export, and compare it with PyTorch"),
    "measure": ("measure.command", "parameters, FLOPs, memory and speed, stage by stage"),
    "check-data": ("check_data", "look through a data set before training"),
    "doctor": ("doctor", "check the installation"),
}


def usage() -> str:
    rows = [f"  {verb:<11} {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(
        [
            "usage: fa-detectron VERB [OPTIONS] [KEY VALUE ...]",
            "",
            *rows,
            "",
            "fa-detectron VERB --help lists its options. Most verbs take --run RUN (a trained run's folder) or",
            "--config-file FILE and --weights FILE, --device, --output, and config keys with their values.",
        ]
    )


def main(words: Sequence[str] | None = None) -> None:
    """Run a verb and exit: 0 done, 1 and 3 as the verb says, 2 wrong input.

    Args:
        words: verb and arguments; None: of the command line.
    """
    verb, *rest = (sys.argv[1:] if words is None else list(words)) or ["--help"]
    if verb in ("-h", "--help", "--version"):
        print(fa_detectron.__version__ if verb == "--version" else usage())
        sys.exit(0)
    if verb not in VERBS:
        print(f"error: unknown verb {verb}; expected one of: {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(2)
    module = f"fa_detectron.apps.{VERBS[verb][0]}"
    # The import, too: it raises a UserError where Detectron2 is missing.
    sys.exit(run_command(lambda: importlib.import_module(module).main(rest)))


if __name__ == "__main__":
    main()
