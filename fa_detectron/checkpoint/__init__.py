"""Checkpoints that load without running code, say what did not fit, and are never half-written."""

from fa_detectron.checkpoint.checkpointer import FeatureAlignCheckpointer, last_checkpoint, numbered_checkpoints

__all__ = ["FeatureAlignCheckpointer", "last_checkpoint", "numbered_checkpoints"]
