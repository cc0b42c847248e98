"""How SAM and checkpoints of its layout learn: boxes and clicks, corrected as a user would, and what the loss is.

A preset that takes clicks is trained as SAM is (arXiv 2304.02643, section 3 and appendix A): it begins with a box or a
single click, further clicks are drawn where the answer is wrong, and the answer before is given as mask prompt. Loss:
20 focal + Dice of the mask, and the square of the error of the predicted IoU. A preset that takes boxes alone is
trained as MedSAM is (Nature Communications 15, 654): one box, Dice + binary cross entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from medseg_cli.datasets import Case
from medseg_cli.models.sam.network import Sam
from medseg_cli.models.sam.start import begin, image_size
from medseg_cli.models.tuning import decide, rest, tune
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.defaults import Defaults
from medseg_cli.pipelines.features import Features, embeddings, kept_features, views_of, without_kept
from medseg_cli.pipelines.slice_held import Held, scores
from medseg_cli.pipelines.slice_samples import Sample, SliceSamples, clicks_in
from medseg_cli.pipelines.slice_study import Study
from medseg_cli.preset import Preset

CORRECTIONS = 2
"""Clicks after the first prompt. SAM's training takes ten, SAM-Med2D's eight; each costs a pass of the decoder."""
BOX_FIRST = 0.5
"""Share of the prompts that begin with a box, of presets that take clicks too."""
FOCAL = 20.0
ALPHA, GAMMA = 0.25, 2.0


@dataclass(frozen=True, eq=False)
class Prompted:
    """One picture and how a user goes on.

    Args:
        view: the picture with N boxes and masks.
        boxed: (N,) whether an object begins with its box, or with a click.
        draws: (N, 1 + corrections) numbers in 0..1 that say which pixel of a region is clicked.
    """

    view: Sample
    boxed: Tensor
    draws: Tensor


@dataclass(frozen=True)
class SamRecipe:
    """Samples and loss for one preset of pipeline sam.

    Args:
        preset: which prompts it takes, intensities, and how pictures lie in the frame.
        start: weights to begin with, of SAM's layout; None = seeded random weights.
        choices: what is trained, and what an object is.
    """

    preset: Preset
    start: Path | None
    choices: Choices = field(default_factory=Choices)

    @property
    def defaults(self) -> Defaults:
        """MedSAM's rate and decay; what is put into a frozen network learns faster."""
        put_in = self.choices.peft in ("adapter", "lora")
        return Defaults(learning_rate=5e-4 if put_in else 1e-4, weight_decay=0.01, batch_size=2, epochs=50)

    def model(self, seed: int) -> Sam:
        """The network with its initial weights, tuned as chosen.

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

    def sample(self, study: Study, rng: Generator) -> Prompted:
        """A random view of a random slice with prompts; errors as of `SliceSamples.sample`."""
        view = self._samples.sample(study, rng)
        boxed = rng.random(len(view.boxes)) < (BOX_FIRST if self._corrected else 1.0)
        draws = rng.random((len(view.boxes), 1 + CORRECTIONS))
        return Prompted(view, torch.from_numpy(boxed), torch.from_numpy(draws).float())

    def fixed_sample(self, study: Study, rng: Generator) -> tuple[Held, ...]:
        """Some slices as they are, with exact boxes: what validation sees."""
        return self._samples.fixed(study, rng)

    def loss(self, model: Sam, samples: list[Prompted]) -> Tensor:
        """Mean over the objects of a batch of pictures."""
        rest(model)
        device = next(model.parameters()).device
        framed = [self._samples.framed(each.view) for each in samples]
        encoded = embeddings(model, [each.image for each in framed], self._features)
        losses = []
        for embedding, shown, each in zip(encoded, framed, samples, strict=True):
            truth, boxes = shown.masks.to(device), shown.boxes.to(device)
            losses.append(self._object_losses(model, embedding, truth, boxes, each))
        return torch.cat(losses).mean()

    def score(self, model: Sam, samples: list[tuple[Held, ...]]) -> list[float]:
        """Dice of each picture's mask, on its own pixels."""
        return scores(model, samples)

    def _object_losses(
        self, model: Sam, embedding: Mapping[str, Tensor], truth: Tensor, boxes: Tensor, sample: Prompted
    ) -> Tensor:
        """(N,) losses of the objects of one picture, of those with a box first and of those with a click first."""
        boxed, draws = sample.boxed.to(truth.device), sample.draws.to(truth.device)
        parts = []
        for chosen, first in ((boxed, boxes[boxed]), (~boxed, None)):
            if chosen.any():
                parts.append(self._rounds(model, embedding, truth[chosen], first, draws[chosen]))
        return torch.cat(parts)

    def _rounds(
        self, model: Sam, embedding: Mapping[str, Tensor], truth: Tensor, boxes: Tensor | None, draws: Tensor
    ) -> Tensor:
        """(N,) losses, mean over a first prompt and its corrections.

        Args:
            model: the network.
            embedding: of the picture.
            truth: (N, h, w) masks in the part of the frame that the picture fills.
            boxes: (N, 4) first prompts; None = clicks.
            draws: (N, rounds) which pixels are clicked.
        """
        points = labels = before = None
        if boxes is None:
            points, labels = (
                clicks_in(truth > 0.5, draws[:, 0])[:, None],
                torch.ones_like(draws[:, :1], dtype=torch.int64),
            )
        total = torch.zeros(len(truth), device=truth.device)
        rounds = 1 + (CORRECTIONS if self._corrected else 0)
        for turn in range(rounds):
            low, quality, open_to_doubt = model.candidates(embedding, boxes, points, labels, before)
            low, quality = low.float(), quality.float()
            if open_to_doubt is not None and bool(open_to_doubt.all()):
                low, quality = low[:, 1:], quality[:, 1:]
            else:
                low, quality = low[:, :1], quality[:, :1]
            logits = F.interpolate(low, (model.size, model.size), mode="bilinear", align_corners=False)
            logits = logits[..., : truth.shape[1], : truth.shape[2]]
            each = self._loss(logits, quality, truth)
            # Of several masks for one click, only the best answers for it (section 3, "resolving ambiguity").
            best = each.argmin(1)
            rows = torch.arange(len(truth), device=truth.device)
            total = total + each[rows, best]
            if turn + 1 < rounds:
                answer = logits[rows, best] > 0
                point, label = _correction(answer, truth > 0.5, draws[:, turn + 1])
                points = point if points is None else torch.cat([points, point], 1)
                labels = label if labels is None else torch.cat([labels, label], 1)
                if "mask" in self.preset.prompts.kinds:
                    before = low[rows, best][:, None].detach()
        return total / rounds

    def _loss(self, logits: Tensor, quality: Tensor, truth: Tensor) -> Tensor:
        """(N, M) losses of logits (N, M, h, w) with predicted IoU (N, M) against truth (N, h, w)."""
        target = truth[:, None].expand_as(logits)
        probability = logits.sigmoid()
        both, total = (probability * target).sum((2, 3)), (probability + target).sum((2, 3))
        dice = 1 - (2 * both + 1) / (total + 1)
        cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        if not self._corrected:
            return dice + cross.mean((2, 3))
        right = probability * target + (1 - probability) * (1 - target)
        weight = ALPHA * target + (1 - ALPHA) * (1 - target)
        focal = (weight * (1 - right) ** GAMMA * cross).mean((2, 3))
        with torch.no_grad():
            mask = logits > 0
            inside = target > 0.5
            iou = (mask & inside).sum((2, 3)) / (mask | inside).sum((2, 3)).clamp(min=1)
        return FOCAL * focal + dice + (quality - iou) ** 2

    @property
    def _corrected(self) -> bool:
        """Whether clicks inside and outside are understood, so that answers can be corrected."""
        return "point" in self.preset.prompts.kinds and self.preset.prompts.minus

    @cached_property
    def _samples(self) -> SliceSamples:
        views = views_of(self.choices, self.start is not None)
        return SliceSamples(self.preset, image_size(self.preset.model, self.start), views)

    @cached_property
    def _features(self) -> Features | None:
        return kept_features(self.choices, self.start, self._samples.views)

    __getstate__ = without_kept


def _correction(answer: Tensor, truth: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """A click (N, 1, 2) where each answer (N, h, w) is wrong, with its label (N, 1); inside where nothing is."""
    wrong = answer ^ truth
    region = torch.where(wrong.any(2).any(1)[:, None, None], wrong, truth)
    point = clicks_in(region, draws)
    x, y = point.long().T
    label = truth[torch.arange(len(truth), device=truth.device), y, x].long()
    return point[:, None], label[:, None]
