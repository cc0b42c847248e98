"""`SamUnetConfig`: every number of a SAM-UNet, the published ViT-B with ResNet-34 as defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from medseg_cli.errors import ModelError

BACKBONES = {"res34": 1, "res50": 4}
"""Name of the convolutional branch → channels of a block's output per unit of its width (basic block, bottleneck)."""


@dataclass(frozen=True)
class SamUnetConfig:
    """Sizes of a SAM-UNet (arXiv 2408.09886v1; official code).

    Args:
        image_size: edge S of the square input in pixels; a multiple of 32.
        patch_size: edge of a token in pixels.
        embed_dim, depth, num_heads, mlp_ratio: SAM's vision transformer.
        window_size: edge of the attention windows in tokens.
        global_attn_indexes: the four blocks with global attention; a stage of the ResNet is added before each.
        prompt_dim: channels of image embedding and prompts; the mask features have an eighth of them.
        mask_in_chans: inner channels of the mask prompt's convolutions.
        decoder_depth, decoder_heads, decoder_mlp_dim: the two-way transformer.
        backbone: "res34" (basic blocks) or "res50" (bottlenecks).
        stem: channels after the ResNet's first convolution, and width of its first stage.
        layers: blocks in each of the ResNet's four stages.
    """

    image_size: int = 256
    patch_size: int = 16
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
    backbone: str = "res34"
    stem: int = 64
    layers: tuple[int, ...] = (3, 4, 6, 3)

    def __post_init__(self) -> None:
        problems = []
        ends = self.global_attn_indexes
        if self.image_size % 32 or self.image_size % self.patch_size:
            problems.append(f"image_size {self.image_size} is not a multiple of 32 and of patch_size")
        if self.patch_size & (self.patch_size - 1):
            problems.append(f"patch_size {self.patch_size} is not a power of two, as the ResNet's strides are")
        if len(ends) != 4 or list(ends) != sorted(set(ends)) or ends[-1] >= self.depth:
            problems.append(f"global_attn_indexes {ends} are not four ascending blocks below depth {self.depth}")
        if self.embed_dim % self.num_heads:
            problems.append("embed_dim must be divisible by num_heads")
        if self.prompt_dim % 8 or self.prompt_dim % (2 * self.decoder_heads):
            problems.append("prompt_dim must be divisible by 8 and by 2 * decoder_heads")
        if self.mask_in_chans % 4:
            problems.append("mask_in_chans must be divisible by 4")
        if self.backbone not in BACKBONES:
            problems.append(f"backbone '{self.backbone}' is none of {', '.join(BACKBONES)}")
        if len(self.layers) != 4:
            problems.append(f"layers {self.layers} are not four numbers")
        if problems:
            raise ModelError("sam-unet configuration: " + "; ".join(problems))

    @property
    def grid(self) -> int:
        """Tokens per axis, g."""
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """Edge of a mask prompt and of the low-resolution logits, 4 g."""
        return 4 * self.grid

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels after each of the ResNet's four stages."""
        return tuple(self.stem * BACKBONES[self.backbone] * 2**stage for stage in range(4))

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Edge of the map after each of the ResNet's four stages."""
        return tuple(self.image_size // (4 * 2**stage) for stage in range(4))


ALIASES: Mapping[str, str] = {
    "img_size": "image_size",
    "vit_embed_dim": "embed_dim",
    "vit_depth": "depth",
    "vit_heads": "num_heads",
    "vit_window": "window_size",
    "vit_mlp_ratio": "mlp_ratio",
    "prompt_embed_dim": "prompt_dim",
    "resnet_block": "backbone",
    "resnet_layers": "layers",
    "resnet_stem": "stem",
}
"""Other names in use for the same numbers."""

_BLOCKS = {"basic": "res34", "bottleneck": "res50"}
_LISTS = ("global_attn_indexes", "layers")


def parse_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Field values of `SamUnetConfig` from its own names or from `ALIASES`.

    Raises:
        ModelError: a name that does not exist, with the names that do, or a value of the wrong kind.
    """
    known = {field.name for field in fields(SamUnetConfig)}
    flat = {ALIASES.get(name, name): value for name, value in values.items()}
    channels = flat.pop("resnet_channels", None)
    if unknown := flat.keys() - known:
        raise ModelError(
            f"sam-unet configuration: unknown {sorted(unknown)}", f"known names: {', '.join(sorted(known))}"
        )
    for name, value in flat.items():
        if not _is_good(name, value):
            raise ModelError(f"sam-unet configuration: {name} cannot be {value!r}", "sizes are whole numbers above 0")
        if name in _LISTS:
            flat[name] = tuple(value)
        elif name == "backbone":
            flat[name] = _BLOCKS.get(value, value)
    if channels is not None and tuple(channels) != SamUnetConfig(**flat).stage_channels:
        raise ModelError(
            f"sam-unet configuration: resnet_channels {channels} do not follow from stem and backbone",
            f"they would be {list(SamUnetConfig(**flat).stage_channels)}",
        )
    return flat


def _is_good(name: str, value: Any) -> bool:
    if name == "backbone":
        return isinstance(value, str)
    if name in _LISTS:
        least = 0 if name == "global_attn_indexes" else 1
        return isinstance(value, list | tuple) and all(type(each) is int and each >= least for each in value)
    if name == "mlp_ratio":
        return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    return type(value) is int and value > 0


def config_of(values: Mapping[str, Any]) -> SamUnetConfig:
    """The configuration that a preset's `model` states; what it leaves out is the published value.

    Raises:
        ModelError: unknown names, or values that do not go together.
    """
    return SamUnetConfig(**parse_config(values))
