"""`Sam`: SAM's image encoder, prompt encoder and mask decoder, behind the two calls of a promptable 2-D network."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from torch import Tensor, nn

from medseg_cli.models.prompts import check_prompts
from medseg_cli.models.sam.config import SamConfig
from medseg_cli.models.sam_encoders import image_encoder, prompt_encoder
from medseg_cli.models.tuning import Parts
from medseg_cli.models.two_way import PromptedMasks


class Sam(nn.Module):
    """SAM (arXiv 2304.02643) with its official state-dict keys; coordinates are pixels (x, y) of the S x S frame."""

    def __init__(self, config: SamConfig) -> None:
        super().__init__()
        self.config = config
        # The encoder multiplies and cuts off; a fraction gives back the width exactly.
        self.image_encoder = image_encoder(config, Fraction(config.mlp_dim, config.embed_dim))
        self.prompt_encoder = prompt_encoder(config)
        decoder = MaskDecoder(
            transformer_dim=config.prompt_dim,
            transformer=TwoWayTransformer(
                depth=config.decoder_depth,
                embedding_dim=config.prompt_dim,
                num_heads=config.decoder_heads,
                mlp_dim=config.decoder_mlp_dim,
            ),
            num_multimask_outputs=config.extra_masks,
            iou_head_depth=config.iou_depth,
            iou_head_hidden_dim=config.iou_dim,
        )
        self.mask_decoder = PromptedMasks(decoder)

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
        return Parts(self.image_encoder, self.image_encoder.blocks, (self.mask_decoder,))

    def freeze(self) -> None:
        """Image encoder and mask decoder learn, as MedSAM does; prompts stay as they are."""
        self.prompt_encoder.requires_grad_(False)

    def forward(
        self,
        images: Tensor,
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One image (1, 3, S, S) as in `encode` and its prompts as in `decode`, at once."""
        return self.decode(self.encode(images), boxes, points, labels, masks)

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, S, S), normalised and padded → `image`: (B, C, g, g)."""
        return {"image": self.image_encoder(images)}

    def decode(
        self,
        embedding: Mapping[str, Tensor],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks of N prompts in one encoded image.

        A single click is ambiguous (section 3 of the paper): of the extra masks the one is taken whose predicted IoU is
        highest. All other prompts get the mask meant for them. Arguments and errors as `candidates`.

        Returns:
            Logits (N, 4 g, 4 g) over the whole frame, and predicted IoU (N,).
        """
        logits, quality, open_to_doubt = self.candidates(embedding, boxes, points, labels, masks)
        chosen = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        if open_to_doubt is not None:
            chosen = torch.where(open_to_doubt, 1 + quality[:, 1:].argmax(1), chosen)
        each = torch.arange(len(logits), device=logits.device)
        return logits[each, chosen], quality[each, chosen]

    def candidates(
        self,
        embedding: Mapping[str, Tensor],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """All masks of N prompts in one encoded image.

        Args:
            embedding: `encode` of one image.
            boxes: (N, 4) corners x0 y0 x1 y1.
            points: (N, P, 2) xy, pixel centres at whole numbers.
            labels: (N, P) 1 inside, 0 outside, -1 padding.
            masks: (N, 1, 4 g, 4 g) logits.

        Returns:
            Logits (N, M, 4 g, 4 g) over the whole frame, predicted IoU (N, M), and which prompts (N,) are single
            clicks, for which all masks but the first are meant; None where no prompt is.

        Raises:
            ModelError: prompts of other shapes, unequal in number, or points without labels.
        """
        prompts = {"boxes": boxes, "points": points, "labels": labels, "masks": masks}
        check_prompts("sam", self.mask_size, prompts)
        # In half precision, coordinates would be off by pixels.
        with torch.autocast(embedding["image"].device.type, enabled=False):
            clicks = None if points is None or labels is None else (points, labels)
            sparse, dense = self.prompt_encoder(points=clicks, boxes=boxes, masks=masks)
            position = self.prompt_encoder.get_dense_pe()
        logits, quality = self.mask_decoder(embedding["image"], position, sparse, dense)
        if clicks is None or boxes is not None or masks is not None or not self.config.extra_masks:
            return logits, quality, None
        return logits, quality, (clicks[1] != -1).sum(1) == 1
