"""`SamusConfig`: every number of a SAMUS, the published ViT-B as defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from medseg_cli.errors import ModelError

SIZE = 256
"""Edge of the square input in pixels, as published. (The official code runs on larger images too, but shows the
transformer 264 pixels of them all the same.)"""
GRID = 32
"""Tokens per axis."""
PATCH, STRIDE = 16, 8
"""Edge of a patch and pixels from patch to patch: patches overlap by half."""
FIXED: Mapping[str, int] = {"img_size": SIZE, "image_size": SIZE, "encoder_input_size": SIZE, "patch_size": STRIDE}
"""Names under which the official code has what cannot be chosen here."""
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "vit-b": {"embed_dim": 768, "depth": 12, "num_heads": 12, "global_attn_indexes": (2, 5, 8, 11)},
    "vit-l": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "global_attn_indexes": (5, 11, 17, 23)},
    "vit-h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "global_attn_indexes": (7, 15, 23, 31)},
}
"""SAM's three image encoders; the official code can load the first alone."""


@dataclass(frozen=True)
class SamusConfig:
    """Sizes of a SAMUS.

    Args:
        embed_dim, depth, num_heads, mlp_ratio: SAM's vision transformer.
        window_size: edge of the attention windows in tokens.
        global_attn_indexes: blocks with global attention, to which the CNN branch speaks.
        prompt_dim: channels of the image embedding and of the prompts.
        mask_in_chans: inner channels of the mask prompt's convolutions.
        decoder_depth, decoder_heads, decoder_mlp_dim: the two-way transformer.
        iou_dim: width of the head that predicts a mask's quality.
    """

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    window_size: int = 14
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    prompt_dim: int = 256
    mask_in_chans: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_dim: int = 256

    def __post_init__(self) -> None:
        problems = []
        if self.embed_dim % self.num_heads or self.embed_dim % 4:
            problems.append(f"embed_dim {self.embed_dim} is not divisible by 4 and by num_heads {self.num_heads}")
        if self.prompt_dim % 8 or self.prompt_dim % (2 * self.decoder_heads):
            problems.append(f"prompt_dim {self.prompt_dim} is not divisible by 8 and by 2 * decoder_heads")
        if self.mask_in_chans % 4:
            problems.append(f"mask_in_chans {self.mask_in_chans} is not divisible by 4")
        if any(index >= self.depth for index in self.global_attn_indexes):
            problems.append(f"global_attn_indexes {self.global_attn_indexes} name blocks beyond depth {self.depth}")
        if problems:
            raise ModelError("samus configuration: " + "; ".join(problems))

    @property
    def image_size(self) -> int:
        """Edge S of the square input in pixels."""
        return SIZE

    @property
    def patch_size(self) -> int:
        """Edge of a patch in pixels."""
        return PATCH

    @property
    def grid(self) -> int:
        """Tokens per axis."""
        return GRID

    @property
    def mask_size(self) -> int:
        """Edge of a mask prompt and of the low-resolution logits."""
        return 4 * GRID


ALIASES: Mapping[str, str] = {
    "dec_depth": "decoder_depth",
    "dec_heads": "decoder_heads",
    "dec_mlp": "decoder_mlp_dim",
    "iou_hidden": "iou_dim",
}
"""Other names in use for the same numbers."""


def parse_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Field values of `SamusConfig` from its own names or from `ALIASES`, `variant` left out.

    Raises:
        ModelError: a name that does not exist, with the names that do, or a value of the wrong kind.
    """
    flat = {ALIASES.get(name, name): value for name, value in values.items()}
    variant = flat.pop("variant", None)
    for name, fixed in FIXED.items():
        if flat.pop(name, fixed) != fixed:
            raise ModelError(f"samus configuration: {name} is {fixed}, not {values[name]!r}", "leave it out")
    known = {field.name for field in fields(SamusConfig)}
    if unknown := flat.keys() - known:
        raise ModelError(f"samus configuration: unknown {sorted(unknown)}", f"known names: {', '.join(sorted(known))}")
    if variant is not None and variant not in VARIANTS:
        raise ModelError(f"samus configuration: no variant '{variant}'", f"known: {', '.join(VARIANTS)}")
    for name, value in flat.items():
        if not _is_good(name, value):
            raise ModelError(f"samus configuration: {name} cannot be {value!r}", "sizes are whole numbers above 0")
    if "global_attn_indexes" in flat:
        flat["global_attn_indexes"] = tuple(flat["global_attn_indexes"])
    return flat


def _is_good(name: str, value: Any) -> bool:
    if name == "global_attn_indexes":
        return isinstance(value, list | tuple) and all(type(each) is int and each >= 0 for each in value)
    if name == "mlp_ratio":
        return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return type(value) is int and value > 0


def config_of(values: Mapping[str, Any]) -> SamusConfig:
    """The configuration that a preset's `model` states; what it leaves out is its `variant`'s, ViT-B by default.

    Raises:
        ModelError: as `parse_config`, or values that do not go together.
    """
    given = parse_config(values)
    return SamusConfig(**{**VARIANTS[values.get("variant", "vit-b")], **given})
