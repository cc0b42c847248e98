"""The validation Dice of a network, its cases shared out among the processes."""

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


def mean_dice(fabric: Fabric, recipe: Recipe, network: nn.Module, held: Sequence[Any], seed: int, stop: Stop) -> float:
    """Mean Dice over the held-back cases, each prompted at the same place every time.

    Raises:
        StoppedError: the run is to stop; the validation counts for nothing.
    """
    scores: list[float] = []
    was_training = network.training
    network.eval()
    with torch.inference_mode(), fabric.autocast():
        for index in range(fabric.global_rank, len(held), fabric.world_size):
            if stop.asked:
                break
            sample = recipe.fixed_sample(held[index], np.random.default_rng([seed, index]))
            scores += recipe.score(network, [sample])
    network.train(was_training)
    summed, count, asked = total(fabric, [float(np.sum(scores)), len(scores), stop.asked])
    if asked:
        raise StoppedError
    return summed / count
