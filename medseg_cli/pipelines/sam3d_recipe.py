"""How 3DSAM-adapter learns: what a sample is, and what its loss is.

A sample is one crop with one object and its simulated clicks. Crops are drawn the way inference draws them (centred on
the clicks, or following the object), rotated, scaled, mirrored, with the field of view hidden at random.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceCELoss
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.augment import (
    crop_grid,
    mirror_pad,
    random_axes,
    random_box,
    random_intensity,
    random_surroundings,
    zero_pad,
)
from medseg_cli.datasets import Case, load_pair
from medseg_cli.errors import InputError
from medseg_cli.geometry import FULLY_IN_VIEW, Grid, resample, scan_grid, working_grid
from medseg_cli.intensity import normalise
from medseg_cli.models.sam3d.config import config_of
from medseg_cli.models.sam3d.network import Sam3d
from medseg_cli.models.sam3d.start import begin
from medseg_cli.models.tuning import decide, tune
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.defaults import Defaults
from medseg_cli.pipelines.features import refuse_cache
from medseg_cli.preset import Preset

CLICKS = (1, 1, 1, 2, 3)
"""Numbers of simulated clicks, drawn evenly."""
MOST_OBJECTS = 255
"""That are told apart in one case."""


@dataclass(frozen=True, eq=False)
class Volume:
    """One case in memory.

    Args:
        voxels: (1, I, J, K) float32, the scan's units.
        objects: (1, I, J, K) uint8, number of the object (from 1), 0 outside.
        grid: where both lie.
        foreground: per object, (M, 3) voxel indices ijk.
    """

    voxels: Tensor
    objects: Tensor
    grid: Grid
    foreground: tuple[NDArray[np.int64], ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """One crop: image and label (1, P, P, P) in (D, H, W); points (N, 3), columns (d, w, h) in crop voxels."""

    image: Tensor
    label: Tensor
    points: Tensor


@dataclass(frozen=True)
class Sam3dRecipe:
    """Samples and loss for one preset of pipeline 3dsam-adapter.

    Args:
        preset: model configuration, spacing, orientation and intensities.
        start: weights to begin with; None = seeded random weights, all of them trained.
        choices: what is trained, and what an object is.
    """

    preset: Preset
    start: Path | None
    choices: Choices = field(default_factory=Choices)

    @property
    def defaults(self) -> Defaults:
        """Half the official rate for weights that were trained; a random network learns faster."""
        return Defaults(learning_rate=1e-3 if self.start is None else 2e-4, batch_size=4)

    def model(self, seed: int) -> Sam3d:
        """The network of the preset with its initial weights, tuned as chosen.

        Raises:
            ModelError: missing or misfitting weights.
            UsageError: random weights were to be frozen, or features to be kept.
        """
        refuse_cache(self.choices)
        network, fresh = begin(self.preset.model, seed, [] if self.start is None else [self.start])
        kind = decide(self.choices.peft, network.config.embed_dim, self.start is None)
        tune(network, kind, self.choices.rank, seed, fresh, self.start)
        return network

    def load(self, case: Case) -> Volume:
        """A case in memory; all positive label values are one object, or each is one: `choices.objects`.

        Raises:
            InputError: unreadable files, image and label on different grids, a label without a single voxel, or more
                than 255 objects.
        """
        scan, labels = load_pair(case)
        if scan.cine:
            raise InputError(f"{case.image} holds frames over time, and 3D SAM works on volumes", "train a 2-D preset")
        values = np.unique(labels[labels > 0]).tolist() if self.choices.objects == "apart" else [None]
        if len(values) > MOST_OBJECTS:
            raise InputError(f"{case.label} holds {len(values)} label values: {MOST_OBJECTS} objects are the most")
        objects, foreground = np.zeros(labels.shape, np.uint8), []
        for number, value in enumerate(values, start=1):
            inside = labels > 0 if value is None else labels == value
            objects[inside] = number
            foreground.append(np.argwhere(inside))
        voxels = torch.from_numpy(np.ascontiguousarray(scan.voxels[:1]))
        return Volume(voxels, torch.from_numpy(objects)[None], scan_grid(scan), tuple(foreground))

    def sample(self, volume: Volume, rng: Generator) -> Sample:
        """A random crop of a case with 1 to 3 clicks on one object; all randomness comes from `rng`."""
        size = self._size
        number = int(rng.integers(len(volume.foreground))) if len(volume.foreground) > 1 else 0
        inside = volume.foreground[number]
        clicks = inside[rng.integers(len(inside), size=rng.choice(CLICKS))].astype(np.float64)
        grid = crop_grid(volume.grid, (clicks.min(0) + clicks.max(0)) / 2, random_axes(self._axes(volume), rng), size)
        if rng.random() < 0.4:
            grid = grid.window(np.round(rng.uniform(-0.35, 0.35, size=3) * size).astype(np.int64), grid.shape)
        clicks = grid.index_of(clicks, volume.grid)
        seen = np.all((clicks > -0.5) & (clicks < size - 0.5), axis=1)
        if not seen.any():
            return self.sample(volume, rng)
        clicks = clicks[seen]

        voxels, mask, source = volume.voxels, (volume.objects == number + 1).float(), volume.grid
        if rng.random() < 0.5:
            voxels, source = mirror_pad(voxels, volume.grid, size // 2)
            mask = zero_pad(mask, size // 2)
        both, weight = resample(torch.cat([voxels, mask]), source, grid, smooth=False)
        both = both / weight.clamp(min=FULLY_IN_VIEW)
        image, label, valid = both[:1], both[1:] > 0.5, weight > FULLY_IN_VIEW
        if rng.random() < 0.5:
            box = random_box(clicks, size, rng)
            image, label = torch.where(box, image, random_surroundings(image, rng)), label & box
        if rng.random() < 0.5:
            valid = valid & random_box(clicks, size, rng)
        how = self.preset.preprocessing.intensity
        image = normalise(random_intensity(normalise(image, valid, how), rng), valid, how)
        image = (image * rng.uniform(0.6, 1.4) + rng.uniform(-0.6, 0.6)) * valid
        return _sample(image, (label & valid).float(), clicks)

    def fixed_sample(self, volume: Volume, rng: Generator) -> tuple[Sample, ...]:
        """Per object a crop centred on one random click in it, nothing augmented: what validation sees."""
        samples = []
        for number, inside in enumerate(volume.foreground, start=1):
            click = inside[rng.integers(len(inside))][None].astype(np.float64)
            grid = crop_grid(volume.grid, click[0], self._axes(volume), self._size)
            mask = (volume.objects == number).float()
            both, weight = resample(torch.cat([volume.voxels, mask]), volume.grid, grid)
            both, valid = both / weight.clamp(min=FULLY_IN_VIEW), weight > FULLY_IN_VIEW
            image = normalise(both[:1], valid, self.preset.preprocessing.intensity)
            samples.append(_sample(image, ((both[1:] > 0.5) & valid).float(), grid.index_of(click, volume.grid)))
        return tuple(samples)

    def loss(self, model: Sam3d, samples: list[Sample]) -> Tensor:
        """Mean loss of a batch of crops."""
        logits = predict(model, samples)
        return dice_cross_entropy(logits.float(), torch.stack([sample.label for sample in samples]).to(logits.device))

    def score(self, model: Sam3d, samples: list[tuple[Sample, ...]]) -> list[float]:
        """Dice of each case: the mean over its objects' crops."""
        return [float(np.mean([_dice(model, sample) for sample in case])) for case in samples]

    @property
    def _size(self) -> int:
        return config_of(self.preset.model).crop_size

    def _axes(self, volume: Volume) -> NDArray[np.float64]:
        """(3, 3) steps of a crop's axes in RAS mm, ordered and spaced as the preset says."""
        preprocessing = self.preset.preprocessing
        return working_grid(volume.grid, preprocessing.orientation, preprocessing.spacing).affine[:3, :3]


