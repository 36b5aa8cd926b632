"""What differs between operating systems."""

import os


def usable_cpus() -> int:
    """CPUs that this process may use; where the system does not tell (macOS, Windows), those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
