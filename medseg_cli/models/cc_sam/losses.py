"""The loss of our reconstruction: SAMUS's, and the divergence of the latents, which comes in slowly."""

from __future__ import annotations

from torch import Tensor

from medseg_cli.models.samus.losses import dice_entropy

BETA = 1e-3
"""Final weight of the divergence; with 96 latents it then adds about 0.06 to a loss of about 0.7."""
RISING = 0.05
"""Share of a training until it has that weight: 10 of 200 epochs."""


def loss(logits: Tensor, labels: Tensor, divergence: Tensor, done: float, beta: float = BETA) -> Tensor:
    """SAMUS's loss + beta * divergence.

    Args:
        logits, labels: (B, 1, 128, 128), labels 0 or 1.
        divergence: in nats, as `CcSam.forward` returns it.
        done: share of the training that is behind, 0 to 1.
        beta: final weight of the divergence.
    """
    return dice_entropy(logits, labels) + beta * min(1.0, done / RISING) * divergence
