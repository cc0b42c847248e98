"""`Samus`: encoder, prompt encoder and mask decoder, and what of them is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.errors import ModelError
from medseg_cli.models.prompts import check_prompts
from medseg_cli.models.sam.config import SamConfig
from medseg_cli.models.sam_encoders import image_encoder, prompt_encoder
from medseg_cli.models.samus.config import GRID, PATCH, SIZE, SamusConfig
from medseg_cli.models.samus.encoder import SamusEncoder
from medseg_cli.models.tuning import Parts
from medseg_cli.models.two_way import PromptedMasks

TRAINED = ("cnn_embed", "post_pos_embed", "Adapter")
"""Parts of the names that mark what SAMUS adds to SAM; the relative positions of global blocks are trained besides."""


class Samus(nn.Module):
    """SAMUS (arXiv 2309.06824) with its official state-dict keys; coordinates are pixels (x, y) of the 256 x 256 frame.

    Boxes and masks, which the official `forward` takes no notice of, are prompts like clicks here.
    """

    def __init__(self, config: SamusConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = SamusEncoder(config, vision_transformer(config))
        self.prompt_encoder = prompt_encoder(config)
        self.mask_decoder = mask_decoder(config)

    @property
    def size(self) -> int:
        """Edge S of the square input."""
        return self.config.image_size

    @property
    def mask_size(self) -> int:
        """Edge M of a mask prompt."""
        return self.config.mask_size

    def parts(self) -> Parts:
        """What can be tuned of it."""
        encoder = self.image_encoder
        return Parts(encoder, encoder.blocks, (self.mask_decoder,), own_adapters=True)

    def forward(
        self,
        images: Tensor,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        multimask: bool = False,
    ) -> dict[str, Tensor]:
        """One prompted object in each image of a batch, or C of them: the official call, boxes and masks honoured.

        Args:
            images: (B, 1 or 3, 256, 256), grey values or RGB in [0, 1].
            points: coordinates (B, P, 2) xy and labels (B, P), 1 inside, 0 outside, -1 padding; or (B, C, P, 2) and
                (B, C, P) for C objects in each image.
            boxes: (B, 4) corners x0 y0 x1 y1; only with one object.
            masks: (B, 1, 128, 128) logits; only with one object.
            multimask: the three masks for ambiguous prompts instead of the one.

        Returns:
            `low_res_logits` (B, n, 128, 128), `masks` (B, n, 256, 256) logits and `iou` (B, n), n = 1, 3 or C.

        Raises:
            ModelError: tensors of other shapes, or of unequal length.
        """
        embedding = self.encode(images)["image"]
        if points is not None and points[0].ndim == 4:
            if boxes is not None or masks is not None or multimask or points[1].shape != points[0].shape[:3]:
                raise ModelError("samus: clicks of several objects go with nothing else", "give one object at a time")
            each = [
                self._masks(embedding, (points[0][:, index], points[1][:, index]), None, None, multimask=False)
                for index in range(points[0].shape[1])
            ]
            logits, quality = (torch.cat([one[part] for one in each], dim=1) for part in (0, 1))
        else:
            logits, quality = self._masks(embedding, points, boxes, masks, multimask)
        full = F.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)
        return {"low_res_logits": logits, "masks": full, "iou": quality}

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 1 or 3, 256, 256) in [0, 1] → `image`: (B, C, 32, 32)."""
        return {"image": self.image_encoder(rgb(images))}

    def decode(
        self,
        embedding: Mapping[str, Tensor],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks of N prompts in one encoded image.

        Args:
            embedding: `encode` of one image.
            boxes: (N, 4) corners x0 y0 x1 y1.
            points: (N, P, 2) xy, pixel centres at whole numbers.
            labels: (N, P) 1 inside, 0 outside, -1 padding.
            masks: (N, 1, 128, 128) logits.

        Returns:
            Logits (N, 128, 128) over the whole frame, and predicted IoU (N,); training does not touch the latter.

        Raises:
            ModelError: prompts of other shapes, unequal in number, or points without labels.
        """
        sparse, dense = self.embed(boxes, points, labels, masks)
        logits, quality = self.mask_decoder(embedding["image"], self.position(), sparse, dense)
        return logits[:, 0], quality[:, 0]

    def embed(
        self, boxes: Tensor | None, points: Tensor | None, labels: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Prompts as in `decode` → sparse (N, tokens, C) and dense (N, C, 32, 32) embeddings."""
        check_prompts("samus", self.mask_size, {"boxes": boxes, "points": points, "labels": labels, "masks": masks})
        clicks = None if points is None or labels is None else (points, labels)
        # In half precision, coordinates would be off by pixels.
        with torch.autocast(self.image_encoder.pos_embed.device.type, enabled=False):
            return self.prompt_encoder(points=clicks, boxes=boxes, masks=masks)

    def position(self) -> Tensor:
        """(1, C, 32, 32) positional encoding of the token grid."""
        with torch.autocast(self.image_encoder.pos_embed.device.type, enabled=False):
            return self.prompt_encoder.get_dense_pe()

    def freeze(self) -> None:
        """The official choice of what is trained: the CNN branch, all adapters, the tables of the global blocks.

        The mask decoder, the prompt encoder and the rest of SAM's transformer keep their weights. Blocks are told by
        their number; the official code looks for digits in names, which is right for ViT-B alone.
        """
        tables = {
            f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            for block in self.config.global_attn_indexes
            for axis in "hw"
        }
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in tables or any(part in name for part in TRAINED))

    def _masks(
        self,
        embedding: Tensor,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        multimask: bool,
    ) -> tuple[Tensor, Tensor]:
        """Prompt i belongs to image i: (B, n, 128, 128) logits and (B, n) predicted IoU."""
        coords, labels = (None, None) if points is None else points
        sparse, dense = self.embed(boxes, coords, labels, masks)
        if points is None and boxes is None and masks is None:
            sparse, dense = (x.expand(len(embedding), *x.shape[1:]) for x in (sparse, dense))
        if len(sparse) != len(embedding):
            raise ModelError(f"samus: {len(sparse)} prompts for {len(embedding)} images", "give one to each image")
        logits, quality = self.mask_decoder(embedding, self.position(), sparse, dense)
        kept = slice(1, None) if multimask else slice(0, 1)
        return logits[:, kept], quality[:, kept]


