"""Checks of annotated sets: boxes, classes, images, and all sets of a run."""
