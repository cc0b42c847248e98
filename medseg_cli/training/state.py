"""Where a run is: all that a checkpoint holds besides the network, its average and the optimiser."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from medseg_cli.training.plan import Progress


@dataclass
class State:
    """Changes with every step.

    Args:
        step: optimiser steps done.
        batch: samples that go through the network together; less than the plan's after memory ran out.
        losses: of the steps since the last validation.
        seconds: of training, over all starts.
        before: validation Dice of the weights the run began with; None = not measured yet.
        history: every validation.
        best: learned weights of the best validation, on the CPU.
        best_step, best_dice: when that was, and its Dice.
        stale: validations since then.
    """

    step: int = 0
    batch: int = 1
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    before: float | None = None
    history: list[Progress] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_step: int = 0
    best_dice: float = -1.0
    stale: int = 0

    @property
    def validated(self) -> bool:
        """Whether the last step is one that was validated."""
        return bool(self.history) and self.history[-1].step == self.step

    def validated_with(self, line: Progress, weights: dict[str, Tensor]) -> None:
        """Note a validation of `weights`; of equal ones the later is the better trained."""
        self.history.append(line)
        self.losses = []
        self.stale = 0 if line.dice > self.best_dice else self.stale + 1
        if line.dice >= self.best_dice:
            self.best, self.best_step, self.best_dice = weights, line.step, line.dice

    def plain(self) -> dict[str, Any]:
        """As containers that a checkpoint can hold."""
        return {**vars(self), "history": [asdict(line) for line in self.history]}


def state_of(plain: dict[str, Any]) -> State:
    """The inverse of `State.plain`."""
    return State(**{**plain, "history": [Progress(**line) for line in plain["history"]]})
