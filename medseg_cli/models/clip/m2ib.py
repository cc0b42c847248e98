"""M2IB, the saliency of MedCLIP-SAMv2: which patches a picture cannot lose without losing the text's meaning.

Noise is let into the tokens behind one block as far as the similarity with the text allows; what is kept is what the
text needs (spec section 4.1). Blocks before the bottleneck see the same tokens in every step: they run once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medseg_cli.models.clip.network import Tower

START = 5.0
"""Where the openness of the bottleneck begins, before the sigmoid."""
MOST_OPEN = 14.0
"""In single precision one minus the sigmoid of 17 is 0, and its logarithm no number."""


@dataclass(frozen=True)
class Bottleneck:
    """How the map is sought.

    Args:
        layer: block behind which noise is let in, from 0.
        beta: weight of the information that is kept against the similarity.
        steps: of Adam.
        copies: of the picture with noise of their own, over which the similarity is averaged.
        rate: of Adam.
    """

    layer: int = 7
    beta: float = 0.1
    steps: int = 10
    copies: int = 10
    rate: float = 1.0


def capacity(tokens: Tensor, openness: Tensor) -> Tensor:
    """Information of each entry in nats that the bottleneck lets through.

    KL(N(lambda x, (1 - lambda)^2) || N(0, 1)) with lambda = sigmoid(openness); any shape, broadcast.
    """
    kept = torch.sigmoid(openness)
    mean, variance = tokens * kept, (1 - kept) ** 2
    return -0.5 * (1 + variance.log() - mean**2 - variance)


def m2ib(tower: Tower, tokens: Tensor, text: Tensor, how: Bottleneck, seed: int) -> tuple[Tensor, Tensor]:
    """The information that each patch passes on, for one picture and one text.

    Args:
        tower: image tower; its parameters get no gradients.
        tokens: (1, 1 + N, D) behind block `how.layer`, as `prefix` gives them.
        text: (E,) features of the text.
        how: the search.
        seed: of the noise; the same seed gives the same map, whatever was computed before.

    Returns:
        Map (rows, columns) in nats, summed over channels and not normalised; and the similarity (cosine) in the last
        step. The map is the one before the last update, as in the official code.
    """
    tokens = tokens.detach()
    generator = torch.Generator(tokens.device).manual_seed(seed)
    openness = torch.full_like(tokens, START, requires_grad=True)
    adam = torch.optim.Adam([openness], lr=how.rate)
    shape = (how.copies, *tokens.shape[1:])
    for _ in range(how.steps):
        kept = torch.sigmoid(openness)
        noise = torch.randn(shape, generator=generator, device=tokens.device, dtype=tokens.dtype)
        features = tower.features(tower.run(tokens * kept + (1 - kept) * noise, how.layer + 1, len(tower.blocks)))
        similarity = torch.nn.functional.cosine_similarity(features, text[None], dim=-1, eps=1e-6).mean()
        information = capacity(tokens, openness)
        # Not backward: the network's own parameters must not gather gradients.
        (openness.grad,) = torch.autograd.grad(how.beta * information.mean() - similarity, [openness])
        adam.step()
        with torch.no_grad():
            openness.clamp_(max=MOST_OPEN)
    rows, columns = tower.grid
    return information.detach()[0, 1:].sum(-1).reshape(rows, columns), similarity.detach()


@torch.no_grad()
def prefix(tower: Tower, image: Tensor, layer: int) -> Tensor:
    """Tokens (B, 1 + N, D) behind block `layer`, of normalised pictures (B, 3, S, S)."""
    return tower.run(tower.tokens(image), 0, layer + 1)
