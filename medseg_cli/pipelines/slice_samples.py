"""What 2-D methods learn from: pictures, randomly viewed and shaded, with boxes and the masks that belong to them.

A case is an image or a volume (`slice_study`); a volume is seen through many windows.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from medseg_cli.augment_overlay import random_overlay
from medseg_cli.augment_picture import Focus, random_focus, random_shades, random_veil, random_view
from medseg_cli.datasets import Case
from medseg_cli.errors import InputError
from medseg_cli.frame import Frame
from medseg_cli.pipelines.by_slice import Options
from medseg_cli.pipelines.loading import options_of
from medseg_cli.pipelines.slice_held import Held, held_slices
from medseg_cli.pipelines.slice_study import LEAST_PIXELS, Study, bounds, object_in, read_study
from medseg_cli.preset import Preset
from medseg_cli.slices import Plane

PROMPTS = 2
"""Boxes per sample, if as many objects are in view."""
JITTER = (0.04, 0.1)
"""Standard deviation and largest move of a box's sides, as shares of its own width and height."""
PART = 0.1
"""A part of an object counts as prompted by itself from this share of its largest part on."""
WINDOWS = (0.15, 1.2)
"""Widths of random windows, as shares of what the preset shows."""
OVERLAYS = 0.4
"""How often a view of ultrasound is drawn over with callipers, text and scales."""
LOOKS_MEMORY = 256 * 2**20
"""Bytes of views that are kept where they come again, in each process that draws samples."""
LOOK_BYTES = 6
"""Bytes of a view per pixel: grey values in single precision and two masks."""
TOUCHING = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture (3, h, w) RGB 0..255, longer side S, with N boxes (N, 4) and their masks (N, S, S)."""

    image: Tensor
    boxes: Tensor
    masks: Tensor


@dataclass(frozen=True, eq=False)
class Framed:
    """A sample as the network sees it.

    Args:
        image: (3, S, S), normalised and padded.
        boxes: (N, 4) in the frame.
        masks: (N, h, w), 0 or 1, in the part of the frame that the picture fills.
    """

    image: Tensor
    boxes: Tensor
    masks: Tensor


@dataclass(frozen=True, eq=False)
class Look:
    """A view of a slice before it is prompted.

    Args:
        image: (3, h, w) RGB 0..255.
        masks: (V, h, w) bool of what is visible.
        values: their label values; 0 = all together.
        beside: (N, h, w) bool, regions that were asked for besides, wherever they lie in the view.
    """

    image: Tensor
    masks: NDArray[np.bool_]
    values: tuple[int, ...]
    beside: NDArray[np.bool_]


@dataclass(frozen=True)
class SliceSamples:
    """Samples for a preset of a 2-D pipeline.

    Args:
        preset: intensities, planes, and whether the whole image is a box.
        size: edge S of the network's square input.
        views: most views of one slice, for features that are kept; 0 = each sample is a new one.
        longest: longer side of a view; 0 = `size`. A frame that stretches pictures shows more of the shorter side.
        kind: what the preset's options are.
    """

    preset: Preset
    size: int
    views: int = 0
    longest: int = 0
    kind: type[Options] = Options
    _looks: dict[tuple[str, int], Look] = field(default_factory=dict, repr=False, compare=False)

    def load(self, case: Case) -> Study:
        """A case in memory.

        Raises:
            InputError: unreadable files, image and label on different grids, or no slice with enough of an object.
        """
        return read_study(case, self.preset, self.kind)

    def sample(self, study: Study, rng: Generator) -> Sample:
        """A random view of a random slice, with up to two boxes; all randomness comes from `rng`.

        Where views are limited, `rng` draws one of them, and the boxes in it.

        Raises:
            InputError: objects too small to be seen at the network's size.
        """
        return self._prompted(self.look(study, rng), rng)

    def look(self, study: Study, rng: Generator, beside: NDArray[np.bool_] | None = None) -> Look:
        """The view of `sample` before it is prompted; errors as there.

        Args:
            study: a case in memory.
            rng: draws everything.
            beside: regions (N, H, W) of a picture that are to be seen through the same view; not where views are kept.
        """
        if not self.views:
            return self._look(study, rng, beside)
        number = int(rng.integers(self.views * sum(map(len, study.slices))))
        look = self._looks.get((study.name, number))
        if look is None:
            name = zlib.crc32(Path(study.name).name.encode())
            look = self._look(study, np.random.default_rng([name, number]))
            if len(self._looks) * self.size**2 * LOOK_BYTES < LOOKS_MEMORY:
                self._looks[study.name, number] = look
        return look

    def _look(self, study: Study, rng: Generator, beside: NDArray[np.bool_] | None = None) -> Look:
        """A random view in which something of the object can be seen."""
        for least in range(LEAST_PIXELS, 0, -1):
            look = self._view(study, least, rng, beside)
            if look is not None:
                return look
        raise InputError(
            f"{study.name}: its objects are smaller than a pixel once the picture has {self.size} pixels",
            "crop the images round the objects, or leave the case out",
        )

    def _view(self, study: Study, least: int, rng: Generator, beside: NDArray[np.bool_] | None) -> Look | None:
        """A random view, None if no object shows at least that many pixels."""
        number = int(rng.integers(len(study.planes)))
        plane = study.planes[number]
        index = int(rng.choice(study.slices[number]))
        whole = self.preset.prompts.whole_image
        labels = plane.take(study.labels, index)
        values, wanted = zip(*(object_in(labels, whole, rng) for _ in range(PROMPTS)), strict=True)
        focus = _focus(wanted[0], rng) if not whole and rng.random() < 0.6 else None
        high, wide = np.array(labels.shape) * plane.pixel_mm
        view = random_view(float(high), float(wide), self.longest or self.size, rng, focus)
        seen = view.of(torch.ones(1, *labels.shape))
        regions = np.stack(wanted) if beside is None else np.concatenate([wanted, beside])
        every = view.of(torch.from_numpy(regions.astype(np.float32))) > 0.5
        shown, others = every[: len(wanted)], every[len(wanted) :].numpy()
        enough = (shown.sum((1, 2)) >= least).numpy()
        if not enough.any():
            return None
        grey = view.of(_grey(study, plane, index, wanted[0], rng))
        if whole and rng.random() < 0.5:
            grey = random_veil(grey, shown[0], rng)
        image = random_shades(grey, seen, rng)
        if self.preset.modality == ("US",) and rng.random() < OVERLAYS:
            image = random_overlay(image, rng, shown[0])
        return Look(
            (image * 255).round().expand(3, -1, -1), shown.numpy()[enough], tuple(compress(values, enough)), others
        )

    def _prompted(self, look: Look, rng: Generator) -> Sample:
        """A view with its boxes, moved at random, and the masks that belong to them."""
        height, width = look.image.shape[1:]
        boxes, masks = [], []
        for turn, mask in enumerate(look.masks):
            if self.preset.prompts.whole_image and turn == 0:
                box = np.array([0, 0, width, height], dtype=np.float64)
            else:
                mask = _part(mask, rng) if rng.random() < 0.4 else mask
                box = _jitter(bounds(mask), width, height, rng)
            boxes.append(torch.from_numpy(box).float())
            masks.append(torch.from_numpy(mask))
        padding = (0, self.size - width, 0, self.size - height)
        return Sample(look.image, torch.stack(boxes), F.pad(torch.stack(masks).float(), padding))

    def fixed(self, study: Study, rng: Generator) -> tuple[Held, ...]:
        """Some slices as they are, with the whole image or one object's exact box: what validation sees."""
        return held_slices(study, self.size, self.frame, self.preset.prompts.whole_image, rng)

    def framed(self, view: Sample) -> Framed:
        """A sample put into the frame that inference would put its picture into."""
        high, wide = view.image.shape[1:]
        frame = Frame(high, wide, self.size, (1.0, 1.0), **self.frame)
        picture = view.image.permute(1, 2, 0).numpy().astype(np.uint8)
        masks = view.masks[:, :high, :wide]
        if frame.inner != (high, wide):
            masks = F.interpolate(masks[:, None], frame.inner, mode="nearest")[:, 0]
        return Framed(frame.image(picture), frame.boxes(view.boxes.double().numpy() - [0, 0, 1, 1]), masks)

    @property
    def frame(self) -> dict[str, Any]:
        """How pictures lie in the square: the preset's options of `Frame`."""
        options = options_of(self.preset, self.kind)
        return {"fit": options.fit, "scale": options.scale, "interpolation": options.interpolation}


