"""The input contract of SAM-UNet's forward pass: what an item may hold, refused in words where it is broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from medseg_cli.errors import ModelError
from medseg_cli.models.prompts import check_finite, check_prompts

PROMPTS = ("boxes", "point_coords", "point_labels", "mask_inputs")
"""Keys of the prompts, in the order in which the network takes them."""
KEYS = ("image", "original_size", *PROMPTS, "labels")
"""All that an item may hold; `labels` are the true masks, for the caller's loss."""
NAME = "sam-unet"


def check_batch(batch: Sequence[Mapping[str, Any]], size: int, mask_size: int, *, training: bool) -> None:
    """Refuse a batch that the network cannot mean.

    Args:
        batch: as `SamUnet.forward` has it.
        size: edge S of the network's input.
        mask_size: edge M of its mask prompt.
        training: `original_size` is not needed then.

    Raises:
        ModelError: says what was given and what is expected.
    """
    if isinstance(batch, Mapping | Tensor) or not all(isinstance(item, Mapping) for item in batch):
        raise ModelError(f"{NAME}: the batch is no list of mappings", "give [{'image': ..., 'boxes': ...}, ...]")
    if not batch:
        raise ModelError(f"{NAME}: the batch is empty", "give one mapping per image")
    for item in batch:
        if unknown := sorted(str(key) for key in item.keys() - set(KEYS)):
            raise ModelError(f"{NAME}: unknown key {', '.join(unknown)}", f"known keys: {', '.join(KEYS)}")
        check_image(item.get("image"), size)
        if not training:
            _check_size(item.get("original_size"))
        prompts = {key: item.get(key) for key in PROMPTS}
        check_prompts(NAME, mask_size, prompts)
        check_finite(NAME, {"image": item["image"], **prompts})


def check_image(image: Any, size: int) -> None:
    """Refuse what is no image within the frame.

    Raises:
        ModelError: says what was given and what is expected.
    """
    hint = f"it must be a tensor (3, h, w), RGB in 0..255, with the longer side resized to {size}"
    if not isinstance(image, Tensor):
        raise ModelError(f"{NAME}: image is {type(image).__name__}", hint)
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape or max(image.shape[1:]) > size:
        raise ModelError(f"{NAME}: image of shape {tuple(image.shape)}", hint)


def _check_size(original: Any) -> None:
    try:
        good = len(original) == 2 and all(float(edge) >= 1 and float(edge) == int(edge) for edge in original)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ModelError(
            f"{NAME}: original_size is {original!r}",
            "eval mode needs (H, W), the image's size before resizing",
        )
