"""What the benchmarks share: interleaved timing, peak memory, a Markdown and a JSON table."""

import argparse
import ctypes
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


def keep_freed_memory() -> None:
    """Tells glibc's allocator to give nothing back to the system (Linux).

    Else every call that allocates much would be timed with the system's handing out of pages, which depends on what
    the case before it freed, and on virtual machines varies by milliseconds. For all cases alike.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, -1)):  # -1: whatever its size
        raise RuntimeError("the allocator refuses to keep freed memory")


@dataclass
class Timing:
    """Wall time of one call in ms: median and quartiles over the repetitions."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} - {self.high:.2f})"


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def time_by_clock(case: Callable[[], object]) -> float:
    """ms of one call, right after an untimed one.

    Else it would pay for the caches and the memory that the case before it has taken from it or given back to the
    system.
    """
    case()
    _synchronize()
    start = time.perf_counter()
    case()
    _synchronize()
    return 1e3 * (time.perf_counter() - start)


def interleave(
    cases: dict[str, Callable[[], object]],
    repeats: int,
    seconds: float = 60.0,
    timer: Callable[[Callable[[], object]], float] = time_by_clock,
) -> dict[str, list[float]]:
    """Times every case once a round, so that a noisy machine disturbs all alike; two warm-up rounds.

    Stops after ``repeats`` rounds, or after ``seconds`` once there are five. Returns ms, a list a case, round by round.
    """
    keep_freed_memory()
    for _ in range(2):
        for case in cases.values():
            case()
    times: dict[str, list[float]] = {name: [] for name in cases}
    begin = time.perf_counter()
    for done in range(repeats):
        if done >= 5 and time.perf_counter() - begin > seconds:
            break
        for name, case in cases.items():
            times[name].append(timer(case))
    return times


def summarize(times: list[float]) -> Timing:
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return Timing(median, low, high)


def ratio(slow: list[float], fast: list[float]) -> Timing:
    """How many times faster ``fast`` was, round by round."""
    return summarize([a / b for a, b in zip(slow, fast, strict=True)])


def _resident(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_extra_memory(call: Callable[[], object]) -> float:
    """MiB of resident memory that one warm call takes at its peak, results included, above what was there before."""
    call()
    ctypes.CDLL(None).malloc_trim(0)  # else freed blocks that the process still holds would hide what the call takes
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    result = call()
    peak = _resident("VmHWM") - before
    del result
    return peak


def parse_arguments(description: str) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=30, help="rounds (fewer where slow peers need over a minute)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: PyTorch's choice)")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    return parser


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    from fa_detectron.ops import native

    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    status = native.status()
    return {
        "cpu": name,
        "threads": str(torch.get_num_threads()),
        "instructions": status.cpu_capability or status.reason,
        "torch": torch.__version__,
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
    }


def report(rows: Iterable[dict], path: Path | None) -> None:
    """Prints ``rows`` (one dict a line, the same keys) as a Markdown table; writes them to ``path`` as JSON.

    Each row as it comes: a run that is cut short leaves what it has measured.
    """
    where, plain = machine(), []
    print("\n" + ", ".join(f"{key}: {value}" for key, value in where.items()) + "\n")
    for row in rows:
        if not plain:
            print("| " + " | ".join(row) + " |")
            print("|" + "---|" * len(row))
        cells = [f"{x:.1f}" if isinstance(x, float) else str(x) for x in row.values()]
        print("| " + " | ".join(cells) + " |", flush=True)
        plain.append({key: asdict(x) if isinstance(x, Timing) else x for key, x in row.items()})
        if path is not None:
            unfinished = path.with_name(path.name + ".partial")
            unfinished.write_text(json.dumps({"machine": where, "rows": plain}, indent=2) + "\n")
            os.replace(unfinished, path)
