"""`Sam3dConfig`: every number of a 3DSAM-adapter network, official values as defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from medseg_cli.errors import ModelError


@dataclass(frozen=True)
class Sam3dConfig:
    """Sizes of a 3DSAM-adapter network. Defaults: the published ViT-B (paper section 3, official code).

    Args:
        crop_size: edge P of the cubic crop in voxels.
        internal_size: edge to which the crop is upsampled before patch embedding.
        img_size: image size that the SAM position table was made for (1024 → 64x64); pooled to the token grid.
        patch_size, num_slice: in-plane and through-plane extent of a token in upsampled voxels.
        embed_dim, depth, num_heads, mlp_ratio: the transformer.
        window_size: SAM's window; only sets the stored relative-position table length, 2 * window_size - 1 rows.
        global_attn_indexes: blocks whose stored tables have 2 * img_size / patch_size - 1 rows; no block is global.
        cubic_window_size: edge of the attention windows in tokens.
        out_chans: channels of the features after the necks.
        prompt_depth, prompt_heads, prompt_mlp_dim: the click transformer, width out_chans.
        num_pos_feats: columns of the stored (unused) Fourier matrix.
        mlahead_channels, num_classes: the decoder.
        decoder_scale: decoder grid / token grid.
    """

    crop_size: int = 128
    internal_size: int = 512
    img_size: int = 1024
    patch_size: int = 16
    num_slice: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    window_size: int = 14
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    cubic_window_size: int = 8
    out_chans: int = 256
    prompt_depth: int = 2
    prompt_heads: int = 8
    prompt_mlp_dim: int = 2048
    num_pos_feats: int = 128
    mlahead_channels: int = 128
    num_classes: int = 2
    decoder_scale: int = 2

    def __post_init__(self) -> None:
        problems = []
        if self.internal_size % self.patch_size or self.internal_size % self.num_slice:
            problems.append(f"internal_size {self.internal_size} is not a multiple of patch_size and num_slice")
        elif self.internal_size // self.patch_size != self.internal_size // self.num_slice:
            problems.append("patch_size and num_slice must give the same number of tokens per axis")
        elif self.tokens % self.cubic_window_size:
            problems.append(
                f"{self.tokens} tokens per axis are not a multiple of cubic_window_size {self.cubic_window_size}"
            )
        elif (self.img_size // self.patch_size) % self.tokens:
            problems.append(
                f"the {self.img_size // self.patch_size}² position table cannot be pooled to {self.tokens}² tokens"
            )
        if self.internal_size % self.crop_size:
            problems.append(f"internal_size {self.internal_size} is not a multiple of crop_size {self.crop_size}")
        if self.embed_dim % self.num_heads or self.out_chans % (2 * self.prompt_heads):
            problems.append("embed_dim must be divisible by num_heads, out_chans by 2 * prompt_heads")
        if self.depth % 4:
            problems.append(f"depth {self.depth} is not a multiple of 4: features leave after each quarter")
        if problems:
            raise ModelError("3dsam-adapter configuration: " + "; ".join(problems))

    @property
    def tokens(self) -> int:
        """Tokens per axis of the cubic token grid."""
        return self.internal_size // self.patch_size

    @property
    def decoder_grid(self) -> int:
        """Voxels per axis of the decoder's grid."""
        return self.tokens * self.decoder_scale

    def table_rows(self, block: int) -> int:
        """Rows of the stored relative-position tables of a block."""
        if block in self.global_attn_indexes:
            return 2 * (self.img_size // self.patch_size) - 1
        return 2 * self.window_size - 1


OFFICIAL_GROUPS: Mapping[str, Mapping[str, str]] = {
    "enc": {},
    "pe": {
        "embedding_dim": "out_chans",
        "mlp_dim": "prompt_mlp_dim",
        "num_heads": "prompt_heads",
        "depth": "prompt_depth",
    },
    "dec": {"mla_channels": "out_chans"},
}
"""Constructor names of the official classes that differ from ours, per class."""


def parse_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """Field values of `Sam3dConfig` from flat names, or from the official constructors' grouped as enc / pe / dec.

    Raises:
        ModelError: a name that does not exist, with the names that do.
    """
    known = {field.name for field in fields(Sam3dConfig)}
    renamed = {"internal": "internal_size", "crop": "crop_size"}
    ignored = {"qkv_bias", "use_rel_pos", "seed"}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if key in OFFICIAL_GROUPS and isinstance(value, Mapping):
            flat.update({OFFICIAL_GROUPS[key].get(name, name): entry for name, entry in value.items()})
        else:
            flat[renamed.get(key, key)] = value
    for name in ignored & flat.keys():
        if not flat.pop(name) and name != "seed":
            raise ModelError(f"3dsam-adapter configuration: {name} is always on")
    if unknown := flat.keys() - known:
        raise ModelError(
            f"3dsam-adapter configuration: unknown {sorted(unknown)}", f"known names: {', '.join(sorted(known))}"
        )
    for name, value in flat.items():
        if name == "global_attn_indexes":
            good = isinstance(value, list | tuple) and all(isinstance(v, int) and v >= 0 for v in value)
        elif name == "mlp_ratio":
            good = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        else:
            good = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if not good:
            raise ModelError(
                f"3dsam-adapter configuration: {name} cannot be {value!r}", "sizes are whole numbers above 0"
            )
    if "global_attn_indexes" in flat:
        flat["global_attn_indexes"] = tuple(flat["global_attn_indexes"])
    return flat


def config_of(values: Mapping[str, Any]) -> Sam3dConfig:
    """The configuration that a preset's `model` states; what it leaves out is the published value.

    Raises:
        ModelError: unknown names, or values that do not go together.
    """
    return Sam3dConfig(**parse_config(values))
