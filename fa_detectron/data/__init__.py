"""Data sets: from files on disk to checked, registered sets and training batches.

    sources/       from a path to the files of a split, and their format
    readers/       one file per annotation format
    checks/        of boxes, classes and images; check_data checks all sets of a run
    images/        image files, and the pixels that the detector sees
    training/      augmentation and batches
    builtin/       the built-in set
    registration   sets given by path, as Detectron2 sees them

An image without a box is legal. DATALOADER.FILTER_EMPTY_ANNOTATIONS decides about training: True (Detectron2's
default, with which the published configs train) leaves such images out, False learns from them as background. Data
given by path has False unless a config or the command line says otherwise. The evaluation always has them. Images whose
boxes are all crowd boxes are never trained on: what they show is neither object nor background.
"""

from fa_detectron.data.builtin.dataset import ensure_builtin_dataset
from fa_detectron.data.checks.run_data import check_data
from fa_detectron.data.evaluation_set import annotated_records, evaluation_config
from fa_detectron.data.registration import hold_out_validation, register_from_config, resolve_data_arguments

__all__ = [
    "annotated_records",
    "check_data",
    "ensure_builtin_dataset",
    "evaluation_config",
    "hold_out_validation",
    "register_from_config",
    "resolve_data_arguments",
]
