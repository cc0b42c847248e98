"""How AutoSAMUS learns: all labelled pixels of a picture are the object, nothing points at it, SAMUS's loss."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from numpy.random import Generator
from torch import Tensor

from medseg_cli.datasets import Case
from medseg_cli.errors import UsageError
from medseg_cli.models.samus.auto import AutoSamus
from medseg_cli.models.samus.auto_start import begin, is_trained
from medseg_cli.models.samus.config import SIZE
from medseg_cli.models.samus.losses import dice_entropy
from medseg_cli.models.tuning import decide, encoder_rests, rest, tune
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.defaults import Defaults
from medseg_cli.pipelines.features import Features, kept_features, views_of, without_kept
from medseg_cli.pipelines.samus_recipe import low_masks, official_defaults
from medseg_cli.pipelines.slice_held import Held, scores
from medseg_cli.pipelines.slice_samples import Sample, SliceSamples
from medseg_cli.pipelines.slice_study import Study
from medseg_cli.preset import Preset

RESTING = ("method", "adapter", "decoder")
"""Choices of what is trained that leave the image encoder as it is."""


@dataclass(frozen=True)
class AutosamusRecipe:
    """Samples and loss for one preset of pipeline autosamus.

    Args:
        preset: intensities, and how pictures lie in the frame; the whole image is its prompt.
        start: weights to begin with: a SAMUS, or an AutoSAMUS; None = seeded random weights.
        choices: what is trained.
    """

    preset: Preset
    start: Path | None
    choices: Choices = field(default_factory=Choices)

    def __post_init__(self) -> None:
        """Nothing can say which of several objects is meant.

        Raises:
            UsageError: objects apart.
        """
        if self.choices.objects == "apart":
            raise UsageError(
                f"--objects apart: preset {self.preset.name} has no prompt that could say which of them is meant",
                "leave it out: all labelled pixels are its object",
            )

    @property
    def defaults(self) -> Defaults:
        """As of SAMUS."""
        return official_defaults(scratch=self.start is None)

    def model(self, seed: int) -> AutoSamus:
        """The network with its initial weights: of a SAMUS, whatever its size, only what it lacks is trained.

        Raises:
            ModelError: missing or misfitting weights.
            UsageError: random weights were to be frozen.
        """
        network, fresh = begin(self.preset.model, seed, [] if self.start is None else [self.start])
        kind = decide(self.choices.peft, None, self.start is None)
        tune(network, kind, self.choices.rank, seed, fresh, self.start)
        return network

    def load(self, case: Case) -> Study:
        """A case in memory; errors as of `SliceSamples.load`."""
        return self._samples.load(case)

    def sample(self, study: Study, rng: Generator) -> Sample:
        """A random view of a random slice; errors as of `SliceSamples.sample`."""
        return self._samples.sample(study, rng)

    def fixed_sample(self, study: Study, rng: Generator) -> tuple[Held, ...]:
        """Some slices as they are: what validation sees."""
        return self._samples.fixed(study, rng)

    def loss(self, model: AutoSamus, samples: list[Sample]) -> Tensor:
        """Official loss over a batch of pictures."""
        rest(model)
        framed = [self._samples.framed(each) for each in samples]
        logits, _ = model.decode(self._embeddings(model, [each.image for each in framed]))
        # The first mask of a sample is the whole object; the others are parts of it, for networks that take boxes.
        targets = torch.cat([low_masks(each.masks[:1]) for each in framed])
        return dice_entropy(logits.float()[:, None], targets[:, None].to(logits.device))

    def score(self, model: AutoSamus, samples: list[tuple[Held, ...]]) -> list[float]:
        """Dice of each picture's mask on its own pixels."""
        return scores(model, samples, lambda held: {})

    def _embeddings(self, model: AutoSamus, images: list[Tensor]) -> dict[str, Tensor]:
        if self._features is not None:
            return {"image": torch.cat([each["image"] for each in self._features.of(model, images)])}
        with torch.set_grad_enabled(not encoder_rests(model)):
            return model.encode(torch.stack(images).to(next(model.parameters()).device))

    @cached_property
    def _samples(self) -> SliceSamples:
        whole = self.start is not None and is_trained(self.start)
        rests = replace(self.choices, peft="decoder") if self.choices.peft in RESTING else self.choices
        return SliceSamples(self.preset, SIZE, views_of(rests, whole))

    @cached_property
    def _features(self) -> Features | None:
        return kept_features(self.choices, self.start, self._samples.views)

    __getstate__ = without_kept
