"""A worker process of a batch as the process sees it that started it."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.outcome import now
from medseg_cli.batch.settings import Settings

PATIENCE = 10.0
"""Seconds that a worker has to end by itself once there are no cases left."""


@dataclass(frozen=True)
class Turn:
    """A case that waits or is run.

    Args:
        case: which.
        tries: how often it was begun before.
        since: when it was begun this time, UTC; "" while it waits.
    """

    case: BatchCase
    tries: int = 0
    since: str = ""


@dataclass(eq=False)
class Worker:
    """One process, and what it was given.

    Args:
        process, pipe, device: as started.
        ready: whether it has its device and libraries.
        wants: whether it waits for a case.
        turns: id → case that it has and no record of.
        writing: ids of those whose outputs it is writing.
    """

    process: BaseProcess
    pipe: Connection
    device: str
    ready: bool = False
    wants: bool = False
    turns: dict[str, Turn] = field(default_factory=dict)
    writing: set[str] = field(default_factory=set)

    @property
    def alive(self) -> bool:
        """Whether it may still say something."""
        return not self.pipe.closed

    @property
    def suspected(self) -> bool:
        """Whether it has a case that may have killed another worker."""
        return any(turn.tries for turn in self.turns.values())

    def give(self, turn: Turn) -> None:
        """Answer its question for a case."""
        self.wants = False
        self.turns[turn.case.id] = replace(turn, since=now())
        try:
            self.pipe.send(turn.case)
        except OSError:
            return  # it is dead, and what it had is begun again when that is noticed

    def dismiss(self) -> None:
        """Let it end by itself if it has nothing to do, else kill it."""
        if self.alive and self.wants and not self.turns:
            try:
                self.pipe.send(None)
                self.process.join(PATIENCE)
            except OSError:
                pass  # it is dead
        self.kill()

    def kill(self) -> None:
        """End it at once; it is gone when this returns."""
        self.process.kill()
        self.end()

    def end(self) -> str:
        """Wait for the end of a process that has closed its pipe, or was killed; how it ended, in words."""
        self.process.join()
        self.pipe.close()
        code = self.process.exitcode or 0
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def start(settings: Settings, device: str, threads: int) -> Worker:
    """Start a worker; see `worker.main`."""
    from medseg_cli.batch import worker

    # Neither torch's threads nor CUDA survive a fork.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=worker.main, args=(theirs, replace(settings, device=device), threads), name=f"medseg-{device}"
    )
    process.start()
    theirs.close()
    return Worker(process, ours, device)