def dice_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Half Dice loss of class 1 (smooth 1e-5), half two-class cross entropy: the official loss (paper section 4).

    Args:
        logits: (B, 2, D, H, W).
        label: (B, 1, D, H, W), 0 or 1.
    """
    loss = DiceCELoss(include_background=False, softmax=True, to_onehot_y=True, lambda_dice=0.5, lambda_ce=0.5)
    return loss(logits, label)


def _dice(model: Sam3d, sample: Sample) -> float:
    mask = predict(model, [sample]).argmax(1).float().cpu()
    return float(2 * (mask * sample.label).sum() / (mask + sample.label).sum().clamp(min=1))


def predict(model: Sam3d, samples: list[Sample]) -> Tensor:
    """Logits (B, 2, P, P, P); where crops differ in their number of clicks, the last click is repeated."""
    device = next(model.parameters()).device
    most = max(len(sample.points) for sample in samples)
    points = [torch.cat([s.points, s.points[-1:].expand(most - len(s.points), 3)]) for s in samples]
    images = torch.stack([sample.image for sample in samples]).to(device)
    return model(images, torch.stack(points, dim=1).to(device))


def _sample(image: Tensor, label: Tensor, clicks: NDArray[np.float64]) -> Sample:
    """From working order (I, J, K) to the network's (D, H, W) = (K, J, I), clicks to columns (d, w, h) = (k, i, j)."""
    points = torch.from_numpy(clicks[:, [2, 0, 1]]).float()
    return Sample(image.permute(0, 3, 2, 1).contiguous(), label.permute(0, 3, 2, 1).contiguous(), points)
