"""What each stage of a run costs: wall seconds and peak memory, measured while it runs."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

logger = logging.getLogger("medseg.stages")

BESIDE = ("medseg-ahead", "medseg-write")
"""How the names of threads begin that read and write beside the one that computes."""
CLEAR_REFS = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Stage:
    """One finished stage.

    Args:
        stage: its name; a stage inside another one is "outer/inner", and the outer one's figures include it.
        seconds: wall time; work queued on a CUDA device is waited for.
        peak_rss_mib: highest resident memory of the process while the stage ran, MiB.
        peak_rss_scope: "stage" where the kernel lets the high-water mark be reset (Linux), "process" where only the
            highest value since the start is known (macOS, containers that forbid the reset), "unknown" (Windows).
        peak_cuda_mib: highest memory that torch had allocated on the CUDA device meanwhile; None without CUDA.
    """

    stage: str
    seconds: float
    peak_rss_mib: float | None
    peak_rss_scope: Literal["stage", "process", "unknown"]
    peak_cuda_mib: float | None = None


class Stages:
    """A stopwatch that is handed down a run: `with stages("read"): ...`.

    Args:
        on_stage: called with (name, None) when a stage starts and with (name, its `Stage`) when it has ended well.
    """

    def __init__(self, on_stage: Callable[[str, Stage | None], None] | None = None) -> None:
        self.finished: list[Stage] = []
        self._on_stage = on_stage
        self._open: list[_Peak] = []

    @property
    def records(self) -> list[dict[str, Any]]:
        """The finished stages in the order in which they ended, ready for JSON."""
        return [asdict(stage) for stage in self.finished]

    @property
    def seconds(self) -> float:
        """Wall seconds of the outermost stages together."""
        return sum(stage.seconds for stage in self.finished if "/" not in stage.stage)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure one stage; stages may be nested, and one that raises leaves no record."""
        if self._on_stage:
            self._on_stage(name, None)
        peak = _Peak("/".join([*(outer.name.rpartition("/")[2] for outer in self._open), name]))
        self._open.append(peak)
        _begin(peak)
        start = time.perf_counter()
        try:
            yield
            _wait_for_cuda()
        finally:
            seconds = time.perf_counter() - start
            _end(self._open.pop())
        scope: Literal["stage", "process", "unknown"] = "stage" if CAN_RESET else ("process" if peak.rss else "unknown")
        cuda = round(peak.cuda / 2**20, 1) if peak.cuda is not None else None
        rss = round(peak.rss / 2**20, 1) if peak.rss else None
        stage = Stage(peak.name, round(seconds, 4), rss, scope, cuda)
        self.finished.append(stage)
        logger.debug("stage %s took %.2f s", stage.stage, stage.seconds, extra={"fields": asdict(stage)})
        if self._on_stage:
            self._on_stage(name, stage)


class _Peak:
    """Highest memory seen by one open stage, in bytes; kept here because an inner stage resets the system's marks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rss = 0
        self.cuda: int | None = None

    def update(self) -> None:
        self.rss = max(self.rss, peak_rss())
        cuda = _peak_cuda()
        if cuda is not None:
            self.cuda = max(self.cuda or 0, cuda)


_running: list[_Peak] = []
"""Open stages of all threads: the system's marks belong to the process."""
_lock = threading.Lock()


def _begin(peak: _Peak) -> None:
    with _lock:
        for each in _running:
            each.update()
        _reset_peaks()
        _running.append(peak)


def _end(peak: _Peak) -> None:
    with _lock:
        for each in _running:
            each.update()
        if peak in _running:  # an interruption may have come before it was
            _running.remove(peak)


def peak_rss() -> int:
    """Bytes of the resident high-water mark: since the last reset on Linux, else since the start; 0 if unknown."""
    if CAN_RESET:
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _reset_rss() -> bool:
    try:
        CLEAR_REFS.write_text("5")
        return "VmHWM:" in STATUS.read_text()
    except OSError:
        return False


def _reset_peaks() -> None:
    if CAN_RESET:
        _reset_rss()
    torch = _torch_with_cuda()
    if torch is not None:
        torch.cuda.reset_peak_memory_stats()


def _peak_cuda() -> int | None:
    torch = _torch_with_cuda()
    return None if torch is None else int(torch.cuda.max_memory_allocated())


def _wait_for_cuda() -> None:
    torch = _torch_with_cuda()
    # A thread that reads or writes must not wait for what another one computes meanwhile.
    if torch is not None and not threading.current_thread().name.startswith(BESIDE):
        torch.cuda.synchronize()


def _torch_with_cuda() -> Any:
    """torch if this process already uses CUDA; measuring must neither import torch nor start CUDA."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


CAN_RESET = _reset_rss()
"""Whether this system lets a process reset its own high-water mark."""
