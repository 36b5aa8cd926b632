"""See why: scores, box qualities and foreground weights of a run on annotated images, and how well they agree."""

from .alignment import Alignment, BoxAlignment, align_boxes, average
from .comparison import measure_set
from .explanation import MAPS, Explanation, explain_image
from .pictures import alignment_picture, figures_text, level_picture, prior_picture

__all__ = [
    "MAPS",
    "Alignment",
    "BoxAlignment",
    "Explanation",
    "align_boxes",
    "alignment_picture",
    "average",
    "explain_image",
    "figures_text",
    "level_picture",
    "measure_set",
    "prior_picture",
]
