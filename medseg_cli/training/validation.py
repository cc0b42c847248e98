"""What a validation measures of a network (most often Dice), its cases shared out among the processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from medseg_cli.training.processes import total
from medseg_cli.training.recipe import Recipe
from medseg_cli.training.stopping import Stop, StoppedError


def mean_scores(
    fabric: Fabric, recipe: Recipe, network: nn.Module, held: Sequence[Any], seed: int, stop: Stop
) -> list[float]:
    """Means of the recipe's measures over the held-back cases, each prompted at the same place every time.

    Returns:
        The mean of `defaults.metric`, then those of `defaults.also`.

    Raises:
        StoppedError: the run is to stop; the validation counts for nothing.
    """
    scores: list[NDArray[np.float64]] = []
    was_training = network.training
    network.eval()
    with torch.inference_mode(), fabric.autocast():
        together = recipe.defaults.together
        for first in range(fabric.global_rank * together, len(held), fabric.world_size * together):
            if stop.asked:
                break
            chosen = range(first, min(first + together, len(held)))
            samples = [recipe.fixed_sample(held[index], np.random.default_rng([seed, index])) for index in chosen]
            scores += [np.atleast_1d(np.asarray(each, np.float64)) for each in recipe.score(network, samples)]
    network.train(was_training)
    own = np.sum(scores, axis=0) if scores else np.zeros(1 + len(recipe.defaults.also))
    *summed, count, asked = total(fabric, [*own.tolist(), len(scores), stop.asked])
    if asked:
        raise StoppedError
    return [each / count for each in summed]
