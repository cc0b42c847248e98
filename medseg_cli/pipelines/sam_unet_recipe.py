"""How SAM-UNet learns: what a sample is, and what its loss is.

A sample is one picture, randomly viewed and shaded, with boxes and the masks that belong to them. Prompts are boxes
only, as in the method (paper section 3; official training: one box per mask, moved by a few pixels).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from medseg_cli.augment_picture import random_shades, random_view
from medseg_cli.dataset import Case, load_pair
from medseg_cli.frame import Frame
from medseg_cli.intensity import Display, display
from medseg_cli.models.sam_unet.config import config_of
from medseg_cli.models.sam_unet.losses import focal_dice
from medseg_cli.models.sam_unet.network import SamUnet
from medseg_cli.models.sam_unet.start import begin
from medseg_cli.preset import Preset
from medseg_cli.slices import Plane, plane_of

PROMPTS = 2
"""Boxes per sample."""
JITTER = (0.04, 0.1)
"""Standard deviation and largest move of a box's sides, as shares of its own width and height."""
PART = 0.1
"""A part of an object counts as prompted by itself from this share of its largest part on."""
LEAST_PIXELS = 12
"""Fewer pixels of an object in a view or slice are not worth a prompt."""
TOUCHING = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Study:
    """One case in memory.

    Args:
        voxels: (C, I, J, K) float32, the scan's units, C = 1 or 3.
        labels: (I, J, K) label values, 0 = nothing.
        planes: the ways in which it is sliced.
        display: how its values become grey values.
        slices: per plane, the slices that hold enough of any object.
    """

    voxels: NDArray[np.float32]
    labels: NDArray[np.uint16]
    planes: tuple[Plane, ...]
    display: Display
    slices: tuple[NDArray[np.int64], ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture (3, h, w) RGB 0..255, longer side S, with N boxes (N, 4) and their masks (N, S, S)."""

    image: Tensor
    boxes: Tensor
    masks: Tensor


@dataclass(frozen=True, eq=False)
class Held:
    """One validation picture: network input (3, S, S), its frame, boxes (N, 4) in it, masks (N, H, W)."""

    image: Tensor
    frame: Frame
    boxes: Tensor
    masks: Tensor


@dataclass(frozen=True)
class SamUnetRecipe:
    """Samples and loss for one preset of pipeline sam-unet.

    Args:
        preset: model configuration, intensities, and whether the whole image is a box.
        start: weights to begin with: a SAM-UNet, a SAM, whose image transformer then stays as it is, or an ImageNet
            ResNet; None = seeded random weights, all of them trained.
    """

    preset: Preset
    start: Path | None

    def model(self, seed: int) -> SamUnet:
        """The network of the preset with its initial weights."""
        return begin(self.preset.model, seed, [] if self.start is None else [self.start])

    def load(self, case: Case) -> Study:
        """A case in memory.

        Raises:
            InputError: unreadable files, image and label on different grids, or no slice with enough of an object.
        """
        scan, labels = load_pair(case)
        preprocessing = self.preset.preprocessing
        key = "image" if scan.provenance.format == "image" else scan.modality
        how = preprocessing.by_modality.get(key or "", preprocessing.intensity)
        planes = (plane_of(scan),)
        slices = tuple(_slices(labels, plane) for plane in planes)
        return Study(scan.voxels, labels.astype(np.uint16), planes, display(scan, how, "preset"), slices)

    def sample(self, study: Study, rng: Generator) -> Sample:
        """A random view of a random slice, with two boxes; all randomness comes from `rng`."""
        number = int(rng.integers(len(study.planes)))
        plane = study.planes[number]
        index = int(rng.choice(study.slices[number]))
        grey, labels = _grey(study, plane, index), plane.take(study.labels, index)
        wanted = [_object(labels, self.preset.prompts.whole_image, rng) for _ in range(PROMPTS)]
        high, wide = np.array(labels.shape) * plane.pixel_mm
        view = random_view(float(high), float(wide), self._size, rng)
        seen = view.of(torch.ones(1, *labels.shape))
        shown = view.of(torch.from_numpy(np.stack(wanted).astype(np.float32))) > 0.5
        if int(shown.sum((1, 2)).min()) < LEAST_PIXELS:
            return self.sample(study, rng)
        image = (random_shades(view.of(grey), seen, rng) * 255).round().expand(3, -1, -1)
        boxes, masks = [], []
        for turn, mask in enumerate(shown.numpy()):
            if self.preset.prompts.whole_image and turn == 0:
                box = np.array([0, 0, view.width, view.height], dtype=np.float64)
            else:
                mask = _part(mask, rng) if rng.random() < 0.4 else mask
                box = _jitter(_bounds(mask), view.width, view.height, rng)
            boxes.append(torch.from_numpy(box).float())
            masks.append(torch.from_numpy(mask))
        padding = (0, self._size - view.width, 0, self._size - view.height)
        return Sample(image, torch.stack(boxes), F.pad(torch.stack(masks).float(), padding))

    def fixed_sample(self, study: Study, rng: Generator) -> Held:
        """One slice as it is, with the whole image or one object's exact box: what validation sees."""
        plane = study.planes[0]
        index = int(rng.choice(study.slices[0]))
        labels = plane.take(study.labels, index)
        whole = self.preset.prompts.whole_image
        mask = _object(labels, whole, rng)
        box = np.array([0, 0, plane.width, plane.height]) if whole else _bounds(mask)
        frame = Frame(plane.height, plane.width, self._size, plane.pixel_mm)
        picture = study.display.picture(plane.take(study.voxels, index))
        boxes = frame.boxes(box[None].astype(np.float64) - [0, 0, 1, 1])
        return Held(frame.image(picture), frame, boxes, torch.from_numpy(mask[None].copy()))

    def loss(self, model: SamUnet, samples: list[Sample]) -> Tensor:
        """Mean loss of a batch of pictures."""
        device = next(model.parameters()).device
        batch = [{"image": sample.image.to(device), "boxes": sample.boxes.to(device)} for sample in samples]
        logits = torch.cat([output["masks"] for output in model(batch)]).float()
        masks = torch.cat([sample.masks for sample in samples])[:, None].to(device)
        return dice_cross_entropy(logits, masks) if self.start is None else focal_dice(logits, masks)

    def score(self, model: SamUnet, samples: list[Held]) -> list[float]:
        """Dice of each picture's masks, on its own pixels."""
        scores = []
        for held in samples:
            device = next(model.parameters()).device
            embedding = model.encode(held.image[None].to(device))
            logits, _ = model.decode(embedding, boxes=held.boxes.to(device))
            found = held.frame.restore(logits.cpu()) > 0
            both, total = (found & held.masks).sum(), found.sum() + held.masks.sum()
            scores.append(float(2 * both / total.clamp(min=1)))
        return scores

    @property
    def _size(self) -> int:
        return config_of(self.preset.model).image_size


def dice_cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean over masks of Dice loss (smooth 1) plus binary cross entropy, both (N, 1, S, S): for random initial weights.

    The method's own loss hardly has a gradient where a random network is confidently wrong.
    """
    probability = logits.sigmoid()
    both, total = (probability * masks).sum((1, 2, 3)), (probability + masks).sum((1, 2, 3))
    return (1 - (2 * both + 1) / (total + 1)).mean() + F.binary_cross_entropy_with_logits(logits, masks)


def _slices(labels: NDArray[np.int64], plane: Plane) -> NDArray[np.int64]:
    """Slices with at least `LEAST_PIXELS` labelled pixels; the fullest one where none has as many."""
    counts = np.count_nonzero(np.moveaxis(labels, plane.through, 0), axis=(1, 2))
    return np.flatnonzero(counts >= min(LEAST_PIXELS, counts.max()))


def _grey(study: Study, plane: Plane, index: int) -> Tensor:
    """A slice (1 or 3, H, W) in 0..1, equal channels once."""
    picture = study.display.picture(plane.take(study.voxels, index))
    channels = study.voxels.shape[0]
    return torch.from_numpy(picture[..., :channels].astype(np.float32) / 255).permute(2, 0, 1)


def _object(labels: NDArray[np.uint16], everything: bool, rng: Generator) -> NDArray[np.bool_]:
    """(H, W): all labelled pixels, or those of one random value."""
    if everything:
        return np.ascontiguousarray(labels > 0)
    values = np.unique(labels)
    return np.ascontiguousarray(labels == rng.choice(values[values > 0]))


def _part(mask: NDArray[np.bool_], rng: Generator) -> NDArray[np.bool_]:
    """One connected part of a mask, not a much smaller one than its largest."""
    parts, count = ndimage.label(mask, TOUCHING)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    worth = np.flatnonzero((sizes >= PART * sizes.max()) & (sizes >= min(LEAST_PIXELS, sizes.max())))
    return parts == 1 + rng.choice(worth)


def _bounds(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Half-open box x0 y0 x1 y1 of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def _jitter(box: NDArray[np.float64], width: int, height: int, rng: Generator) -> NDArray[np.float64]:
    """The box with each side moved at random, at least a pixel wide and within the picture."""
    size = np.tile(box[2:] - box[:2], 2)
    moved = box + size * np.clip(rng.normal(0, JITTER[0], size=4), -JITTER[1], JITTER[1])
    return np.clip(moved, 0, [width, height, width, height])
