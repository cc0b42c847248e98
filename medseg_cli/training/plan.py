"""How a network is trained: what was asked for, the plan that comes of it, and what it may use of the machine."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Literal

from medseg_cli.device import Precision
from medseg_cli.errors import ModelError, UsageError
from medseg_cli.pipelines.defaults import Defaults

GAMMA = 0.8
"""Share of a cycle in which its rate falls; that of the published trainer."""
POWER = 0.9
"""Of the polynomial along which a cycle's rate falls."""
KEEP = 3
"""Checkpoints kept of each cycle. The paper keeps 10, and each costs as much time as the network itself."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides the result, besides dataset, preset and choices.

    Args:
        steps: optimiser steps of the whole run.
        batch_size: samples that go through the network together, over all processes.
        accumulate: batches per optimiser step.
        learning_rate: peak of AdamW's.
        weight_decay: AdamW's, on matrices and kernels only.
        ema: decay of the averaged weights, which are what is validated and exported; 0 = the weights themselves.
        warmup: share of the steps in which the learning rate rises linearly; then it falls along a cosine.
        floor: learning rate of the last step, as a share of the peak.
        clip: largest norm of all gradients together.
        validate_every: steps between validations.
        patience: validations without a better Dice after which training ends; 0 = it never does.
        seed: of weights, samples and order.
        precision: of matrix products.
        cycles: 1 = the rate falls once, along a cosine; more = it falls and starts again so many times, and the weights
            at the end of each cycle are kept for an ensemble.
        gamma: share of a cycle in which its rate falls; then it stays.
        keep: checkpoints kept of each cycle.
        released_rate: the rate of cycles as the published code has it, which falls by a share of the whole run.
    """

    steps: int = 4000
    batch_size: int = 4
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    ema: float = 0.998
    warmup: float = 0.03
    floor: float = 0.01
    clip: float = 1.0
    validate_every: int = 250
    patience: int = 0
    seed: int = 0
    precision: Precision = "fp32"
    cycles: int = 1
    gamma: float = GAMMA
    keep: int = KEEP
    released_rate: bool = False

    @property
    def step_size(self) -> int:
        """Samples per optimiser step."""
        return self.batch_size * self.accumulate

    def rate(self, step: int) -> float:
        """Learning rate of a step as a share of its peak."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return (step + 1) / warm
        if self.cycles > 1:
            return self._cyclic(step)
        falling = 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))
        return self.floor + (1 - self.floor) * falling

    def _cyclic(self, step: int) -> float:
        """(1 - fallen / length) ** 0.9 of a cycle, or of the whole run as published (MedCLIP-SAMv2, spec section 7).

        Divided by the whole run, the rate hardly falls: of three cycles to 0.85 of its peak with a gamma of a half.
        """
        length = self.steps // self.cycles
        fallen = min(step % length, int(self.gamma * length))
        share: float = (1 - fallen / (self.steps if self.released_rate else length)) ** POWER
        return share

    @property
    def kept(self) -> tuple[int, ...]:
        """Steps after which weights are kept for the ensemble: evenly where the rate stays, each cycle's last one too.

        The published rule leaves the last one out, and its sparse variant ends beyond the cycle.
        """
        if self.cycles == 1:
            return ()
        length = self.steps // self.cycles
        # At least as many steps as are kept, where the rate never stays.
        stays = max(self.keep, length - int(self.gamma * length))
        back = [number * stays // self.keep for number in range(self.keep - 1, -1, -1)]
        return tuple(cycle * length - each for cycle in range(1, self.cycles + 1) for each in back)

    def validates_after(self, step: int) -> bool:
        """Whether the weights are validated when that many steps are done."""
        return step > 0 and (step % self.validate_every == 0 or step == self.steps)


@dataclass(frozen=True)
class Wishes:
    """What the command asks for; None = as the recipe says (`Defaults`).

    Args:
        epochs, steps: length of the run; one of them at most. An epoch is as many steps as show every training case
            once.
        batch_size: "auto" = the largest that fits the device.
        cycles, gamma, keep, released_rate: see `Plan`.

    Raises:
        UsageError: both `epochs` and `steps`, or cycles that cannot be.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int | Literal["auto"] | None = None
    accumulate: int = 1
    learning_rate: float | None = None
    validate_every: int | None = None
    patience: int = 0
    seed: int = 0
    precision: Precision = "fp32"
    cycles: int = 1
    gamma: float = GAMMA
    keep: int = KEEP
    released_rate: bool = False

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise UsageError("--epochs contradicts --steps", "give one of them")
        if self.cycles > 1 and self.patience:
            raise UsageError("--patience contradicts --cycles: an ensemble needs all of them", "give one of them")
        if self.steps is not None and self.steps % self.cycles:
            raise UsageError(f"--steps {self.steps} cannot be divided into {self.cycles} cycles", "give a multiple")

    def plan(self, defaults: Defaults, batch_size: int, cases: int) -> Plan:
        """The plan for that many training cases."""
        per_epoch = -(-cases // (batch_size * self.accumulate))
        steps = self.steps or (self.epochs or defaults.epochs) * per_epoch
        steps = -(-steps // self.cycles) * self.cycles
        if self.cycles > 1 and self.keep > steps // self.cycles:
            raise UsageError(
                f"a cycle of {steps // self.cycles} steps has no {self.keep} checkpoints", "train longer, or keep fewer"
            )
        return Plan(
            steps=steps,
            batch_size=batch_size,
            accumulate=self.accumulate,
            learning_rate=self.learning_rate or defaults.learning_rate,
            weight_decay=defaults.weight_decay,
            ema=defaults.ema,
            warmup=defaults.warmup,
            floor=defaults.floor,
            clip=defaults.clip,
            validate_every=self.validate_every or max(1, min(steps, defaults.validate_every * per_epoch)),
            patience=self.patience,
            seed=self.seed,
            precision=self.precision,
            cycles=self.cycles,
            gamma=self.gamma,
            keep=self.keep,
            released_rate=self.released_rate,
        )


@dataclass(frozen=True)
class Resources:
    """What a run may use. Nothing here changes the weights that come out on one machine.

    Args:
        accelerator: Fabric's name: "cpu", "cuda" or "mps".
        device: index among that accelerator's devices; under torchrun each process takes its own.
        workers: processes that draw samples, 0 = this one; None = as many as help.
        strict: out of memory ends the run instead of halving the batch.
        minutes: longest time between two checkpoints.
    """

    accelerator: str = "cpu"
    device: int = 0
    workers: int | None = 0
    strict: bool = False
    minutes: float = 10.0


@dataclass(frozen=True)
class Progress:
    """One validation: the mean loss since the one before, and the seconds of training up to here.

    `dice` is what `metric` names; most recipes measure Dice. `also` is what was measured besides.
    """

    step: int
    loss: float
    dice: float
    learning_rate: float
    seconds: float
    metric: str = "Dice"
    also: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stepped:
    """One optimiser step of so many: its loss, samples, the learning rate it was taken with, the seconds it took."""

    step: int
    steps: int
    samples: int
    loss: float
    learning_rate: float
    seconds: float


def check_same(what: str, before: dict[str, object], plan: Plan) -> None:
    """Refuse to go on with another plan than `before`, which is that of `what`.

    Raises:
        ModelError: naming each value that differs, before and now.
    """
    # A run of an earlier version knows nothing of what came later, which then is as it was without it.
    now, before = asdict(plan), {**asdict(Plan()), **before}
    changed = [f"{key} {before.get(key)}, now {value}" for key, value in now.items() if before.get(key) != value]
    if changed:
        raise ModelError(
            f"{what} belongs to another plan: {'; '.join(changed)}", "use the same options, or another folder with -o"
        )
