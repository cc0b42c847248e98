"""What a method adds to the loop; `pipelines/sam3d_recipe.py` is one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from numpy.random import Generator
from torch import Tensor, nn

from medseg_cli import pipelines
from medseg_cli.datasets import Case
from medseg_cli.errors import UsageError
from medseg_cli.pipelines.choices import Choices
from medseg_cli.preset import Preset


class Recipe(Protocol):
    """The seam between the loop and a method."""

    def model(self, seed: int) -> nn.Module:
        """The network with seeded initial weights."""
        ...

    def load(self, case: Case) -> Any:
        """A case in memory."""
        ...

    def sample(self, volume: Any, rng: Generator) -> Any:
        """One random training sample of a case."""
        ...

    def fixed_sample(self, volume: Any, rng: Generator) -> Any:
        """One validation sample of a case, nothing augmented."""
        ...

    def loss(self, model: nn.Module, samples: list[Any]) -> Tensor:
        """Mean loss of a batch."""
        ...

    def score(self, model: nn.Module, samples: list[Any]) -> list[float]:
        """Dice of each sample, 0 to 1."""
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
