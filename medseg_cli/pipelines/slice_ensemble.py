"""Several checkpoints of one 2-D network that answer together, with the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SliceEnsemble(nn.Module):
    """A `by_slice.SliceNetwork` made of others.

    Args:
        members: networks of one configuration.
    """

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.size: int = members[0].size
        self.mask_size: int = members[0].mask_size

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """The embeddings of every member, each under its number."""
        return {
            f"{number}.{name}": value
            for number, member in enumerate(self.members)
            for name, value in member.encode(images).items()  # type: ignore[operator]
        }

    def decode(self, embedding: dict[str, Tensor], **prompts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """As of one network; see `mean_logits`. The score is the mean of the members' scores."""
        logits, scores = [], []
        for number, member in enumerate(self.members):
            own = {
                name.removeprefix(f"{number}."): value
                for name, value in embedding.items()
                if name.startswith(f"{number}.")
            }
            found, score = member.decode(own, **prompts)  # type: ignore[operator]
            logits.append(found.float())
            scores.append(score)
        known = [score.float() for score in scores if score is not None]
        return mean_logits(torch.stack(logits)), torch.stack(known).mean(0) if known else None


def mean_logits(logits: Tensor) -> Tensor:
    """Logits (N, ...) → the logits (...) of the mean of their probabilities; finite for any finite ones."""
    count = math.log(len(logits))
    inside = F.logsigmoid(logits).logsumexp(0) - count
    outside = F.logsigmoid(-logits).logsumexp(0) - count
    return inside - outside
