"""Cases in memory or on disk, and the samples drawn from them in an order that no number of workers changes.

Sample p of a run belongs to the training case that stands at place p of an endless row of shuffled epochs, and all its
randomness comes from (seed, p). Whichever process draws it, and whenever, it is the same.
"""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from monai.data.dataset import CacheDataset, PersistentDataset
from monai.transforms.transform import Transform
from torch.utils.data import DataLoader, Dataset

from medseg_cli.datasets import Case, Split
from medseg_cli.errors import DeviceError, MedsegError
from medseg_cli.machine import cores, free_memory
from medseg_cli.training.memory import size_of
from medseg_cli.training.recipe import Recipe

LOGGER = logging.getLogger("medseg.training")

CACHE = ".cases-"
"""How the folder is called that holds cases which memory does not."""
RAM_SHARE = 0.6
"""Share of the free memory that cases may fill."""
THREADS = 4
"""Threads that load cases."""
AHEAD = 2
"""Batches that each worker draws ahead."""
WORKERS = 8
"""Most worker processes that `auto` starts."""


class Load(Transform):
    """`recipe.load` as a transform of MONAI's: its caches keep nothing of a plain function, which may be random."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, data: Case) -> Any:
        return self.recipe.load(data)


def in_memory(recipe: Recipe, cases: Sequence[Case], processes: int = 1) -> bool:
    """Whether all cases fit into `RAM_SHARE` of the free memory, judged by three of them.

    Args:
        processes: how many hold a copy each.
    """
    by_size = sorted(cases, key=_file_bytes)
    known = [by_size[index] for index in sorted({0, len(by_size) // 2, len(by_size) - 1})]
    loaded = [size_of(recipe.load(case)) for case in known]
    total = float(np.interp([_file_bytes(case) for case in cases], [_file_bytes(case) for case in known], loaded).sum())
    return total * processes < RAM_SHARE * free_memory()


def keep(recipe: Recipe, cases: Sequence[Case], cache: Path | None, rank: int = 0, processes: int = 1) -> Sequence[Any]:
    """Loaded cases, by MONAI: in memory, or with `cache` in files of that folder, of which each process makes a part.

    Raises:
        MedsegError: what `recipe.load` raises for a case.
    """
    try:
        if cache is None:
            kept: Any = CacheDataset(
                list(cases), Load(recipe), num_workers=min(THREADS, cores()), progress=False, copy_cache=False
            )
        else:
            # The files are our own of this very start, so that nobody else's pickle is opened.
            kept = PersistentDataset(list(cases), Load(recipe), cache, weights_only=False)
            for index in range(rank, len(kept), processes):
                kept[index]
    except RuntimeError as error:  # MONAI wraps what a transform raises
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MedsegError):
            cause = cause.__cause__
        raise cause or error from error
    return kept


@contextmanager
def kept_cases(
    fabric: Fabric, recipe: Recipe, split: Split, run: Path
) -> Iterator[tuple[Sequence[Any], Sequence[Any]]]:
    """Training and validation cases, in memory if they fit, else in a folder of `run` that is deleted afterwards.

    Raises:
        MedsegError: what `recipe.load` raises for a case.
    """
    first = fabric.is_global_zero
    cache: Path | None = None
    if first:
        for stale in run.glob(f"{CACHE}*"):  # of a start that was killed
            shutil.rmtree(stale, ignore_errors=True)
        if not in_memory(recipe, (*split.train, *split.validation), fabric.world_size):
            LOGGER.warning("the cases do not fit into memory: they are kept in %s while the run lasts", run)
            cache = Path(mkdtemp(prefix=CACHE, dir=run))
    cache = fabric.broadcast(cache)
    try:
        rank, processes = fabric.global_rank, fabric.world_size
        kept = tuple(keep(recipe, cases, cache, rank, processes) for cases in (split.train, split.validation))
        fabric.barrier()
        yield kept[0], kept[1]
    finally:
        if cache is not None and first:
            shutil.rmtree(cache, ignore_errors=True)


def _file_bytes(case: Case) -> int:
    """Size of a case's files; of all files where a scan is a folder."""
    found = 0
    for path in {case.image, case.label}:
        files = path.iterdir() if path.is_dir() else [path] if path.exists() else []
        found += sum(file.stat().st_size for file in files)
    return found


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng([seed, epoch, count]).permutation(count)


