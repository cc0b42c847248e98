"""Small SAMs with random weights, built by the `segment_anything` package itself.

Import it with `from tiny_sam import ...` (tests/ is on pytest's path).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

SMALL: dict[str, Any] = {"image_size": 64, "embed_dim": 16, "depth": 2, "num_heads": 2, "window": 3, "whole": (1,)}
LARGER: dict[str, Any] = {"image_size": 256, "embed_dim": 24, "depth": 3, "num_heads": 3, "window": 14, "whole": (2,)}


def upstream(
    image_size: int, embed_dim: int, depth: int, num_heads: int, window: int, whole: tuple[int, ...], seed: int = 0
) -> Sam:
    """Upstream's own network; every parameter is random, those that SAM starts at zero too."""
    grid, width = image_size // 16, 32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = Sam(
            ImageEncoderViT(
                img_size=image_size,
                patch_size=16,
                embed_dim=embed_dim,
                depth=depth,
                num_heads=num_heads,
                mlp_ratio=2,
                out_chans=width,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=window,
                global_attn_indexes=whole,
            ),
            PromptEncoder(width, (grid, grid), (image_size, image_size), mask_in_chans=8),
            MaskDecoder(
                transformer_dim=width,
                transformer=TwoWayTransformer(depth=2, embedding_dim=width, num_heads=8, mlp_dim=48),
                iou_head_hidden_dim=20,
            ),
        ).eval()
        for name, parameter in sam.named_parameters():
            if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")):
                nn.init.normal_(parameter, std=0.5)
        # Larger logits than the initial ones: a mask that is all object or all background compares nothing.
        for mlp in sam.mask_decoder.output_hypernetworks_mlps:
            nn.init.normal_(mlp.layers[-1].weight, std=0.5)
    return sam


def save(sam: Sam, path: Path) -> Path:
    """The official way: a torch file with the state dict alone."""
    torch.save(sam.state_dict(), path)
    return path
