"""What Ray workers run in tests instead of a model: cases whose names say what becomes of their worker."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from medseg_cli.batch import records
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.outcome import now
from medseg_cli.batch.ray_worker import Loop
from medseg_cli.batch.record import Record
from medseg_cli.batch.settings import Settings
from medseg_cli.errors import ModelError
from medseg_cli.readers.options import ReadOptions


def cases(folder: Path, *names: str) -> list[BatchCase]:
    """One case per name; the scans are empty files."""
    from medseg_cli.asked import Asked

    for name in names:
        (folder / name).touch()
    return [BatchCase(name, folder / name, ReadOptions(), Asked((), (), "ijk", "", None, None, None)) for name in names]


def begin(settings: Settings) -> Loop:
    """Cases "dies..." kill their process each time, "once..." the first time only; each leaves a trace per try."""

    def loop(cases: Iterable[BatchCase], on_record: Callable[[Record], None]) -> None:
        for case in cases:
            tries = settings.out / f"{case.id}.tries"
            with tries.open("a") as file:
                file.write(f"{os.getpid()}\n")
            if case.id.startswith("dies") or (case.id.startswith("once") and len(tries.read_text().split()) == 1):
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.1)
            worker = {"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS", ""), "nice": os.nice(0)}
            logging.getLogger("medseg.test").warning("%s is done", case.id)
            record = Record(case.id, "ok", worker=worker, finished=now())
            records.write(settings.out, record)
            on_record(record)

    return loop


def begin_without_a_model(settings: Settings) -> Loop:
    raise ModelError("the model is missing", "fetch it")


def begin_and_die(settings: Settings) -> Loop:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("dead")
