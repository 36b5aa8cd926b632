"""Checkpoints: loaded without running code, with a report of what did not fit, and never half-written."""

from fa_detectron.checkpoint.checkpointer import FeatureAlignCheckpointer, last_checkpoint, numbered_checkpoints

__all__ = ["FeatureAlignCheckpointer", "last_checkpoint", "numbered_checkpoints"]
