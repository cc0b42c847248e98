"""What a validation measures of a network (most often Dice), its cases shared out among the processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from medseg_cli.training.processes import total
from medseg_cli.training.recipe import Recipe
from medseg_cli.training.stopping import Stop, StoppedError


def mean_score(fabric: Fabric, recipe: Recipe, network: nn.Module, held: Sequence[Any], seed: int, stop: Stop) -> float:
    """Mean of the recipe's measure over the held-back cases, each prompted at the same place every time.

    Raises:
        StoppedError: the run is to stop; the validation counts for nothing.
    """
    scores: list[float] = []
    was_training = network.training
    network.eval()
    with torch.inference_mode(), fabric.autocast():
        together = recipe.defaults.together
        for first in range(fabric.global_rank * together, len(held), fabric.world_size * together):
            if stop.asked:
                break
            chosen = range(first, min(first + together, len(held)))
            samples = [recipe.fixed_sample(held[index], np.random.default_rng([seed, index])) for index in chosen]
            scores += recipe.score(network, samples)
    network.train(was_training)
    summed, count, asked = total(fabric, [float(np.sum(scores)), len(scores), stop.asked])
    if asked:
        raise StoppedError
    return summed / count