def rgb(images: Tensor) -> Tensor:
    """Images (B, 1 or 3, 256, 256) → (B, 3, 256, 256).

    Raises:
        ModelError: images of another shape.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.shape[2:] != (SIZE, SIZE):
        raise ModelError(
            f"samus: images of shape {tuple(images.shape)}", f"expected (B, 1 or 3, {SIZE}, {SIZE}), in [0, 1]"
        )
    return images.expand(-1, 3, -1, -1)


def mask_decoder(config: SamusConfig) -> PromptedMasks:
    """SAM's mask decoder of these sizes."""
    transformer = TwoWayTransformer(
        depth=config.decoder_depth,
        embedding_dim=config.prompt_dim,
        num_heads=config.decoder_heads,
        mlp_dim=config.decoder_mlp_dim,
    )
    return PromptedMasks(
        MaskDecoder(
            transformer_dim=config.prompt_dim,
            transformer=transformer,
            num_multimask_outputs=3,
            iou_head_depth=3,
            iou_head_hidden_dim=config.iou_dim,
        )
    )


def vision_transformer(config: SamusConfig) -> ImageEncoderViT:
    """SAM's transformer for 32 x 32 tokens of 16 pixels, computed by `vit`."""
    known: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("embed_dim", "depth", "num_heads", "window_size", "global_attn_indexes", "prompt_dim")
    }
    sizes = replace(SamConfig(), image_size=GRID * PATCH, decoder_heads=config.decoder_heads, **known)
    return image_encoder(sizes, config.mlp_ratio)
