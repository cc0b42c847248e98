"""How a method is trained when the command does not say otherwise: each recipe states its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defaults:
    """A recipe's own settings; every option of `medseg finetune` that is given goes before them.

    Args:
        learning_rate: peak of AdamW's.
        batch_size: samples per optimiser step.
        epochs: an epoch is as many steps as there are training cases per batch, rounded up.
        weight_decay: AdamW's, for parameters of two or more dimensions.
        ema: decay of the averaged weights, which are validated and exported; 0 = the weights themselves.
        warmup: share of the steps in which the learning rate rises to its peak.
        floor: learning rate at the end, as a share of its peak.
        clip: largest norm of all gradients together.
        validate_every: epochs between validations.
        metric: what a validation measures, from 0 to 1, the more the better.
        also: what it measures besides, which chooses nothing.
        together: validation samples that are scored together.
    """

    learning_rate: float = 2e-4
    batch_size: int = 2
    epochs: int = 100
    weight_decay: float = 0.02
    ema: float = 0.998
    warmup: float = 0.03
    floor: float = 0.01
    clip: float = 1.0
    validate_every: int = 5
    metric: str = "Dice"
    also: tuple[str, ...] = ()
    together: int = 1
