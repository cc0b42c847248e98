"""The cases of a batch over Ray: resident workers, each with its model; one that dies costs no other case.

Actors and not Ray Data: `map_batches` runs blocks of rows again when an actor dies and gives up the whole dataset when
that does not help, without a word on the row that did it. One call of an actor per case says which case died with it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from medseg_cli.batch import ray_cluster, ray_nodes, workspace
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.models import Models
from medseg_cli.batch.outcome import failed
from medseg_cli.batch.record import Record
from medseg_cli.batch.settings import Settings
from medseg_cli.batch.work import run_case
from medseg_cli.errors import DeviceError, MedsegError

logger = logging.getLogger("medseg.batch.ray")

TRIES = 2
"""How often a case is begun: a worker may die of something else, of a second death the case is guilty."""
FALSE_STARTS = 3
"""Workers in a row that may die before their first case; then the reason is not in the cases."""
OVER_AND_OVER = "give it more memory with fewer --jobs, look into it alone, then --retry-failed"
SEEN = 20
"""Scans at most that every node must see before the first case; the others are found missing when they are read."""

Run = Callable[[BatchCase], Record]
"""Runs one case in a worker: outputs and record are written when it returns."""


def segmenting(settings: Settings) -> Run:
    """What workers run: each model is loaded at its first case and then kept.

    Raises:
        MedsegError: the device cannot be had.
    """
    models = Models(settings)
    models.start()
    return partial(run_case, settings=settings, models=models)


def run(
    cases: Sequence[BatchCase],
    settings: Settings,
    on_record: Callable[[Record], None],
    *,
    address: str = "",
    jobs: int = 0,
    begin: Callable[[Settings], Run] = segmenting,
) -> None:
    """Run the cases; each ends with a record on disk, which `on_record` gets too, in the order in which they end.

    A case whose worker dies is begun once more in another one, after all the others; then it is a failed row.

    Args:
        cases: those to be run; what is finished has been left out.
        settings: of the run; the output folder exists.
        on_record: called in this process; what it raises ends the run, and the workers with it.
        address: "" starts a Ray of our own on this machine; "auto" or host:port joins a cluster.
        jobs: workers; 0 = one per GPU, or on CPUs one per node.
        begin: makes a worker's `Run` in the worker's process.

    Raises:
        UsageError: Ray is not installed; a node runs another medseg; the device does not go with Ray.
        InputError: a node does not see the scans or the output folder.
        DeviceError: no such cluster, nothing to compute on, or workers that die before they begin.
        MedsegError: what a worker raised when it began: the model is missing, for instance.
    """
    if not cases:
        return
    try:
        with ray_cluster.connected(address, jobs) as ray:
            share = _shared(ray, cases, settings, jobs)
            needs = {"num_cpus": share.cpus, "num_gpus": share.gpus, "max_restarts": 0, "max_task_retries": 0}
            crew = _Crew(ray, partial(ray.remote(_Worker).options(**needs).remote, settings, begin))
            try:
                _drive(crew, share.workers, cases, partial(_died, settings), on_record)
            finally:
                crew.dismiss_all()
    finally:
        # What killed workers were writing; those of this machine are gone by now.
        workspace.clear_dead(settings.out)


def _shared(ray: Any, cases: Sequence[BatchCase], settings: Settings, jobs: int) -> ray_nodes.Share:
    """What workers get, once every node is known to see what they need."""
    share = ray_nodes.share(ray.nodes(), settings.device, jobs)
    scans = dict.fromkeys(case.scan.resolve() for case in cases if case.scan.exists())
    ray_nodes.check_nodes(ray, settings.out, list(scans)[:SEEN], share)
    logger.info("%d workers with %d CPUs and %d GPUs each", share.workers, share.cpus, share.gpus)
    return replace(share, workers=min(share.workers, len(cases)))


class _Worker:
    """A process of Ray's, with the model resident in it.

    Args:
        settings: of the run.
        begin: makes what runs a case, in this process.
    """

    def __init__(self, settings: Settings, begin: Callable[[Settings], Run]) -> None:
        self._settings = settings
        self._begin = begin

    def ready(self) -> None:
        self._run = self._begin(self._settings)

    def run(self, case: BatchCase) -> Record:
        return self._run(case)


@dataclass(frozen=True)
class _Turn:
    """What a worker does now: `case` for the `tries`-th time; None while it begins."""

    worker: Any
    case: BatchCase | None = None
    tries: int = 0


class _Crew:
    """The workers and their turns.

    Args:
        ray: connected.
        hire: starts a worker.
    """

    def __init__(self, ray: Any, hire: Callable[[], Any]) -> None:
        self._ray = ray
        self._hire = hire
        self._turns: dict[Any, _Turn] = {}

    @property
    def busy(self) -> bool:
        """Whether a case is being run; workers that Ray has no place for yet do not count."""
        return any(turn.case is not None for turn in self._turns.values())

    def hire(self) -> None:
        worker = self._hire()
        self._turns[worker.ready.remote()] = _Turn(worker)

    def give(self, worker: Any, case: BatchCase, tries: int) -> None:
        self._turns[worker.run.remote(case)] = _Turn(worker, case, tries)

    def next(self) -> tuple[_Turn, Record | None, BaseException | None]:
        """Wait for the turn that ends first: (turn, its record if it ran a case, what the worker was lost to)."""
        (ended,), _ = self._ray.wait(list(self._turns), num_returns=1)
        turn = self._turns.pop(ended)
        try:
            return turn, self._ray.get(ended), None
        except self._ray.exceptions.RayError as error:
            self.dismiss(turn.worker)
            return turn, None, error.cause if isinstance(error, self._ray.exceptions.RayTaskError) else error

    def dismiss(self, worker: Any) -> None:
        self._ray.kill(worker)

    def dismiss_all(self) -> None:
        for turn in self._turns.values():
            self.dismiss(turn.worker)


def _drive(
    crew: _Crew,
    workers: int,
    cases: Sequence[BatchCase],
    died: Callable[..., Record],
    on_record: Callable[[Record], None],
) -> None:
    """Until every case has a record: whoever is free gets the next case, whoever is lost is replaced."""
    waiting = deque((case, 1) for case in cases)
    for _ in range(workers):
        crew.hire()
    false_starts = 0
    while waiting or crew.busy:
        turn, record, lost = crew.next()
        if turn.case is None:
            false_starts = false_starts + 1 if lost else 0
            _check_start(lost, false_starts)
        elif record is not None:
            on_record(record)
        else:
            logger.info("case %s: its worker died: %s", turn.case.id, lost)
            if turn.tries < TRIES:
                logger.warning("case %s: its worker died; another one tries it again at the end", turn.case.id)
                waiting.append((turn.case, turn.tries + 1))
            else:
                on_record(died(turn.case, lost))
        if not waiting:
            if lost is None:
                crew.dismiss(turn.worker)
        elif lost is None:
            crew.give(turn.worker, *waiting.popleft())
        else:
            crew.hire()


def _check_start(lost: BaseException | None, times: int) -> None:
    """Whether workers begin at all.

    Raises:
        MedsegError: what one raised, if it said what is wrong.
        DeviceError: they die of something else, again and again.
    """
    if isinstance(lost, MedsegError):
        raise lost
    if lost is None or times < FALSE_STARTS:
        return
    raise DeviceError(
        f"{times} Ray workers in a row died before their first case: {ray_nodes.last_line(lost)}",
        "the log of Ray says more; fewer --jobs need less memory",
    ) from lost


def _died(settings: Settings, case: BatchCase, lost: BaseException | None) -> Record:
    """The failed record of a case, written here because the workers that ran it cannot."""
    what = "ran out of memory" if type(lost).__name__ == "OutOfMemoryError" else "died"
    error = DeviceError(f"the worker {what} while it ran this case, and so did a second one", OVER_AND_OVER)
    return failed(case, settings, error)
