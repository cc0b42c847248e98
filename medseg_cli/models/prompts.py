"""What a caller may hand to a promptable 2-D network, found out before the network stumbles over it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medseg_cli.errors import ModelError


def check_prompts(name: str, mask_size: int, prompts: Mapping[str, Any]) -> None:
    """Refuse prompts that are no tensors, have other shapes, or do not go together; looks at no value.

    Args:
        name: of the network, for the message.
        mask_size: edge M of its mask prompt.
        prompts: boxes, points, labels and masks, in this order under the names that the caller knows them by; each
            (N, 4), (N, P, 2), (N, P), (N, 1, M, M), or None.

    Raises:
        ModelError: says what was given and what is expected.
    """
    boxes, points, labels, masks = prompts
    expected = {
        boxes: "(N, 4): corners x0 y0 x1 y1",
        points: "(N, P, 2): x y of P clicks",
        labels: "(N, P): 1 inside, 0 outside, -1 padding",
        masks: f"(N, 1, {mask_size}, {mask_size}): logits",
    }
    for key, value in prompts.items():
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise ModelError(f"{name}: {key} is {type(value).__name__}, no tensor", f"give {expected[key]}, or None")
        good = {
            boxes: value.ndim == 2 and value.shape[1] == 4,
            points: value.ndim == 3 and value.shape[2] == 2,
            labels: value.ndim == 2,
            masks: value.shape[1:] == (1, mask_size, mask_size),
        }
        if not good[key]:
            raise ModelError(f"{name}: {key} of shape {tuple(value.shape)}", f"expected {expected[key]}")
    if (prompts[points] is None) != (prompts[labels] is None):
        there, lacking = (points, labels) if prompts[labels] is None else (labels, points)
        raise ModelError(f"{name}: {there} without {lacking}", f"each click has a label: {expected[labels]}")
    counts = {key: len(value) for key, value in prompts.items() if value is not None}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} {key}" for key, count in counts.items())
        raise ModelError(f"{name}: prompts do not go together: {told}", "give N of each: one object each")
    if prompts[points] is not None and prompts[points].shape[1] != prompts[labels].shape[1]:
        shapes = f"{tuple(prompts[points].shape)} and {labels} {tuple(prompts[labels].shape)}"
        raise ModelError(f"{name}: {points} {shapes} differ in the number of clicks", f"expected {expected[labels]}")


def check_finite(name: str, values: Mapping[str, Any]) -> None:
    """Refuse NaN and infinity; on a GPU it waits for the values.

    Args:
        name: of the network, for the message.
        values: tensors by name; None is left out.

    Raises:
        ModelError: names the tensor.
    """
    for key, value in values.items():
        if value is not None and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{name}: {key} holds NaN or infinity", "replace such values before")
