"""An image tower and a text tower of one space, built from timm, transformers and open_clip.

The names of the parameters are open_clip's, so that BiomedCLIP's published file loads without renaming.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medseg_cli.errors import ModelError
from medseg_cli.models.clip.config import ClipConfig
from medseg_cli.models.clip.words import check_open_clip

START_SCALE = 2.6592600369327783
"""Logarithm of 1 / 0.07, where CLIP's scale begins."""


class ImageTower(nn.Module):
    """A timm ViT read at its class token, and a linear map without bias into the shared space (spec section 1)."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        from timm.models.vision_transformer import VisionTransformer

        self.trunk = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            num_classes=0,
            global_pool="token",
        )
        self.head = nn.Sequential(OrderedDict(proj=nn.Linear(config.width, config.embed, bias=False)))

    def forward(self, image: Tensor) -> Tensor:
        """Normalised pictures (B, 3, S, S) → features (B, E), not of unit length."""
        features: Tensor = self.head(self.trunk(image))
        return features


class Clip(nn.Module):
    """What a picture and a text have in common, as the cosine of their features.

    Attributes:
        config: sizes.
        visual: pictures (B, 3, S, S) → (B, E).
        text: tokens (B, L), 0 = padding → (B, E).
        logit_scale: () logarithm of what cosines are multiplied by.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.visual = ImageTower(config)
        self.text = _text_tower(config)
        self.logit_scale = nn.Parameter(torch.tensor(START_SCALE))

    def encode_image(self, image: Tensor) -> Tensor:
        """Normalised pictures (B, 3, S, S) → features (B, E), not of unit length."""
        features: Tensor = self.visual(image)
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) int64, 0 = padding → features (B, E), not of unit length."""
        features: Tensor = self.text(tokens)
        return features


def _text_tower(config: ClipConfig) -> nn.Module:
    """A BERT read at its first token, and open_clip's two-layer map into the shared space."""
    from open_clip.hf_model import HFTextEncoder
    from transformers import BertConfig

    sizes = BertConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.text_width,
        num_hidden_layers=config.text_depth,
        num_attention_heads=config.text_heads,
        intermediate_size=4 * config.text_width,
        max_position_embeddings=config.positions,
        pad_token_id=0,
    )
    tower = HFTextEncoder(
        "", config.embed, config=sizes, pooler_type="cls_last_hidden_state_pooler", proj_type="mlp", pretrained=False
    )
    # A second reading of the first token, which nothing uses and published files do not hold.
    tower.transformer.pooler = None
    built: nn.Module = tower
    return built


def build_network(config: ClipConfig) -> nn.Module:
    """The network that a configuration means, with weights from the caller's random numbers.

    Raises:
        ModelError: open_clip has no such model with all its parts, or its image tower is no ViT with a class token.
    """
    if not config.open_clip:
        return Clip(config)
    import open_clip

    check_open_clip(config.open_clip)
    model: nn.Module = open_clip.create_model(config.open_clip, pretrained=None, require_pretrained=False)
    tower_of(model)
    return model


def recompute(model: nn.Module) -> None:
    """From now on training keeps each block's input alone and computes the rest again on the way back: less memory."""
    if not isinstance(model, Clip):
        model.set_grad_checkpointing(True)  # type: ignore[operator]
        return
    model.visual.trunk.set_grad_checkpointing(True)
    text: Any = model.text.transformer
    # transformers 5 gave it another name on the way.
    enable = getattr(text, "activation_checkpointing_enable", None) or text.gradient_checkpointing_enable
    enable({"use_reentrant": False})


@dataclass(frozen=True, eq=False)
class Tower:
    """An image tower in three steps, so that maps can look at any block's tokens.

    Args:
        model: the network.
        blocks: in order; each maps tokens (B, 1 + N, D) to the same shape, the class token first.
        grid: (rows, columns) of patches, N = rows * columns, row-major.
        timm: whether the tower is timm's, else open_clip's own.
    """

    model: nn.Module
    blocks: Sequence[nn.Module]
    grid: tuple[int, int]
    timm: bool

    def tokens(self, image: Tensor) -> Tensor:
        """Normalised pictures (B, 3, S, S) → tokens (B, 1 + N, D) as the first block takes them."""
        visual: Any = self.model.visual
        if not self.timm:
            embedded: Tensor = visual._embeds(image)
            return embedded
        trunk = visual.trunk
        tokens: Tensor = trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(image))))
        return tokens

    def run(self, tokens: Tensor, first: int, last: int) -> Tensor:
        """Tokens as block `first` takes them → as block `last` takes them (`last` = number of blocks: after all)."""
        for block in self.blocks[first:last]:
            tokens = block(tokens)
        return tokens

    def features(self, tokens: Tensor) -> Tensor:
        """Tokens after the last block → features (B, E), not of unit length."""
        visual: Any = self.model.visual
        if not self.timm:
            pooled, _ = visual._pool(tokens)
            projected: Tensor = pooled if visual.proj is None else pooled @ visual.proj
            return projected
        features: Tensor = visual.head(visual.trunk.forward_head(visual.trunk.norm(tokens)))
        return features


def tower_of(model: nn.Module) -> Tower:
    """The image tower of a network of `build_network`.

    Raises:
        ModelError: the tower is no ViT that reads one class token before its patches.
    """
    visual: Any = model.visual
    trunk = getattr(visual, "trunk", None)
    if trunk is not None and hasattr(trunk, "blocks") and getattr(trunk, "num_prefix_tokens", 0) == 1:
        rows, columns = trunk.patch_embed.grid_size
        return Tower(model, list(trunk.blocks), (int(rows), int(columns)), timm=True)
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is not None and getattr(visual, "class_embedding", None) is not None and visual.attn_pool is None:
        rows, columns = visual.grid_size
        return Tower(model, list(blocks), (int(rows), int(columns)), timm=False)
    raise ModelError(
        f"the image tower {type(visual).__name__} is no ViT with one class token: saliency maps need its patches",
        "choose another open_clip model, such as ViT-B-16",
    )
