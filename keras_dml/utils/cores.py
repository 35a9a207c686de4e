"""How many processor cores there are to use."""

import os


def available_cores() -> int:
    """The cores that this process may run on, at least 1: a container may have fewer than the machine."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
