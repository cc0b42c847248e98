"""What the user chooses about a training, beside the dataset and the preset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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
        feature_cache: whether what a frozen image encoder makes of a picture is kept and used again. Pictures are then
            drawn from few views of each slice. "auto": where the encoder is frozen (2-D methods, "decoder").
        features: folder in which it is kept; None = in memory only.
        released_loss: the loss as the method's published code computes it, where that differs from the paper.
        checkpointing: whether activations are computed again on the way back instead of being kept. "auto": of large
            networks. Image-text networks alone can.
        shortest_caption: characters below which a phrasing of a caption is left out.
        cnn: weights of CC-SAM's frozen CNN: a file, a name in the store, or "random"; "" = the start's own.
        text_table: file with the embedded texts that a CC-SAM learns; "" = the one that its preset names, if any.
        boxes: file with a detector's boxes, which CC-SAM learns from besides; "" = none.
    """

    peft: Peft = "method"
    rank: int = 8
    objects: Literal["together", "apart"] = "together"
    feature_cache: Literal["off", "on", "auto"] = "auto"
    features: Path | None = None
    released_loss: bool = False
    checkpointing: Literal["off", "on", "auto"] = "auto"
    shortest_caption: int = 0
    cnn: str = ""
    text_table: str = ""
    boxes: str = ""
