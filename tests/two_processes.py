"""Started by torchrun: trains the toy network and writes what each process saw to `<run>/seen-<rank>.json`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from toy_recipe import SPLIT, Toy

from medseg_cli.training.loop import fit
from medseg_cli.training.plan import Plan

PLAN = Plan(steps=6, batch_size=4, accumulate=2, learning_rate=0.01, validate_every=3, ema=0.5, seed=3)


class Plain(Toy):
    """Nothing mixes the samples of a batch, so that parts of it give parts of its gradient."""

    def model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        network = nn.Linear(3, 1)
        network.register_buffer("statistics", torch.zeros(3))
        return network

    def loss(self, model: nn.Module, samples: list[Tensor]) -> Tensor:
        """Also notes a statistic of the batch, which is another in each process."""
        model.statistics.copy_(torch.stack(samples).mean(0))
        return super().loss(model, samples)


def main(run: Path) -> None:
    recipe = Plain()
    fitted = fit(recipe, SPLIT, PLAN, run, lambda line: None)
    facts = {"seen": recipe.seen, "weight": fitted.network.weight.tolist(), "dice": fitted.state.best_dice}
    facts["statistics"] = fitted.network.statistics.tolist()
    facts["losses"] = [line.loss for line in fitted.state.history]
    (run / f"seen-{os.environ.get('RANK', 0)}.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
