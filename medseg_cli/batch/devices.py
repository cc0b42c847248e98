"""How many workers a machine gets, and on which device each of them computes."""

from __future__ import annotations

from medseg_cli import machine
from medseg_cli.versions import cuda_version


def of_workers(device: str, jobs: int | None) -> tuple[str, ...]:
    """The device of each worker; () where the work is done without one.

    Args:
        device: as `device.select` takes it; "auto" and "cuda" mean all GPUs, one after the other.
        jobs: how many workers; None is one per GPU, or one where there is none; 0 is none.
    """
    if jobs == 0:
        return ()
    word = device.strip().lower()
    gpus = _gpus() if word in ("auto", "cuda", "gpu") else 0
    if gpus:
        return tuple(f"cuda:{number % gpus}" for number in range(jobs or gpus))
    return (device,) * (jobs or 1)


def threads_of_worker(workers: int) -> int:
    """CPU threads that each worker computes with: its share of the cores, of a single one all but one.

    That one reads and writes other cases meanwhile; torch would take it too, and both would wait for each other.
    """
    return max(1, machine.cores() // workers if workers > 1 else machine.cores() - 1)


def _gpus() -> int:
    """CUDA devices of this machine; they are counted without being touched."""
    if cuda_version() is None:
        return 0
    import torch

    return torch.cuda.device_count()
