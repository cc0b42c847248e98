"""What the user chooses about a training, beside the dataset and the preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Peft = Literal["method", "adapter", "lora", "full", "decoder"]


@dataclass(frozen=True)
class Choices:
    """Choices that a recipe takes.

    Args:
        peft: what of a network is trained. "method": what the method's paper trains; "adapter": bottlenecks between
            the blocks of the image encoder; "lora": low-rank updates of its attention; "full": everything; "decoder":
            the mask decoder and the prompt encoder alone.
        rank: of the low-rank updates.
        objects: "together": every positive label value is one object; "apart": each is an object of its own.
    """

    peft: Peft = "method"
    rank: int = 8
    objects: Literal["together", "apart"] = "together"
