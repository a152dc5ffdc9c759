"""Whether the kernel has killed for want of memory: a count to compare before and after.

Standard library only: keepers use it.
"""

from __future__ import annotations

from pathlib import Path


def oom_kills() -> int | None:
    """How often a process of our control group was killed for memory, else of the machine."""
    for counter in (*_group_counters(), Path("/proc/vmstat")):
        try:
            lines = counter.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


def _group_counters() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            found.append(Path(f"/sys/fs/cgroup{group}/memory.events"))
        elif "memory" in controllers.split(","):
            found.append(Path(f"/sys/fs/cgroup/memory{group}/memory.oom_control"))
    return found
