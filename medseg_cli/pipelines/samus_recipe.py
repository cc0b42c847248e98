"""How SAMUS learns: one click on each object, a few boxes where the preset takes them, and the official loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from medseg_cli.datasets import Case
from medseg_cli.models.samus.config import SIZE
from medseg_cli.models.samus.losses import dice_entropy
from medseg_cli.models.samus.network import Samus
from medseg_cli.models.samus.start import begin, is_samus
from medseg_cli.models.tuning import decide, rest, tune
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.defaults import Defaults
from medseg_cli.pipelines.features import Features, embeddings, kept_features, views_of, without_kept
from medseg_cli.pipelines.slice_held import Held, scores
from medseg_cli.pipelines.slice_samples import Framed, Sample, SliceSamples, clicks_in
from medseg_cli.pipelines.slice_study import Study
from medseg_cli.preset import Preset

BOXES = 0.25
"""Share of prompts that are boxes, of presets that take them. Official trainings show clicks alone."""


@dataclass(frozen=True, eq=False)
class Prompted:
    """One picture with N objects, which of them a box is given for, and where in them a click falls, as 0 to 1."""

    view: Sample
    boxed: Tensor
    draws: Tensor


@dataclass(frozen=True)
class SamusRecipe:
    """Samples and loss for one preset of pipeline samus.

    Args:
        preset: which prompts it takes, intensities, and how pictures lie in the frame.
        start: weights to begin with: a SAMUS or a SAM; None = seeded random weights.
        choices: what is trained, and what an object is.
    """

    preset: Preset
    start: Path | None
    choices: Choices = field(default_factory=Choices)

    @property
    def defaults(self) -> Defaults:
        """The rate that the authors advise, and no decay; a random network learns faster."""
        return official_defaults(scratch=self.start is None)

    def model(self, seed: int) -> Samus:
        """The network with its initial weights, tuned as chosen; SAM's part stays as it is, the decoder included.

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

    def sample(self, study: Study, rng: Generator) -> Prompted:
        """A random view of a random slice with prompts; errors as of `SliceSamples.sample`."""
        view = self._samples.sample(study, rng)
        boxed = rng.random(len(view.boxes)) < (BOXES if "box" in self.preset.prompts.kinds else 0.0)
        return Prompted(view, torch.from_numpy(boxed), torch.from_numpy(rng.random(len(view.boxes))).float())

    def fixed_sample(self, study: Study, rng: Generator) -> tuple[Held, ...]:
        """Some slices as they are: what validation sees."""
        return self._samples.fixed(study, rng)

    def loss(self, model: Samus, samples: list[Prompted]) -> Tensor:
        """Official loss over all objects of a batch of pictures."""
        rest(model)
        device = next(model.parameters()).device
        framed = [self._samples.framed(each.view) for each in samples]
        encoded = embeddings(model, [each.image for each in framed], self._features)
        logits, targets = [], []
        for embedding, shown, each in zip(encoded, framed, samples, strict=True):
            for boxed in (True, False):
                chosen = each.boxed == boxed
                if chosen.any():
                    prompts = _prompts(shown, chosen, each.draws, boxed, device)
                    logits.append(model.decode(embedding, **prompts)[0].float())
                    targets.append(low_masks(shown.masks[chosen]).to(device))
        return dice_entropy(torch.cat(logits)[:, None], torch.cat(targets)[:, None])

    def score(self, model: Samus, samples: list[tuple[Held, ...]]) -> list[float]:
        """Dice of each picture's mask on its own pixels, clicked as official evaluations do (`middle_pixel`)."""
        return scores(model, samples, _middle_click)

    @cached_property
    def _samples(self) -> SliceSamples:
        # A SAM leaves the CNN branch and the adapters to be trained.
        whole = self.start is not None and is_samus(self.start)
        return SliceSamples(self.preset, SIZE, views_of(self.choices, whole))

    @cached_property
    def _features(self) -> Features | None:
        return kept_features(self.choices, self.start, self._samples.views)

    __getstate__ = without_kept


def middle_pixel(mask: Tensor) -> np.ndarray:
    """(2,) xy of the middle one of a mask's pixels (H, W), row by row: the click of SAMUS's own evaluation."""
    rows, columns = np.nonzero(mask.numpy())
    middle = len(rows) // 2
    return np.array([columns[middle], rows[middle]], dtype=np.float64)


def _middle_click(held: Held) -> dict[str, Tensor]:
    points = held.frame.points(middle_pixel(held.mask[0])[None])[None]
    return {"points": points, "labels": torch.ones(1, 1)}


def _prompts(shown: Framed, chosen: Tensor, draws: Tensor, boxed: bool, device: torch.device) -> Mapping[str, Tensor]:
    """Keyword arguments of `decode`: boxes (n, 4), or one click (n, 1, 2) in each of the chosen objects."""
    if boxed:
        return {"boxes": shown.boxes[chosen].to(device)}
    points = clicks_in(shown.masks[chosen] > 0.5, draws[chosen])[:, None]
    return {"points": points.to(device), "labels": torch.ones(len(points), 1, device=device)}


def official_defaults(*, scratch: bool) -> Defaults:
    """Of SAMUS's training script, which the official code uses for AutoSAMUS too; `scratch`: of a random network."""
    if scratch:
        return Defaults(learning_rate=1e-3, batch_size=4)
    return Defaults(learning_rate=1e-4, weight_decay=0.0, batch_size=8)


def low_masks(masks: Tensor) -> Tensor:
    """Masks (n, h, w) in the frame's picture → (n, 128, 128) over the frame, as the official code picks pixels."""
    whole = F.pad(masks, (0, SIZE - masks.shape[2], 0, SIZE - masks.shape[1]))
    return F.interpolate(whole[:, None], (SIZE // 2, SIZE // 2), mode="nearest")[:, 0]
