"""Sizes of an image-text network; the defaults are BiomedCLIP's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from medseg_cli.errors import ModelError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of the two towers and the space they share.

    Args:
        open_clip: name of another model that open_clip knows and whose image tower is a ViT; its own sizes then count
            and the ones below mean nothing. "" builds a timm ViT and a BERT as BiomedCLIP has them.
        image_size, patch_size: pixels of the square picture and of a patch.
        width, depth, heads: of the image tower.
        vocabulary: how many tokens the text tower knows.
        context: most tokens of a text, with the first and the last one.
        positions: rows of the text tower's table of positions, `context` or more.
        text_width, text_depth, text_heads: of the text tower.
        embed: width of the shared space.
        mean, std: of the RGB values 0 to 1, by which pictures are normalised.
    """

    open_clip: str = ""
    image_size: int = 224
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    vocabulary: int = 30522
    context: int = 256
    positions: int = 512
    text_width: int = 768
    text_depth: int = 12
    text_heads: int = 12
    embed: int = 512
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    def __post_init__(self) -> None:
        whole = [
            field.name
            for field in fields(self)
            if field.type == "int" and (not isinstance(getattr(self, field.name), int) or getattr(self, field.name) < 1)
        ]
        problems = [f"{name} must be a whole number of 1 or more" for name in whole]
        if not whole:
            if self.image_size % self.patch_size:
                problems.append(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
            if self.width % self.heads or self.text_width % self.text_heads:
                problems.append("width must be a multiple of heads, in both towers")
            if self.positions < self.context:
                problems.append(f"{self.positions} positions are fewer than the context of {self.context}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            problems.append("mean and std are three numbers each, std above 0")
        if problems:
            raise ModelError("clip configuration: " + "; ".join(problems))


def config_of(values: Mapping[str, Any]) -> ClipConfig:
    """The configuration in a preset's `model`.

    Raises:
        ModelError: unknown keys, or values that mean nothing.
    """
    known = {field.name for field in fields(ClipConfig)}
    if unknown := sorted(values.keys() - known):
        raise ModelError(f"clip configuration: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        triples = {name: tuple(float(each) for each in values[name]) for name in ("mean", "std") if name in values}
        return ClipConfig(**{**values, **triples})
    except (TypeError, ValueError) as error:
        raise ModelError(f"clip configuration: {error}") from error
