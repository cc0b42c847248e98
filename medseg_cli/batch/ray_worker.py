"""The process of a Ray worker: it holds its models, and reads, computes and writes different cases at a time."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from medseg_cli import logs
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.models import Models
from medseg_cli.batch.overlap import overlap
from medseg_cli.batch.record import Record
from medseg_cli.batch.settings import Settings
from medseg_cli.batch.worker import UNUSABLE, Forward

DEPTH = 3
"""Cases of a worker: one that is read, one that is computed, one that is written; or groups that share batches."""

Loop = Callable[[Iterable[BatchCase], Callable[[Record], None]], None]
"""Runs cases as they come; each ends with a record on disk, which the second argument gets too."""


def segmenting(settings: Settings) -> Loop:
    """What workers do: each model is loaded at its first case and then kept.

    Raises:
        MedsegError: the device cannot be had.
    """
    models = Models(settings)
    models.start()
    return lambda cases, on_record: overlap(cases, settings, models, on_record)


class RayWorker:
    """An actor. Its methods are called in threads of Ray's, the cases run in one of its own.

    Args:
        settings: of the run.
        begin: makes what runs the cases, in this process.
    """

    def __init__(self, settings: Settings, begin: Callable[[Settings], Loop]) -> None:
        self._settings = settings
        self._begin = begin
        self._cases: SimpleQueue[BatchCase] = SimpleQueue()
        self._records: dict[str, Future[Record]] = {}
        self._said: list[logging.LogRecord] = []
        logging.getLogger().addHandler(Forward(self._say))
        logging.getLogger().setLevel(logging.WARNING)
        logs.LOGGER.setLevel(logging.DEBUG)
        logging.captureWarnings(True)

    def _say(self, word: str, record: logging.LogRecord) -> None:
        """Keep a log record for the next answer."""
        self._said.append(record)

    def ready(self) -> None:
        """Begin; what that raises is the caller's."""
        loop = self._begin(self._settings)
        threading.Thread(target=self._work, args=(loop,), name="medseg-work", daemon=True).start()

    def run(self, case: BatchCase) -> tuple[Record, list[Any]]:
        """Wait until a case is done: its record, and what was logged since the last answer."""
        self._records[case.id] = Future()
        self._cases.put(case)
        record = self._records[case.id].result()
        del self._records[case.id]
        said, self._said = self._said, []
        return record, said

    def _work(self, loop: Loop) -> None:
        try:
            loop(self._next(), lambda record: self._records[record.id].set_result(record))
        finally:
            # Cases end with records; the loop itself ends only when the device or the disk is of no more use.
            os._exit(UNUSABLE)

    def _next(self) -> Iterator[BatchCase]:
        while True:
            yield self._cases.get()
