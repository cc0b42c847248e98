"""How SAM-UNet learns: what a sample is, and what its loss is.

A sample is one picture, randomly viewed and shaded, with boxes and the masks that belong to them. Prompts are boxes
only, as in the method (paper section 3; official training: one box per mask, moved by a few pixels).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from medseg_cli.datasets import Case
from medseg_cli.models.sam_unet.checkpoint import LAYOUT, identified
from medseg_cli.models.sam_unet.config import config_of
from medseg_cli.models.sam_unet.losses import focal_dice
from medseg_cli.models.sam_unet.network import SamUnet
from medseg_cli.models.sam_unet.start import begin
from medseg_cli.models.tuned_file import opened
from medseg_cli.models.tuning import decide, rest, tune
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.defaults import Defaults
from medseg_cli.pipelines.features import Features, kept_features, views_of, without_kept
from medseg_cli.pipelines.slice_held import Held, scores
from medseg_cli.pipelines.slice_samples import Sample, SliceSamples
from medseg_cli.pipelines.slice_study import Study
from medseg_cli.preset import Preset


@dataclass(frozen=True)
class SamUnetRecipe:
    """Samples and loss for one preset of pipeline sam-unet.

    Args:
        preset: model configuration, intensities, and whether the whole image is a box.
        start: weights to begin with: a SAM-UNet, a SAM, or an ImageNet ResNet; None = seeded random weights.
        choices: what is trained, and what an object is.
    """

    preset: Preset
    start: Path | None
    choices: Choices = field(default_factory=Choices)

    @property
    def defaults(self) -> Defaults:
        """The official rate and no decay for weights that were trained; a random network learns faster."""
        if self.start is None:
            return Defaults(learning_rate=1e-3, batch_size=4)
        return Defaults(learning_rate=1e-4, batch_size=4, weight_decay=0.0)

    def model(self, seed: int) -> SamUnet:
        """The network of the preset with its initial weights, tuned as chosen.

        Raises:
            ModelError: missing or misfitting weights.
            UsageError: random weights were to be frozen.
        """
        network, fresh = begin(self.preset.model, seed, [] if self.start is None else [self.start])
        kind = decide(self.choices.peft, network.config.embed_dim, self.start is None)
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

    def loss(self, model: SamUnet, samples: list[Sample]) -> Tensor:
        """Mean loss of a batch of pictures."""
        rest(model)
        device = next(model.parameters()).device
        if self._features is not None:
            logits = self._decoded(model, self._features, samples)
        else:
            batch = [{"image": sample.image.to(device), "boxes": sample.boxes.to(device)} for sample in samples]
            logits = torch.cat([output["masks"] for output in model(batch)])
        masks = torch.cat([sample.masks for sample in samples])[:, None].to(device)
        logits = logits.float()
        return dice_cross_entropy(logits, masks) if self.start is None else focal_dice(logits, masks)

    def score(self, model: SamUnet, samples: list[tuple[Held, ...]]) -> list[float]:
        """Dice of each picture's mask, on its own pixels."""
        return scores(model, samples)

    def _decoded(self, model: SamUnet, kept: Features, samples: list[Sample]) -> Tensor:
        """Logits (N, 1, S, S) of a batch whose features are kept."""
        device = next(model.parameters()).device
        features = kept.of(model, [model.frame(sample.image.to(device)).cpu() for sample in samples])
        low = [
            model.decode(found, boxes=sample.boxes.to(device))[0]
            for found, sample in zip(features, samples, strict=True)
        ]
        return model.upsample(torch.cat(low)[:, None])

    @cached_property
    def _samples(self) -> SliceSamples:
        # A SAM or a ResNet leaves parts of the encoder to be trained.
        whole = self.start is not None and (opened(self.start) is not None or identified(self.start)[0] == LAYOUT)
        return SliceSamples(self.preset, config_of(self.preset.model).image_size, views_of(self.choices, whole))

    @cached_property
    def _features(self) -> Features | None:
        return kept_features(self.choices, self.start, self._samples.views)

    __getstate__ = without_kept


def dice_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over masks of Dice loss (smooth 1) plus binary cross entropy, both (N, 1, S, S): for random initial weights.

    The method's own loss hardly has a gradient where a random network is confidently wrong.
    """
    probability = logits.sigmoid()
    both, total = (probability * masks).sum((1, 2, 3)), (probability + masks).sum((1, 2, 3))
    return (1 - (2 * both + 1) / (total + 1)).mean() + F.binary_cross_entropy_with_logits(logits, masks)