def clicks_in(regions: Tensor, draws: Tensor) -> Tensor:
    """One pixel (N, 2) xy of each region (N, h, w) bool, chosen by draws (N,) in 0..1; none may be empty."""
    flat = regions.flatten(1)
    counts = flat.sum(1)
    wanted = (draws * counts).long().clamp(max=counts - 1)
    place = ((flat.cumsum(1) - 1 == wanted[:, None]) & flat).int().argmax(1)
    wide = regions.shape[2]
    return torch.stack([place % wide, place // wide], 1).float()


def _grey(study: Study, plane: Plane, index: int, mask: NDArray[np.bool_], rng: Generator) -> Tensor:
    """A slice (1 or 3, H, W) in 0..1, equal channels once.

    A volume has more values than a picture has shades: half the time it is shown through another window, in which the
    object `mask` (H, W) is neither black nor white.
    """
    shown, values = study.display, plane.take(study.voxels, index)
    if plane.count > 1 and rng.random() < 0.5:
        width = (shown.high - shown.low) * float(np.exp(rng.uniform(*np.log(WINDOWS))))
        low = float(values[0][mask].mean()) - width * float(rng.uniform(0.2, 0.8))
        shown = replace(shown, low=low, high=low + width)
    picture = shown.picture(values)
    return torch.from_numpy(picture[..., : values.shape[0]].astype(np.float32) / 255).permute(2, 0, 1)


def _focus(mask: NDArray[np.bool_], rng: Generator) -> Focus:
    """A closer look at one object of a picture (H, W)."""
    x0, y0, x1, y1 = (bounds(mask) / np.tile(mask.shape[::-1], 2) - 0.5).tolist()
    return random_focus((x0, y0), (x1, y1), rng)


def _part(mask: NDArray[np.bool_], rng: Generator) -> NDArray[np.bool_]:
    """One connected part of a mask, not a much smaller one than its largest."""
    parts, count = ndimage.label(mask, TOUCHING)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    worth = np.flatnonzero((sizes >= PART * sizes.max()) & (sizes >= min(LEAST_PIXELS, sizes.max())))
    return parts == 1 + rng.choice(worth)


def _jitter(box: NDArray[np.float64], width: int, height: int, rng: Generator) -> NDArray[np.float64]:
    """The box with each side moved at random, at least a pixel wide and within the picture."""
    size = np.tile(box[2:] - box[:2], 2)
    moved = box + size * np.clip(rng.normal(0, JITTER[0], size=4), -JITTER[1], JITTER[1])
    return np.clip(moved, 0, [width, height, width, height])
