"""How much memory a piece of work adds to a process, at its peak."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch


def peak(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that `work` needs beyond what exists; on a CPU the kernel's own high-water mark, so Linux only."""
    with torch.inference_mode():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            work()
            return torch.cuda.max_memory_allocated() - before
        Path("/proc/self/clear_refs").write_text("5")
        before = _status("VmRSS")
        work()
        return _status("VmHWM") - before


def in_fresh_process(script: str, *arguments: str) -> float:
    """MB that `script`, run by itself with these arguments, prints as bytes."""
    command = [sys.executable, script, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1e6


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024
