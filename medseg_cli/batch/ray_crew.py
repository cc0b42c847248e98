"""The workers of a Ray run as the process sees them that hired them, and what becomes of the cases they have."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medseg_cli.batch import publish
from medseg_cli.batch.budget import Budget
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.crew import Turn
from medseg_cli.batch.outcome import failed, now
from medseg_cli.batch.ray_nodes import last_line
from medseg_cli.batch.record import Record
from medseg_cli.batch.settings import Settings
from medseg_cli.errors import DeviceError, MedsegError

logger = logging.getLogger("medseg.batch.ray")

TRIES = 2
"""How often a case is begun: a worker may die of something else, of a second death the case is guilty."""
FALSE_STARTS = 3
"""Workers in a row that may die before they are ready; then the reason is not in the cases."""
LOST = "give it more memory with fewer --jobs, look into it alone, then --retry-failed"


@dataclass(eq=False)
class _Hand:
    """A worker.

    Args:
        actor: Ray's handle of it.
        ready: whether it has its device and libraries.
        turns: id → case that it has.
    """

    actor: Any
    ready: bool = False
    turns: dict[str, Turn] = field(default_factory=dict)

    @property
    def suspected(self) -> bool:
        """Whether it has a case that may have killed another worker."""
        return any(turn.tries for turn in self.turns.values())


class RayCrew:
    """The workers, and what waits for them.

    A worker that dies is replaced. Which of its cases did it is not known, so each of them is begun again, in a worker
    that has no other case; who takes that worker along too is a failed row.

    Args:
        ray: connected.
        hire: starts a worker.
        size: how many there are at most.
        depth: most cases that a worker has at a time.
        budget: of the memory of this machine, where all workers are on it.
        cases: to be run.
        settings: of the run.
        on_record: called with each record.
    """

    def __init__(
        self,
        ray: Any,
        hire: Callable[[], Any],
        size: int,
        depth: int,
        budget: Budget | None,
        cases: Sequence[BatchCase],
        settings: Settings,
        on_record: Callable[[Record], None],
    ) -> None:
        self._ray = ray
        self._hire = hire
        self._size = size
        self._depth = depth
        self._budget = budget
        self._settings = settings
        self._on_record = on_record
        self._waiting = deque(Turn(case) for case in cases)
        self._suspects: deque[Turn] = deque()
        self._hands: list[_Hand] = []
        self._answers: dict[Any, tuple[_Hand, str]] = {}
        self._false_starts = 0

    def work(self) -> None:
        """Until every case has a record.

        Raises:
            DeviceError: workers that die before they begin.
            MedsegError: what a worker raised when it began.
        """
        self._replenish()
        while self._waiting or self._suspects or any(hand.turns for hand in self._hands):
            self._listen()
            self._give()
            self._replenish()

    def dismiss(self) -> None:
        """End all workers."""
        for hand in self._hands:
            self._ray.kill(hand.actor)

    def _replenish(self) -> None:
        """Workers for those cases that nobody is free for; those with nothing to do make room for others' jobs."""
        to_do = len(self._waiting) + len(self._suspects)
        idle = [hand for hand in self._hands if not hand.turns]
        while len(self._hands) < self._size and len(idle) < to_do:
            hand = _Hand(self._hire())
            self._answers[hand.actor.ready.remote()] = (hand, "")
            self._hands.append(hand)
            idle.append(hand)
        for hand in idle if not to_do else ():
            self._hands.remove(hand)
            self._ray.kill(hand.actor)

    def _give(self) -> None:
        """A case for everybody before a second one for anybody; suspects to workers that have nothing else."""
        for depth in range(self._depth):
            for hand in self._hands:
                if not hand.ready or hand.suspected or len(hand.turns) != depth:
                    continue
                idle = sum(1 for each in self._hands if not each.turns)
                if self._suspects and not hand.turns:
                    self._begin(hand, self._suspects)
                elif len(self._waiting) > (idle if depth else 0):
                    self._begin(hand, self._waiting)

    def _begin(self, hand: _Hand, queue: deque[Turn]) -> None:
        """Give the first one of a queue, as soon as memory allows."""
        if self._budget is not None:
            if not self._budget.fits(queue[0].case):
                return
            self._budget.take(queue[0].case)
        turn = queue.popleft()
        hand.turns[turn.case.id] = replace(turn, since=now())
        self._answers[hand.actor.run.remote(turn.case)] = (hand, turn.case.id)

    def _listen(self) -> None:
        """Wait for an answer or a death, and deal with it."""
        (answer,), _ = self._ray.wait(list(self._answers), num_returns=1)
        hand, case = self._answers.pop(answer)
        errors = self._ray.exceptions
        try:
            said = self._ray.get(answer)
        except errors.RayError as error:
            if hand in self._hands:
                self._lost(hand, error.cause if isinstance(error, errors.RayTaskError) else error)
            return
        if not case:
            hand.ready, self._false_starts = True, 0
            return
        record, lines = said
        for line in lines:
            if logging.getLogger(line.name).isEnabledFor(line.levelno):
                logging.getLogger(line.name).handle(line)
        hand.turns.pop(case)
        self._free(case)
        self._on_record(record)

    def _free(self, case: str) -> None:
        if self._budget is not None:
            self._budget.give(case)

    def _lost(self, hand: _Hand, error: BaseException) -> None:
        """A worker is gone: begin its cases again, or give them up."""
        self._hands.remove(hand)
        self._ray.kill(hand.actor)
        logger.info("lost a worker: %s", error)
        if not hand.ready:
            self._check_start(error)
        for turn in hand.turns.values():
            self._free(turn.case.id)
            found = publish.recover(self._settings.out, turn.case.id)
            if found is not None and found.finished >= turn.since:
                self._on_record(found)
            elif turn.tries + 1 < TRIES:
                logger.warning("%s: the worker died; another one will try it again", turn.case.id)
                self._suspects.append(Turn(turn.case, turn.tries + 1))
            else:
                how = "ran out of memory" if type(error).__name__ == "OutOfMemoryError" else "died"
                told = DeviceError(f"{turn.case.scan}: the worker {how} at this case, twice", LOST)
                self._on_record(failed(turn.case, self._settings, told, turn.since))

    def _check_start(self, error: BaseException) -> None:
        if isinstance(error, MedsegError):
            raise error
        self._false_starts += 1
        if self._false_starts == FALSE_STARTS:
            raise DeviceError(
                f"{FALSE_STARTS} Ray workers in a row died before they were ready: {last_line(error)}",
                "is there enough memory for so many --jobs? --log-json keeps what Ray says",
            ) from error
