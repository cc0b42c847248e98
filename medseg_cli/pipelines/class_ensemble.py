"""Several checkpoints of one network of classes that answer together, with the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ClassEnsemble(nn.Module):
    """A network like its members.

    Args:
        members: networks of one configuration: image (B, 1, I, J, K) → logits (B, C, I, J, K).
    """

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.config = members[0].config

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 1, I, J, K) → logarithms (B, C, I, J, K) of the mean probability of each class."""
        total: Tensor | None = None
        # One after the other: of a large window a single member's scores may take a gigabyte.
        for member in self.members:
            own = member(image).float().log_softmax(1)
            total = own if total is None else torch.logaddexp(total, own)
        assert total is not None, "an ensemble has members"
        return total - math.log(len(self.members))
