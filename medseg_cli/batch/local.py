"""The cases of a batch on this machine: in this process, or in worker processes that may die without harm.

Workers ask for cases; each reads one ahead. A worker that dies is replaced. Which of its cases did it is not known, so
each of them is begun again, in a worker that has no other case; who takes that worker along too is a failed row.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing import connection

from medseg_cli.batch import publish
from medseg_cli.batch.budget import Budget
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.crew import Turn, Worker, start
from medseg_cli.batch.outcome import failed
from medseg_cli.batch.record import Record
from medseg_cli.batch.run import Hurry
from medseg_cli.batch.settings import Settings
from medseg_cli.errors import DeviceError, with_code

logger = logging.getLogger("medseg.batch")

TRIES = 2
"""How often a case is begun: a worker may die of something else, of a second death the case is guilty."""
FALSE_STARTS = 3
"""Workers in a row that may die before they are ready; then the reason is not in the cases."""


OUT_OF_MEMORY = "out of memory? It needs more than its prediction: run fewer --jobs, or it alone on a larger machine"


def run(
    cases: Sequence[BatchCase],
    settings: Settings,
    on_record: Callable[[Record], None],
    *,
    devices: Sequence[str],
    threads: int,
    budget: Budget,
) -> None:
    """Run the cases; each ends with a record on disk, which `on_record` gets too, in the order in which they end.

    Whatever ends the run early (Ctrl-C, what `on_record` raises) gives up the cases that are read or computed and
    waits for those that are being written; a second Ctrl-C does not.

    Args:
        cases: those to be run; what is finished has been left out.
        settings: of the run; the output folder exists.
        on_record: called in this process.
        devices: one worker each, as `Settings.device` takes them; () works in this process.
        threads: of each worker, for computing on the CPU.
        budget: of memory.

    Raises:
        DeviceError: workers that die before they begin.
        MedsegError: what a worker raised when it began: no such device, for instance.
    """
    if not cases:
        return
    if not devices:
        _here(cases, settings, on_record, budget)
        return
    crew = _Crew(cases, settings, on_record, threads, budget)
    try:
        crew.work(devices[: len(cases)])
    except BaseException:
        try:
            crew.end_early()
        except KeyboardInterrupt:
            raise Hurry from None
        raise
    finally:
        crew.dismiss()


def _here(cases: Sequence[BatchCase], settings: Settings, on_record: Callable[[Record], None], budget: Budget) -> None:
    from medseg_cli.batch.models import Models
    from medseg_cli.batch.overlap import overlap

    models = Models(settings)
    models.start()

    def done(record: Record) -> None:
        budget.give(record.id)
        on_record(record)

    overlap(budget.admit(cases), settings, models, done)


class _Crew:
    """The workers, and what waits for them."""

    def __init__(
        self,
        cases: Sequence[BatchCase],
        settings: Settings,
        on_record: Callable[[Record], None],
        threads: int,
        budget: Budget,
    ) -> None:
        self._settings = settings
        self._on_record = on_record
        self._threads = threads
        self._budget = budget
        self._waiting = deque(Turn(case) for case in cases)
        self._suspects: deque[Turn] = deque()
        self._workers: list[Worker] = []
        self._false_starts = 0

    def work(self, devices: Sequence[str]) -> None:
        """Until every case has a record."""
        self._workers = [start(self._settings, device, self._threads) for device in devices]
        while self._waiting or self._suspects or any(worker.turns for worker in self._workers):
            self._listen()
            self._give()

    def end_early(self) -> None:
        """Let what is being written be written, and nothing else."""
        if any(worker.writing for worker in self._workers):
            logger.warning("ending: cases that are being written are waited for; Ctrl-C again does not wait")
        while True:
            for worker in self._workers:
                if worker.alive and not worker.writing:
                    worker.kill()
            if not any(worker.alive for worker in self._workers):
                return
            self._listen(replace_lost=False)

    def dismiss(self) -> None:
        """No worker is left when this returns."""
        for worker in self._workers:
            worker.dismiss()

    def _listen(self, *, replace_lost: bool = True) -> None:
        """Wait for messages and deaths, and deal with them."""
        known = {worker.pipe: worker for worker in self._workers if worker.alive}
        for pipe in connection.wait(list(known)):
            worker = known[pipe]  # type: ignore[index]
            try:
                word, *rest = worker.pipe.recv()
            except (EOFError, OSError):
                how = worker.end()
                if replace_lost:
                    self._lost(worker, how)
                continue
            self._hear(worker, word, *rest)

    def _hear(self, worker: Worker, word: str, *rest: object) -> None:
        if word == "log":
            _log(rest[0])
        elif word == "ready":
            worker.ready = True
            self._false_starts = 0
        elif word == "want":
            worker.wants = True
        elif word == "write":
            worker.writing.add(str(rest[0]))
        elif word == "record":
            record = rest[0]
            assert isinstance(record, Record)
            self._done(worker, record)
        elif word == "broken":
            message, hint, code = rest
            raise with_code(int(str(code)), str(message), str(hint))

    def _done(self, worker: Worker, record: Record) -> None:
        worker.turns.pop(record.id, None)
        worker.writing.discard(record.id)
        self._budget.give(record.id)
        self._on_record(record)

    def _give(self) -> None:
        """Cases for those who want one, as far as memory allows; suspects to workers that have nothing else."""
        for worker in self._workers:
            if not worker.wants or worker.suspected:
                continue
            queue = self._suspects if self._suspects and not worker.turns else self._waiting
            if queue and self._budget.fits(queue[0].case):
                turn = queue.popleft()
                self._budget.take(turn.case)
                worker.give(turn)

    def _lost(self, worker: Worker, how: str) -> None:
        """A worker is gone: begin its cases again, or give them up, and replace it if there is more to do."""
        logger.warning("worker %d on %s %s", worker.process.pid, worker.device, how)
        if not worker.ready:
            self._false_starts += 1
            if self._false_starts == FALSE_STARTS:
                raise DeviceError(
                    f"{FALSE_STARTS} workers in a row were lost before they were ready: the last one {how}",
                    "try one case with --jobs 0 --debug; is there enough memory for so many --jobs?",
                )
        for turn in worker.turns.values():
            self._budget.give(turn.case.id)
            self._again(turn, how)
        self._workers.remove(worker)
        busy = sum(bool(each.turns) for each in self._workers)
        if len(self._waiting) + len(self._suspects) > len(self._workers) - busy:
            self._workers.append(start(self._settings, worker.device, self._threads))

    def _again(self, turn: Turn, how: str) -> None:
        case = turn.case
        found = publish.recover(self._settings.out, case.id)
        if found is not None and found.finished >= turn.since:
            self._on_record(found)
        elif turn.tries + 1 < TRIES:
            self._suspects.append(Turn(case, turn.tries + 1))
        else:
            error = DeviceError(f"{case.scan}: the worker {how} at this case, twice", OUT_OF_MEMORY)
            self._on_record(failed(case, self._settings, error, turn.since))


def _log(record: object) -> None:
    assert isinstance(record, logging.LogRecord)
    target = logging.getLogger(record.name)
    if target.isEnabledFor(record.levelno):
        target.handle(record)
