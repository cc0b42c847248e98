"""Cases in one process: the next ones are read and the last ones written while the current ones are segmented.

Three cases are in memory at most, one that was read, one that is computed and one that is written; three groups of
`Models.together` where cases share batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from typing import Literal

from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.models import Models, clear_cuda, spoilt
from medseg_cli.batch.outcome import failed, now
from medseg_cli.batch.record import Record
from medseg_cli.batch.settings import Settings
from medseg_cli.batch.together import predict_together
from medseg_cli.batch.work import Loaded, Predicted, finish, load
from medseg_cli.errors import DeviceError
from medseg_cli.logs import case_of_log
from medseg_cli.read_ahead import read_ahead_in_groups

OnStep = Callable[[str, Literal["segment", "write"]], None]
"""Called with a case's id when a step begins."""


def overlap(
    cases: Iterable[BatchCase],
    settings: Settings,
    models: Models,
    on_record: Callable[[Record], None],
    on_step: OnStep = lambda case, step: None,
) -> None:
    """Run cases in this thread, whose interruption gives up all but what is being written.

    Args:
        cases: they are asked for in the thread that reads, ahead of their turn.
        settings: of the run; the output folder exists.
        models: started.
        on_record: called with each record when it is on disk, from any of the three threads.
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

    writing: list[Future[None]] = []
    with ThreadPoolExecutor(1, "medseg-write") as writer:
        for group in read_ahead_in_groups(cases, read, models.together):
            for loaded in _of_one_preset(_sorted(group, on_record)):
                for each in loaded:
                    on_step(each.case.id, "segment")
                predicted = _predicted(loaded, settings, models, on_record)
                del loaded
                _wait(writing)
                writing = [writer.submit(write, each) for each in predicted]
                del predicted
            del group
        _wait(writing)


def _sorted(
    group: Sequence[tuple[BatchCase, Loaded | Record | Exception]], on_record: Callable[[Record], None]
) -> list[Loaded]:
    """The cases that could be read; the others are told at once."""
    good = []
    for _, loaded in group:
        if isinstance(loaded, Exception):
            raise loaded
        if isinstance(loaded, Record):
            on_record(loaded)
        else:
            good.append(loaded)
    return good


def _of_one_preset(group: list[Loaded]) -> Iterator[list[Loaded]]:
    for _, same in groupby(group, lambda each: each.case.preset):
        yield list(same)


def _predicted(
    group: list[Loaded], settings: Settings, models: Models, on_record: Callable[[Record], None]
) -> list[Predicted]:
    """The cases that could be segmented; the others are told at once."""
    good: list[Predicted] = []
    for loaded, found in zip(group, predict_together(group, models), strict=True):
        if isinstance(found, Predicted):
            good.append(found)
            continue
        with case_of_log(loaded.case.id):
            on_record(failed(loaded.case, settings, found, loaded.record.started))
        if spoilt(found):
            raise DeviceError(
                f"the device is unusable after case {loaded.case.id}: {found}", "run it again: finished cases are kept"
            ) from found
        clear_cuda()
    return good


def _wait(writing: list[Future[None]]) -> None:
    """Until all is written.

    Raises:
        Exception: a record could not be.
    """
    while writing:
        writing.pop(0).result()
