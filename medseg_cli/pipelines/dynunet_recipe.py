"""How the DynUNet baseline learns: windows of whole cases at the preset's spacing, all labels at once.

A sample is a random window, half of them round a voxel of a random label; rotated, scaled, with random intensities.
Loss: Dice and cross entropy at every resolution, each half the weight of the finer one, as in nnU-Net.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from monai.losses import DiceCELoss
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg_cli.augment import crop_grid, random_axes, random_intensity
from medseg_cli.datasets import Case, load_pair
from medseg_cli.errors import InputError, UsageError
from medseg_cli.geometry import Grid, nearest_labels, resample, resample_labels, scan_grid
from medseg_cli.label_blocks import label_map
from medseg_cli.models.dynunet import Dynunet, build, config_of, random_network
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.defaults import Defaults
from medseg_cli.pipelines.dynunet import SCORES, Options, check_scan, on_lattice, patch_of
from medseg_cli.pipelines.features import refuse_cache
from medseg_cli.pipelines.loading import options_of
from medseg_cli.preset import Preset
from medseg_cli.sliding import Index, Windows, mean_blocks

PLACES = 10_000
"""Voxels of each label that windows are centred on; of a larger one, as many drawn evenly."""
ON_LABEL = 0.5
"""Share of the windows that lie round a label."""
VALIDATION_OVERLAP = 0.25
"""Of windows in validation, at most: half the windows that segmenting takes, or a third."""
TURNED = 0.4
"""Share of the windows that are rotated and scaled."""


@dataclass(frozen=True, eq=False)
class Volume:
    """One case in memory, on the working lattice.

    Args:
        image: (1, I, J, K) float32, normalised.
        classes: (I, J, K) uint16, number of the label in the preset's list, 0 = background.
        grid: where both lie.
        places: per label that is there, (M, 3) voxel indices.
    """

    image: Tensor
    classes: NDArray[np.uint16]
    grid: Grid
    places: tuple[NDArray[np.int64], ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """A window, or a whole case: image (1, I, J, K) float32, classes (1, I, J, K) int64."""

    image: Tensor
    classes: Tensor


@dataclass(frozen=True)
class DynunetRecipe:
    """Samples and loss for one planned preset of pipeline dynunet (see `dynunet_plan`).

    Args:
        preset: network, labels, spacing, intensities and window.
        start: weights to begin with; None = seeded random ones.
        choices: the whole network is trained, and every label is an object of its own: nothing else can be chosen.
    """

    preset: Preset
    start: Path | None
    choices: Choices = field(default_factory=Choices)

    @property
    def defaults(self) -> Defaults:
        """nnU-Net's 1000 epochs of 250 steps are for days on a GPU; AdamW learns these small networks in far fewer."""
        return Defaults(learning_rate=2e-3, batch_size=2, epochs=200, weight_decay=1e-3, ema=0.99)

    def model(self, seed: int) -> Dynunet:
        """The network of the preset with its initial weights.

        Raises:
            ModelError: missing or misfitting weights.
            UsageError: only a part of it was to be trained, or features were to be kept.
        """
        refuse_cache(self.choices)
        if self.choices.peft not in ("method", "full"):
            raise UsageError(
                f"--peft {self.choices.peft} is for networks with a transformer, and pipeline dynunet has none",
                "leave --peft out: the whole network is trained",
            )
        if self.start is None:
            return random_network(config_of(self.preset.model), seed)
        return build(self.start, self.preset.model)

    def load(self, case: Case) -> Volume:
        """A case in memory.

        Raises:
            InputError: unreadable files, image and label on different grids, or a value that is no label of the preset.
        """
        scan, labels = load_pair(case)
        check_scan(scan, self.preset)
        known = {label.value: number for number, label in enumerate(self.preset.labels, start=1)}
        values = [int(value) for value in np.unique(labels) if value > 0]
        if strange := [value for value in values if value not in known]:
            names = ", ".join(f"{label.value} {label.name}" for label in self.preset.labels)
            raise InputError(
                f"case {case.id} has label value {strange[0]}, and preset {self.preset.name} knows only {names}",
                "correct the label, or train a new network: --preset dynunet-baseline",
            )
        numbers = np.zeros(labels.shape, np.uint16)
        for value in values:
            numbers[labels == value] = known[value]
        image, lattice = on_lattice(scan, self.preset)
        classes = resample_labels(numbers, scan_grid(scan), lattice)
        return Volume(image, classes, lattice, _places(classes))

    def sample(self, volume: Volume, rng: Generator) -> Sample:
        """A random window of a case; all randomness comes from `rng`."""
        size = self._patch
        centre = self._centre(volume, rng)
        mirror = bool(self._options.mirror) and rng.random() < 0.5
        if rng.random() < TURNED:
            axes = random_axes(volume.grid.affine[:3, :3], rng, mirror=False)
        else:
            axes = volume.grid.affine[:3, :3].copy()
        if mirror:
            axes[:, 0] *= -1
        target = crop_grid(volume.grid, centre, axes, size)
        image = resample(volume.image, volume.grid, target, smooth=False)[0]
        classes = nearest_labels(volume.classes, volume.grid, target)
        image = random_intensity(image, rng)
        image = image * rng.uniform(0.75, 1.25) + rng.uniform(-0.25, 0.25)
        return Sample(image, torch.from_numpy(classes.astype(np.int64))[None])

    def fixed_sample(self, volume: Volume, rng: Generator) -> Sample:
        """The whole case, nothing augmented; `rng` is not needed."""
        return Sample(volume.image, torch.from_numpy(volume.classes.astype(np.int64))[None])

    def loss(self, model: nn.Module, samples: list[Sample]) -> Tensor:
        """Mean loss of a batch of windows."""
        device = next(model.parameters()).device
        found = model(torch.stack([sample.image for sample in samples]).to(device))
        outputs = found if isinstance(found, list) else [found]
        truth = torch.stack([sample.classes for sample in samples]).to(device)
        weights = [0.5**level for level in range(len(outputs))]
        terms = [
            weight * dice_cross_entropy(logits.float(), _coarser(truth, logits))
            for weight, logits in zip(weights, outputs, strict=True)
        ]
        return torch.stack(terms).sum() / sum(weights)

    def score(self, model: nn.Module, samples: list[Sample]) -> list[float]:
        """Dice of each whole case on the working lattice: the mean over the labels that its reference has."""
        device = next(model.parameters()).device
        overlap = min(self._options.overlap, VALIDATION_OVERLAP)
        scores = []
        for sample in samples:
            found = self._found(model, sample.image.to(device), overlap)
            truth = sample.classes[0]
            each = [
                2
                * float(((found == number) & (truth == number)).sum())
                / float((found == number).sum() + (truth == number).sum())
                for number in truth.unique().tolist()
                if number > 0
            ]
            scores.append(float(np.mean(each)) if each else 0.0)
        return scores

    def _found(self, model: nn.Module, image: Tensor, overlap: float) -> Tensor:
        """Class numbers (I, J, K) of a case on the working lattice, as the pipeline finds them; on the CPU."""
        shape = (image.shape[1], image.shape[2], image.shape[3])
        lattice, windows = Grid(np.eye(4), shape), Windows(shape, self._patch, overlap)

        def part(low: Index, high: Index) -> Tensor:
            return image[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]

        classes = np.arange(len(self.preset.labels) + 1, dtype=np.uint16)
        blocks = mean_blocks(model, part, windows, len(classes), image.device, SCORES)
        return torch.from_numpy(label_map(blocks, lattice, lattice, classes).astype(np.int64))

    @property
    def _options(self) -> Options:
        return options_of(self.preset, Options)

    @property
    def _patch(self) -> tuple[int, int, int]:
        return patch_of(self.preset, self._options)

    def _centre(self, volume: Volume, rng: Generator) -> NDArray[np.float64]:
        """The middle of a window (3,): near a voxel of a random label, or anywhere that keeps it in the case."""
        size, shape = np.array(self._patch), np.array(volume.classes.shape)
        if volume.places and rng.random() < ON_LABEL:
            of = volume.places[rng.integers(len(volume.places))]
            centre = of[rng.integers(len(of))] + np.round(rng.uniform(-0.25, 0.25, size=3) * size)
        else:
            centre = np.array([rng.integers(0, max(1, each)) for each in shape])
        # Windows that fit stay inside; a case smaller than the window lies in its middle, give or take.
        low, high = np.minimum(size // 2, shape // 2), np.maximum(shape - (size - size // 2), shape // 2)
        return np.clip(centre, low, high).astype(np.float64)


def dice_cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Dice loss over the labels (of the batch as one, without background) plus cross entropy, both with weight 1.

    Args:
        logits: (B, C, I, J, K).
        truth: (B, 1, I, J, K) class numbers.
    """
    loss = DiceCELoss(include_background=False, softmax=True, to_onehot_y=True, batch=True, smooth_nr=1e-5)
    return loss(logits, truth)


def _coarser(truth: Tensor, logits: Tensor) -> Tensor:
    """Class numbers (B, 1, I, J, K) at the resolution of `logits`, the nearest voxel's."""
    size = logits.shape[2:]
    if truth.shape[2:] == size:
        return truth
    return torch.nn.functional.interpolate(truth.float(), size=size, mode="nearest-exact").long()


def _places(classes: NDArray[np.uint16]) -> tuple[NDArray[np.int64], ...]:
    found = []
    for number in np.unique(classes[classes > 0]).tolist():
        voxels = np.argwhere(classes == number)
        found.append(voxels[:: -(-len(voxels) // PLACES)])
    return tuple(found)
