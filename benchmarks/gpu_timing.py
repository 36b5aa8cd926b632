"""Timing on a GPU: events around a call, CUDA graphs, peak memory. For a try also on the CPU."""

from collections.abc import Callable

import torch
from common import interleave, time_by_clock


def time_by_events(case: Callable[[], object]) -> float:
    """ms from before the call until the device is done with it; what the host needs to launch it counts."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    case()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def timed(
    cases: dict[str, Callable[[], object]], options, around: Callable[[Callable], Callable] | None = None
) -> dict[str, list[float]]:
    """ms a case, round by round: of events on a GPU, by the clock where the command is tried on a CPU.

    Args:
        options: with ``device``, ``repeats`` and ``seconds`` of benchmarks/gpu.py.
        around: a timer made of the usual one, as :func:`cold`.
    """
    timer = time_by_events if options.device == "cuda" else time_by_clock
    return interleave(cases, options.repeats, options.seconds, around(timer) if around else timer)


def cold(device: str) -> Callable[[Callable], Callable]:
    """Timers that first write 256 MiB, so that the L2 cache holds nothing of the call's."""
    large = torch.empty(2**28 if device == "cuda" else 2**20, dtype=torch.uint8, device=device)

    def around(timer: Callable) -> Callable:
        def run(case: Callable[[], object]) -> float:
            large.zero_()
            return timer(case)

        return run

    return around


def graphed(case: Callable[[], object], device: str) -> Callable[[], object]:
    """The call as a CUDA graph that is replayed: the device's work without the host's. On the CPU the call itself."""
    if device == "cpu":
        return case
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            case()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        case()
    return graph.replay


def peak_extra_memory(case: Callable[[], object], device: str) -> float:
    """MiB of device memory that one warm call takes at its peak, results included; NaN on the CPU."""
    if device == "cpu":
        return float("nan")
    case()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    result = case()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return peak / 2**20
