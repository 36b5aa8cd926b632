"""How the images of a step are shared out, and what it changes when a run goes on with other shares."""

from typing import NamedTuple


class BatchShares(NamedTuple):
    images: int  # of a step
    workers: int  # processes
    parts: int  # batches of a worker, one after the other (SOLVER.ACCUMULATION_STEPS)

    def __str__(self) -> str:
        parts = f", {self.parts} parts each" if self.parts > 1 else ""
        return f"{self.images} images over {self.workers} process{'es' if self.workers > 1 else ''}{parts}"


def what_differs(before: BatchShares, now: BatchShares) -> str:
    """What it changes that a run of ``before`` is resumed as one of ``now``; "" for nothing."""
    if before == now:
        return ""
    if before.images != now.images:
        change = "an iteration has another number of images, so that their order is another, and the rate and the "
        change += "length of the schedule are those of the new config"
    elif before.workers * before.parts != now.workers * now.parts:
        change = "the images go on where they stopped, but which of them share a part of a batch is another "
        change += "(DATALOADER.ASPECT_RATIO_GROUPING keeps wide and high ones apart)"
    else:
        change = "the images go on as they would have; only what a step draws (dropout) is another in other processes"
    return f"a step was {before}, now it is {now}: {change}"
