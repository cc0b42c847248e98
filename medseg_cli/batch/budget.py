"""How much memory the cases in flight may take together, by prediction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator

from medseg_cli import machine
from medseg_cli.batch.case import BatchCase
from medseg_cli.errors import DeviceError

SHARE = 0.8
"""Of the free memory that a run takes if nobody says otherwise."""
GIB = 2**30
WORKER = GIB
"""What a worker takes without a case: 0.75 GiB of libraries, the rest for a model."""

Needs = Callable[[BatchCase], int]
"""Bytes that a case is predicted to need while it is read, segmented and written; 0 where nothing is known."""


def limit(gib: float | None = None, workers: int = 1) -> int:
    """Bytes that all cases in flight may need together: what the user said, or a share of what is free now.

    Args:
        gib: as the user said it.
        workers: processes that are about to be started, each with libraries and a model of its own.
    """
    if gib is not None:
        return int(gib * GIB)
    return max(0, int(SHARE * (machine.free_memory() - workers * WORKER)))


def check(case: BatchCase, needs: Needs, most: int) -> DeviceError | None:
    """What speaks against even beginning a case; None if it fits."""
    need = needs(case)
    if need <= most:
        return None
    return DeviceError(
        f"{case.scan} is predicted to need {need / GIB:.2f} GiB of memory, and {most / GIB:.2f} GiB may be used",
        "allow more with --memory, or run it on a larger machine; then add --retry-failed",
    )


class Budget:
    """Counts what is in flight. A case that is alone is let in whatever it needs.

    Args:
        needs: prediction for a case.
        most: bytes for all cases in flight.
    """

    def __init__(self, needs: Needs, most: int) -> None:
        self._needs = needs
        self._most = most
        self._taken: dict[str, int] = {}
        self._changed = threading.Condition()

    def fits(self, case: BatchCase) -> bool:
        """Whether the case may begin beside those in flight."""
        return not self._taken or sum(self._taken.values()) + self._needs(case) <= self._most

    def take(self, case: BatchCase) -> None:
        """Count a case as in flight."""
        with self._changed:
            self._taken[case.id] = self._needs(case)

    def give(self, case: str) -> None:
        """The case with that id is done."""
        with self._changed:
            self._taken.pop(case, None)
            self._changed.notify_all()

    def admit(self, cases: Iterable[BatchCase]) -> Iterator[BatchCase]:
        """The same cases, each as soon as it fits; the others are waited for in the thread that asks."""
        for case in cases:
            with self._changed:
                self._changed.wait_for(lambda case=case: self.fits(case))  # type: ignore[misc]
                self._taken[case.id] = self._needs(case)
            yield case
