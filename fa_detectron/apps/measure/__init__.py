"""What a detector costs: parameters, floating-point operations, memory and time, stage by stage."""

from .flops import count_flops
from .stages import Measurement, StageCost, measure, noise_image

__all__ = ["Measurement", "StageCost", "count_flops", "measure", "noise_image"]
