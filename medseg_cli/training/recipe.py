"""What a method adds to the loop; `pipelines/sam3d_recipe.py` is one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.random import Generator
from torch import Tensor, nn

from medseg_cli import pipelines
from medseg_cli.datasets import Case
from medseg_cli.errors import UsageError
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.defaults import Defaults
from medseg_cli.preset import Preset
from medseg_cli.training.plan import Plan


class Recipe(Protocol):
    """The seam between the loop and a method.

    A recipe whose loss changes in the course of a training offers `paced_loss(model, samples, done)` besides, `done`
    being the share of the steps that are behind. One whose parameters do not all learn alike offers `groups(network)`:
    those that learn, in groups that may carry "lr_scale" (of the rate) and "weight_decay".
    """

    @property
    def defaults(self) -> Defaults:
        """How it is trained when the command does not say otherwise."""
        ...

    def model(self, seed: int) -> nn.Module:
        """The network with its initial weights, seeded where they are random; what learns has `requires_grad`."""
        ...

    def load(self, case: Case) -> Any:
        """A case in memory: the same whenever and in whichever process it is loaded."""
        ...

    def sample(self, volume: Any, rng: Generator) -> Any:
        """One random training sample of a case; all randomness comes from `rng`."""
        ...

    def fixed_sample(self, volume: Any, rng: Generator) -> Any:
        """One validation sample of a case, nothing augmented."""
        ...

    def loss(self, model: nn.Module, samples: list[Any]) -> Tensor:
        """Mean loss of a batch."""
        ...

    def score(self, model: nn.Module, samples: list[Any]) -> list[float] | list[tuple[float, ...]]:
        """What a validation measures of each sample, 0 to 1: Dice, if `defaults.metric` says nothing else.

        A tuple holds what `defaults.also` names behind it.
        """
        ...


def recipe_of(base: Preset, start: Path | None, choices: Choices) -> Recipe:
    """The training recipe of a preset's pipeline.

    Raises:
        UsageError: the pipeline cannot be trained here.
    """
    target = pipelines.find(base.pipeline).recipe
    if not target:
        raise UsageError(f"pipeline {base.pipeline} of preset {base.name} cannot be trained yet")
    module, name = target.split(":")
    recipe: Recipe = getattr(import_module(module), name)(base, start, choices)
    return recipe


def optimizer_of(recipe: Recipe, network: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    """AdamW over the recipe's groups, or over all that learns at one rate; each keeps its peak learning rate as "peak".

    A group without a "weight_decay" is split: the plan's for matrices and kernels, none for norms and biases.

    Raises:
        UsageError: nothing of the network learns.
    """
    offered = getattr(recipe, "groups", None)
    wanted: list[dict[str, Any]] = [{"params": network.parameters()}] if offered is None else offered(network)
    groups: list[dict[str, Any]] = []
    for given in wanted:
        learning = [value for value in given["params"] if value.requires_grad]
        peak = plan.learning_rate * given.get("lr_scale", 1.0)
        if "weight_decay" in given:
            parts = [(learning, given["weight_decay"])]
        else:
            large, small = [p for p in learning if p.ndim >= 2], [p for p in learning if p.ndim < 2]
            parts = [(large, plan.weight_decay), (small, 0.0)]
        groups += [{"params": p, "weight_decay": decay, "lr": peak, "peak": peak} for p, decay in parts if p]
    if not groups:
        raise UsageError("nothing of this network would learn", "choose another --peft")
    return torch.optim.AdamW(groups, lr=plan.learning_rate)
