"""How a network is trained, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    Args:
        steps: optimiser steps of the whole run.
        batch_size: samples per step.
        learning_rate: peak of AdamW's; warmed up linearly over 3 % of the steps, then cosine down to 1 % of it.
        weight_decay: AdamW's, on matrices and kernels only.
        ema: decay of the averaged weights, which are what is validated and exported.
        validate_every: steps between validations and checkpoints.
        seed: of weights, samples and order.
        precision: Fabric's name: "32-true" or "bf16-mixed".
        accelerator: Fabric's name: "cpu", "cuda" or "mps".
        device: index among that accelerator's devices.
    """

    steps: int = 4000
    batch_size: int = 4
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    ema: float = 0.998
    validate_every: int = 250
    seed: int = 0
    precision: Any = "32-true"
    accelerator: str = "cpu"
    device: int = 0


@dataclass(frozen=True)
class Progress:
    """One line of the log: the mean loss since the line before, and the seconds since this start of the loop."""

    step: int
    loss: float
    dice: float
    learning_rate: float
    seconds: float
