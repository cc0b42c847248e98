"""What of this machine a process may use: memory and cores, under the limits of its container."""

from __future__ import annotations

from pathlib import Path

import psutil

_CGROUPS = Path("/sys/fs/cgroup")


def free_memory(cgroups: Path = _CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process may still take: of the machine, and of every control group around it (Linux).

    Args:
        cgroups: where the control groups are mounted (version 2, or version 1 with its `memory` hierarchy).
        membership: the list of groups this process is in.
    """
    return min([psutil.virtual_memory().available, *_allowances(cgroups, membership)])


def _allowances(cgroups: Path, membership: Path) -> list[int]:
    """What each group with a limit still allows; groups of other containers are not visible and do not count."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text(encoding="utf-8").splitlines()]
    except OSError:  # no Linux
        return []
    free = []
    for _, controllers, group in lines:
        if controllers == "":
            root, limit, usage, cache = cgroups, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit, usage = cgroups / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        inside = root / group.strip("/")
        for folder in (inside, *inside.parents):
            found = _allowance(folder, limit, usage, cache)
            if found is not None:
                free.append(found)
            if folder == root:
                break
    return free


def _allowance(folder: Path, limit: str, usage: str, cache: str) -> int | None:
    """Limit less usage of one group; the page cache that can be dropped at once is no usage. None = no limit."""
    try:
        most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    # Version 1 writes "no limit" as the largest multiple of a page.
    if most == "max" or int(most) >= 2**60:
        return None
    return max(0, int(most) - used + int(stat.get(cache, 0)))


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(psutil.Process().memory_info().rss)


def cores() -> int:
    """CPU cores that this process may use."""
    process = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else psutil.cpu_count() or 1
