"""The data protocol of the official SAM-UNet code, quirks kept: items of a training and of a test, and its scores.

Use it to repeat published figures; `sam_unet_recipe` is how medseg trains. docs/sam-unet.md lists what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from medseg_cli.errors import InputError

SIZE = 256
MASKS_PER_IMAGE = 5
MOST_NOISE = 5
"""Pixels of the original image by which a training box is moved at most."""
_EPSILON = 1e-7


def binary(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask file's grey values (H, W) as the official loader has them: 0..255 is divided and cut to whole numbers.

    What is not exactly 255 becomes 0, so soft edges are lost; a mask whose largest value is not 255 stays as it is.
    """
    if values.max() != 255:
        return values
    cut: NDArray[np.uint8] = (values / 255).astype(np.uint8)
    return cut


def box_of(mask: NDArray[np.uint8], most: int = 0, draws: RandomState | None = None) -> NDArray[np.float32]:
    """The box round the largest 8-connected part of a mask, moved at random for training.

    Args:
        mask: (H, W), above 0 inside.
        most: pixels by which it is moved at most; 0 = not at all.
        draws: random numbers, x first; needed with `most`.

    Returns:
        (4,) x0 y0 x1 y1, half-open, in pixels of the mask; a moved box may leave the image.

    Raises:
        InputError: an empty mask.
    """
    parts, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not count:
        raise InputError("a mask is empty: the official protocol has no box for it", "leave it out")
    largest = int(np.bincount(parts.ravel())[1:].argmax())
    rows, columns = ndimage.find_objects(parts)[largest]
    box = np.array([columns.start, rows.start, columns.stop, rows.stop], dtype=np.float32)
    reach = min(most, int(0.5 * min(box[2] - box[0], box[3] - box[1])))
    if reach:
        assert draws is not None, "a moved box needs random numbers"
        move = [draws.randint(-reach, reach) for _ in "xy"]
        box += np.array(move * 2, dtype=np.float32)
    return box


def resized_shape(height: int, width: int) -> tuple[int, int]:
    """Size after the longer side became 256; 0 is possible for a line of pixels."""
    scale = SIZE / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def train_item(
    image: NDArray[np.uint8], masks: Sequence[NDArray[np.uint8]], choices: Random, draws: RandomState
) -> dict[str, Any]:
    """One image with five of its masks, drawn with replacement, as `SamUnet.forward` takes it.

    Args:
        image: (H, W, 3) RGB.
        masks: grey values (H, W) of its mask files.
        choices: draws the masks, first of all.
        draws: moves the boxes, one after the other.

    Returns:
        `image` (3, h, w) uint8, `original_size`, `boxes` (5, 4), and `labels` (5, 1, 256, 256) uint8, zero in the
        padding.

    Raises:
        InputError: an empty mask, or an image that has no pixel left after resizing.
    """
    height, width = _inner(image)
    chosen = [binary(masks[index]) for index in choices.choices(range(len(masks)), k=MASKS_PER_IMAGE)]
    boxes = [box_of(mask, MOST_NOISE, draws) for mask in chosen]
    labels = [torch.from_numpy(_resize(mask, height, width)) for mask in chosen]
    padded = [F.pad(label, (0, SIZE - width, 0, SIZE - height)) for label in labels]
    return _item(image, boxes) | {"labels": torch.stack(padded)[:, None]}


def test_item(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> dict[str, Any]:
    """One image with one mask and its exact box; `labels` (1, 1, H, W) as stored. Otherwise as `train_item`."""
    label = binary(mask)
    return _item(image, [box_of(label)]) | {"labels": torch.from_numpy(label.copy())[None, None]}


def scores(predicted: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and Dice of each mask, 1 where both are empty.

    Args:
        predicted: (N, 1, H, W) masks or logits. They count as logits if any is negative; all-positive logits are cut at
            0.5 as if they were probabilities.
        labels: (N, 1, H, W), 0 or 1.

    Returns:
        (N,) IoU and (N,) Dice.
    """
    values = predicted.float()
    if values.min() < 0:
        values = values.sigmoid()
    mask, label = (values > 0.5).flatten(1), labels.flatten(1) > 0.5
    both, either = (mask & label).sum(1), (mask | label).sum(1)
    total = mask.sum(1) + label.sum(1)
    return (both + _EPSILON) / (either + _EPSILON), (2 * both + _EPSILON) / (total + _EPSILON)


def _item(image: NDArray[np.uint8], boxes: Sequence[NDArray[np.float32]]) -> dict[str, Any]:
    height, width = _inner(image)
    scale = np.array([width / image.shape[1], height / image.shape[0]] * 2)
    return {
        "image": torch.from_numpy(_resize(image, height, width)).permute(2, 0, 1),
        "original_size": (image.shape[0], image.shape[1]),
        "boxes": torch.from_numpy((np.stack(boxes) * scale).astype(np.float32)),
    }


def _inner(image: NDArray[np.uint8]) -> tuple[int, int]:
    height, width = resized_shape(*image.shape[:2])
    if not height or not width:
        raise InputError(
            f"an image of {image.shape[1]} x {image.shape[0]} pixels has none left after the official resize to {SIZE}",
            "crop it",
        )
    return height, width


def _resize(values: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    return np.array(Image.fromarray(values).resize((width, height), Image.Resampling.BILINEAR))
