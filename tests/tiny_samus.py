"""Sizes of a SAMUS that trains in seconds; its CNN branch has its published width, which cannot be chosen."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "global_attn_indexes": [1],
    "prompt_dim": 32,
    "mask_in_chans": 4,
    "decoder_mlp_dim": 32,
    "iou_dim": 16,
}
