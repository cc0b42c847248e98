"""A sentence as one more prompt token: in the paper, text goes into SAM's prompt encoder; how is our reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DROPPED = 0.1
"""Share of training samples whose text is left out, so that the network also runs without."""


class TextPrompt(nn.Module):
    """Sentence embeddings (B, E) of a frozen language model → one prompt token each, (B, 1, C).

    The language model is not part of the network: embeddings come from a table that was computed once.
    """

    def __init__(self, text_dim: int, prompt_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_dim)
        self.hidden = nn.Linear(text_dim, prompt_dim)
        self.proj = nn.Linear(prompt_dim, prompt_dim)
        self.kind = nn.Parameter(torch.randn(prompt_dim) * 0.02)
        self.nothing = nn.Parameter(torch.randn(prompt_dim) * 0.02)

    def forward(self, text: Tensor | None, count: int, noise: torch.Generator | None = None) -> Tensor:
        """Tokens of `count` prompts.

        Args:
            text: (B, E), or None: the learned token for no text.
            count: B.
            noise: of the texts that are left out while training, on the CPU; None = PyTorch's own.
        """
        nothing = self.nothing.expand(count, 1, -1)
        if text is None:
            return nothing
        told = (self.proj(F.gelu(self.hidden(self.norm(text)))) + self.kind)[:, None]
        if not self.training:
            return told
        kept = torch.rand(count, generator=noise) >= DROPPED
        return torch.where(kept.to(told.device)[:, None, None], told, nothing)