def case_at(position: int, seed: int, count: int) -> int:
    """Which of `count` cases sample `position` of a run shows: every epoch shows each once."""
    return int(_epoch(seed, position // count, count)[position % count])


@dataclass(frozen=True)
class Draws(Dataset[Any]):
    """Samples by their position in the run; an error that a user can act on is handed over instead of one."""

    recipe: Recipe
    cases: Sequence[Any]
    seed: int

    def __getitem__(self, position: int) -> Any:
        volume = self.cases[case_at(position, self.seed, len(self.cases))]
        try:
            with _one_thread():
                return self.recipe.sample(volume, np.random.default_rng([self.seed, position]))
        except MedsegError as error:
            return error


@dataclass(frozen=True)
class Order:
    """The positions that one process draws, batch by batch, from one step on.

    Args:
        first, last: steps, the last one excluded.
        step_size: samples of an optimiser step.
        batch: of them go through the network together, over all processes.
        rank, world: this process among how many; each takes its part of every batch.
    """

    first: int
    last: int
    step_size: int
    batch: int
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.last):
            for start in range(0, self.step_size, self.batch):
                size = min(self.batch, self.step_size - start)
                low, high = (size * share // self.world for share in (self.rank, self.rank + 1))
                begin = step * self.step_size + start
                yield list(range(begin + low, begin + high))

    def __len__(self) -> int:
        return (self.last - self.first) * -(-self.step_size // self.batch)


def batches(draws: Draws, order: Order, workers: int) -> Iterator[list[Any]]:
    """The samples of each batch in order, drawn by `workers` processes at most `AHEAD` batches each ahead.

    Raises:
        MedsegError: a sample cannot be drawn.
        DeviceError: a worker was killed.
    """
    loader = DataLoader(
        draws,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_as_list,
        worker_init_fn=_leave_signals_alone,
        prefetch_factor=AHEAD if workers else None,
        multiprocessing_context=_context() if workers else None,
        # Its own: the loader would otherwise draw from the generator that dropout draws from.
        generator=torch.Generator().manual_seed(0),
    )
    try:
        for samples in loader:
            wrong = next((sample for sample in samples if isinstance(sample, MedsegError)), None)
            if wrong is not None:
                raise wrong
            yield samples
    except RuntimeError as error:
        if workers and "DataLoader worker" in str(error):
            raise DeviceError(
                f"a process that draws samples was lost, most likely for want of memory: {str(error).splitlines()[0]}",
                "use fewer --workers, or 0",
            ) from error
        raise


def workers_for(accelerator: str, batch_bytes: int, processes: int) -> int:
    """How many worker processes help: none where the network itself needs the cores.

    Args:
        accelerator: Fabric's name.
        batch_bytes: size of the samples of a batch.
        processes: training processes on this machine.
    """
    if accelerator == "cpu":
        return 0
    most = min(WORKERS, cores() // processes - 1)
    each = (AHEAD + 1) * batch_bytes
    # What workers hand over lies in shared memory, of which containers often have 64 MB.
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else free_memory()
    return max(0, min(most, int(0.5 * min(shared, free_memory()) // max(1, each * processes))))


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker process: the last bits of a sum depend on how many threads share it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _as_list(samples: list[Any]) -> list[Any]:
    return samples


def _leave_signals_alone(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the training process decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _context() -> Any:
    """Forked workers share the cases; elsewhere each gets a copy."""
    return multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
