"""Cases in one process: the next one is read and the last one written while the current one is segmented.

Three cases are in memory at most: one that was read, one that is computed, one that is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.models import Models, clear_cuda, spoilt
from medseg_cli.batch.outcome import failed, now
from medseg_cli.batch.record import Record
from medseg_cli.batch.settings import Settings
from medseg_cli.batch.work import Loaded, Predicted, finish, load, predict
from medseg_cli.errors import DeviceError
from medseg_cli.logs import case_of_log
from medseg_cli.read_ahead import read_ahead

OnStep = Callable[[str, Literal["segment", "write"]], None]
"""Called with a case's id when a step begins."""


def overlap(
    cases: Iterable[BatchCase],
    settings: Settings,
    models: Models,
    on_record: Callable[[Record], None],
    on_step: OnStep = lambda case, step: None,
) -> None:
    """Run cases in the main thread, whose interruption gives up all but what is being written.

    Args:
        cases: they are asked for in the thread that reads, one ahead.
        settings: of the run; the output folder exists.
        models: started.
        on_record: called with each record when it is on disk, from the main thread or the one that writes.
        on_step: likewise.

    Raises:
        DeviceError: a case left the device unusable; its record is written.
        Exception: a record cannot be written, or what `cases` or `on_record` raise.
    """

    def read(case: BatchCase) -> Loaded | Record:
        started = now()
        with case_of_log(case.id):
            try:
                return load(case, settings, models)
            except Exception as error:
                return failed(case, settings, error, started)

    def write(predicted: Predicted) -> None:
        case, started = predicted.loaded.case, predicted.loaded.record.started
        with case_of_log(case.id):
            on_step(case.id, "write")
            try:
                record = finish(predicted, settings)
            except Exception as error:
                record = failed(case, settings, error, started)
            del predicted
            on_record(record)

    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, "medseg-write") as writer:
        for case, loaded in read_ahead(cases, read):
            if isinstance(loaded, Exception):
                raise loaded
            if isinstance(loaded, Record):
                on_record(loaded)
                continue
            on_step(case.id, "segment")
            predicted = _predicted(loaded, settings, models)
            del loaded
            if isinstance(predicted, Record):
                on_record(predicted)
                continue
            if writing is not None:
                writing.result()
            writing = writer.submit(write, predicted)
            del predicted
        if writing is not None:
            writing.result()


def _predicted(loaded: Loaded, settings: Settings, models: Models) -> Predicted | Record:
    case = loaded.case
    with case_of_log(case.id):
        try:
            return predict(loaded, models)
        except Exception as error:
            record = failed(case, settings, error, loaded.record.started)
            if spoilt(error):
                raise DeviceError(
                    f"the device is unusable after case {case.id}: {error}", "run it again: finished cases are kept"
                ) from error
    clear_cuda()
    return record
