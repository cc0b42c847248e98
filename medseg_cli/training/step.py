"""One optimiser step: forward and backward of its batches, clipping, and what can go wrong."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medseg_cli.errors import ModelError
from medseg_cli.training.plan import Plan
from medseg_cli.training.recipe import Recipe

WINDOW = 100
"""Losses whose median is what a loss is compared with."""
RECENT = 25
"""Losses that must be high together before it is said."""
RISE = 3.0
"""How many times the median they are then."""
FULL = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""How errors of host memory, of a driver (torch, Triton, MPS), and of libraries that allocate for themselves say it."""
SKIPS = 30
"""Steps in a row that fp16 may skip: each halves the scale, and the first one of 65536 is used up then."""


class Batch:
    """Samples on their way through Fabric, which would take containers and dataclasses apart to cast their tensors."""

    def __init__(self, samples: list[Any], done: float) -> None:
        self.samples = samples
        self.done = done


class Objective(nn.Module):
    """A network together with its loss, so that one forward pass is all that DDP and autocast have to know of."""

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        self._recipe = recipe

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of the batch."""
        paced = getattr(self._recipe, "paced_loss", None)
        if paced is not None:
            loss: Tensor = paced(self.network, batch.samples, batch.done)
            return loss
        return self._recipe.loss(self.network, batch.samples)


class NotFiniteError(Exception):
    """A loss or a gradient that is not a number; the loop says what to do."""


@dataclass
class Stepper:
    """Takes steps with one model and optimiser; `model` is Fabric's wrapper of an `Objective`."""

    fabric: Fabric
    model: Any
    optimizer: Any
    plan: Plan
    skipped: int = 0

    def gradients(self, parts: list[list[Any]], step: int) -> float:
        """Forward and backward of all batches of a step; the mean loss of this process's samples.

        Args:
            parts: this process's samples of each batch.
            step: seeds what the network itself draws (dropout).

        Raises:
            NotFiniteError: the loss is not a number.
        """
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(_seed(self.plan.seed, step, self.fabric.global_rank))
        count = sum(len(samples) for samples in parts)
        loss = 0.0
        for number, samples in enumerate(parts):
            # Gradients are exchanged once per step, with the last batch.
            with self.fabric.no_backward_sync(self.model, enabled=number + 1 < len(parts)):
                mean = self.model(Batch(samples, step / self.plan.steps)) * (len(samples) / count)
                value = float(mean.detach())
                if not math.isfinite(value):
                    raise NotFiniteError(f"the loss is {value}")
                self.fabric.backward(mean)
            loss += value
        return loss

    def update(self, step: int) -> None:
        """Clip the gradients and move the weights, with the learning rate of the step.

        Raises:
            NotFiniteError: a gradient is not a number; fp16 skips `SKIPS` such steps and lowers its scale instead.
        """
        norm = self.fabric.clip_gradients(self.model, self.optimizer, max_norm=self.plan.clip, error_if_nonfinite=False)
        self.skipped = 0 if norm is None or torch.isfinite(norm) else self.skipped + 1
        if self.skipped > (SKIPS if self.plan.precision == "fp16" else 0):
            raise NotFiniteError(f"the norm of the gradients is {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.plan.rate(step)
        self.optimizer.step()


def explained(error: NotFiniteError, step: int, rate: float, loss: float | None, plan: Plan, cases: str) -> ModelError:
    """What a user needs to know of numbers that are none.

    Args:
        step: optimiser steps done before.
        rate: learning rate of this one.
        loss: of the step before; None = there was none.
        cases: ids of the step's cases.
    """
    before = "" if loss is None else f", the loss before was {loss:.4g}"
    hint = f"train with --learning-rate {plan.learning_rate / 3:.1g} and another -o"
    if plan.precision != "fp32":
        hint += ", or with --precision fp32"
    return ModelError(
        f"{error} in step {step + 1} (learning rate {rate:.2e}{before}; cases {cases})",
        f"{hint}; if it is always these cases, look for broken values in them",
    )


class Divergence:
    """Notices when the loss stays far above what it was."""

    def __init__(self) -> None:
        self._before: deque[float] = deque(maxlen=WINDOW)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._said = False

    def seen(self, loss: float) -> str:
        """Take in a loss; what to say about it, "" = nothing (or nothing new)."""
        if len(self._recent) == RECENT:
            self._before.append(self._recent[0])
        self._recent.append(loss)
        if len(self._before) < RECENT:
            return ""
        usual, now = median(self._before), median(self._recent)
        spread = median(abs(value - usual) for value in self._before)
        high = now > usual + max((RISE - 1) * abs(usual), 6 * spread)
        news = high and not self._said
        self._said = high
        return f"the loss rises: {now:.4g} over the last {RECENT} steps, {usual:.4g} before" if news else ""


def is_out_of_memory(error: BaseException) -> bool:
    """The ways of torch and Python to say so; a failed allocation in host memory has no type of its own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL)


def _seed(seed: int, step: int, rank: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
