"""A recipe whose network is a handful of numbers: for tests of the loop that is round it.

Import it with `from toy_recipe import ...` (tests/ is on pytest's path).
"""

from __future__ import annotations

from pathlib import Path

import torch
from numpy.random import Generator
from torch import Tensor, nn

from medseg_cli.datasets import Case, Split
from medseg_cli.pipelines.defaults import Defaults

CASES = tuple(Case(name, Path(name), Path(name)) for name in "abcdefg")
SPLIT = Split(CASES[:5], CASES[5:6], CASES[6:])


class Toy:
    """Learns the mean of what its cases show, with dropout and a batch norm on the way.

    `seen` lists what every loss was asked for: (case, first number of the sample) of each sample.
    """

    def __init__(self) -> None:
        self.seen: list[list[tuple[float, float]]] = []
        self.batches: list[int] = []

    @property
    def defaults(self) -> Defaults:
        return Defaults(learning_rate=0.01, batch_size=2, epochs=4, validate_every=1)

    def model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        frozen = nn.Linear(3, 3).requires_grad_(False)
        return nn.Sequential(frozen, nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))

    def load(self, case: Case) -> Tensor:
        return torch.full((3,), float(ord(case.id) - ord("a")))

    def sample(self, volume: Tensor, rng: Generator) -> Tensor:
        return volume + torch.from_numpy(rng.uniform(0, 0.5, size=3)).float()

    def fixed_sample(self, volume: Tensor, rng: Generator) -> Tensor:
        return volume

    def loss(self, model: nn.Module, samples: list[Tensor]) -> Tensor:
        self.seen.append([(float(sample[0] // 1), float(sample[0])) for sample in samples])
        self.batches.append(len(samples))
        # Twice, because a batch norm refuses a batch of one.
        found = model(torch.stack([*samples, *samples]))
        return (found - 1).square().mean()

    def score(self, model: nn.Module, samples: list[Tensor]) -> list[float]:
        return [float(torch.exp(-(model(sample[None]) - 1).square()).mean()) for sample in samples]
