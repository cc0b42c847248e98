"""`SamConfig`: every number of a SAM, ViT-B at 1024 pixels as defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from medseg_cli.errors import ModelError

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "vit-b": {"embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072, "global_attn_indexes": (2, 5, 8, 11)},
    "vit-l": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096, "global_attn_indexes": (5, 11, 17, 23)},
    "vit-h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "mlp_dim": 5120, "global_attn_indexes": (7, 15, 23, 31)},
}
"""The three published image encoders."""


@dataclass(frozen=True)
class SamConfig:
    """Sizes of a SAM.

    Args:
        image_size: edge S of the square input in pixels.
        patch_size: edge of a token in pixels.
        embed_dim, depth, num_heads, mlp_dim: the image encoder.
        window_size: edge of the attention windows in tokens.
        global_attn_indexes: blocks with global attention.
        prompt_dim: channels of the image embedding and of the prompts.
        mask_in_chans: inner channels of the mask prompt's convolutions.
        decoder_depth, decoder_heads, decoder_mlp_dim: the two-way transformer.
        extra_masks: masks besides the single one, for prompts that leave open what is meant.
        iou_depth, iou_dim: layers and width of the head that predicts a mask's quality.
    """

    image_size: int = 1024
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    window_size: int = 14
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    prompt_dim: int = 256
    mask_in_chans: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    extra_masks: int = 3
    iou_depth: int = 3
    iou_dim: int = 256

    def __post_init__(self) -> None:
        problems = []
        if self.image_size % self.patch_size:
            problems.append(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.embed_dim % self.num_heads:
            problems.append(f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}")
        if self.prompt_dim % 8 or self.prompt_dim % (2 * self.decoder_heads):
            problems.append(f"prompt_dim {self.prompt_dim} is not divisible by 8 and by 2 * decoder_heads")
        if self.mask_in_chans % 4:
            problems.append(f"mask_in_chans {self.mask_in_chans} is not divisible by 4")
        if any(index >= self.depth for index in self.global_attn_indexes):
            problems.append(f"global_attn_indexes {self.global_attn_indexes} name blocks beyond depth {self.depth}")
        if problems:
            raise ModelError("sam configuration: " + "; ".join(problems))

    @property
    def grid(self) -> int:
        """Tokens per axis, g."""
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """Edge of a mask prompt and of the low-resolution logits, 4 g."""
        return 4 * self.grid


def parse_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Field values of `SamConfig` from a preset's `model` or the arguments of `load_model`, `variant` left out.

    Raises:
        ModelError: a name that does not exist, with the names that do, or a value of the wrong kind.
    """
    known = {field.name for field in fields(SamConfig)}
    if unknown := values.keys() - known - {"variant"}:
        raise ModelError(
            f"sam configuration: unknown {sorted(unknown)}", f"known names: variant, {', '.join(sorted(known))}"
        )
    if values.get("variant", "vit-b") not in VARIANTS:
        raise ModelError(f"sam configuration: unknown variant {values['variant']!r}", f"known: {', '.join(VARIANTS)}")
    given = {name: value for name, value in values.items() if name != "variant"}
    for name, value in given.items():
        if name == "global_attn_indexes":
            good = isinstance(value, list | tuple) and all(type(each) is int and each >= 0 for each in value)
        else:
            good = type(value) is int and value >= (0 if name == "extra_masks" else 1)
        if not good:
            raise ModelError(f"sam configuration: {name} cannot be {value!r}", "sizes are whole numbers above 0")
    if "global_attn_indexes" in given:
        given["global_attn_indexes"] = tuple(given["global_attn_indexes"])
    return given


def config_of(values: Mapping[str, Any]) -> SamConfig:
    """The configuration of a network without a checkpoint; `variant` sets what `values` leaves out.

    Raises:
        ModelError: as `parse_config`, or values that do not go together.
    """
    given = parse_config(values)
    return SamConfig(**{**VARIANTS[values.get("variant", "vit-b")], **given})
