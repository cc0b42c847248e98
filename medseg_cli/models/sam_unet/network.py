"""`SamUnet`: the whole SAM-UNet network, its initial weights and what of it is frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.frame import IMAGENET_MEAN, IMAGENET_STD
from medseg_cli.models.prompts import check_prompts
from medseg_cli.models.sam_unet.branch import Reshaper, Resnet, upscaling
from medseg_cli.models.sam_unet.config import SamUnetConfig
from medseg_cli.models.sam_unet.contract import PROMPTS, check_batch, check_image
from medseg_cli.models.sam_unet.decoder import MaskDecoder
from medseg_cli.models.sam_unet.sam_parts import SamImageEncoder, SamPromptEncoder
from medseg_cli.models.tuning import Parts


class SamUnet(nn.Module):
    """SAM-UNet (arXiv 2408.09886v1): SAM's frozen encoder, a trained ResNet added to its tokens, one mask per prompt.

    State-dict keys are the official ones. Coordinates are pixels (x, y) of the S x S frame: the image with its longer
    side resized to S, padded at the bottom or the right.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: SamUnetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.prompt_dim
        self.image_encoder = SamImageEncoder(config)
        self.prompt_encoder = SamPromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)
        self.resnet = Resnet(config)
        self.adapters_in = nn.ModuleList(
            Reshaper(channels, size, config.embed_dim, config.grid)
            for channels, size in zip(config.stage_channels, config.stage_sizes, strict=True)
        )
        self.adapters_bridge = nn.ModuleList(upscaling(config.embed_dim, width, width // 8) for _ in range(3))
        self.embedding_encoder = upscaling(width, width // 4, width // 8)
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)

    @property
    def size(self) -> int:
        """Edge S of the square input."""
        return self.config.image_size

    @property
    def mask_size(self) -> int:
        """Edge of a mask prompt."""
        return self.config.mask_size

    def parts(self) -> Parts:
        """What can be tuned of it."""
        encoder = nn.ModuleList(
            (self.image_encoder, self.resnet, self.adapters_in, self.adapters_bridge, self.embedding_encoder)
        )
        return Parts(encoder, self.image_encoder.sam_img_encoder.blocks, (self.mask_decoder, self.prompt_encoder))

    def forward(self, batch: Sequence[Mapping[str, Any]]) -> list[dict[str, Tensor]]:
        """Segment N prompted objects in each image; the input contract of the official code.

        Args:
            batch: per image a mapping with
                `image`: (3, h, w) RGB in 0..255, longer side S (or less);
                `original_size`: (H, W) before resizing; needed in eval mode only;
                `boxes`: (N, 4) corners x0 y0 x1 y1, half-open; `point_coords`: (N, P, 2) and `point_labels`: (N, P),
                1 inside, 0 outside, -1 padding; `mask_inputs`: (N, 1, M, M) logits. Each may be absent or None;
                without any, one mask is given. `labels`, the true masks, may be there and are not looked at.

        Returns:
            Per image `low_res_logits` (N, 1, 4 g, 4 g) and `masks`: while training (N, 1, S, S) logits with padding,
            in eval mode (N, 1, H, W) bool without gradients.

        Raises:
            ModelError: an unknown key, an image that is not (3, h, w) within the frame, a prompt of another shape, NaN.
        """
        check_batch(batch, self.size, self.mask_size, training=self.training)
        if self.training:
            return [{"low_res_logits": low, "masks": self.upsample(low)} for low in self.low_res_logits(batch)]
        with torch.no_grad():
            return [
                {"low_res_logits": low, "masks": self.restore(low, item["image"].shape[-2:], item["original_size"]) > 0}
                for low, item in zip(self.low_res_logits(batch), batch, strict=True)
            ]

    def low_res_logits(self, batch: Sequence[Mapping[str, Any]]) -> list[Tensor]:
        """(N, 1, 4 g, 4 g) logits of each image of a batch as in `forward`; prompts of equal length decoded at once."""
        embedding = self.encode(torch.stack([self.frame(item["image"]) for item in batch]))
        prompts = [self.embed(*(item.get(key) for key in PROMPTS)) for item in batch]
        logits: dict[int, Tensor] = {}
        for length in {sparse.shape[1] for sparse, _ in prompts}:
            members = [index for index, (sparse, _) in enumerate(prompts) if sparse.shape[1] == length]
            counts = [len(prompts[index][0]) for index in members]
            owner = torch.tensor(members, device=self.pixel_mean.device).repeat_interleave(
                torch.tensor(counts, device=self.pixel_mean.device)
            )
            sparse, dense = (torch.cat([prompts[index][part] for index in members]) for part in (0, 1))
            image, multi_scale = embedding["image"][owner], embedding["multi_scale"][owner]
            low = self.mask_decoder(image, multi_scale, self.position(), sparse, dense)
            logits.update(zip(members, low[:, None].split(counts), strict=True))
        return [logits[index] for index in range(len(batch))]

    def frame(self, image: Tensor) -> Tensor:
        """(3, h, w) RGB in 0..255 → (3, S, S): normalised, then zeros (the mean colour) at the bottom and the right."""
        check_image(image, self.size)
        normal = (image.to(self.pixel_mean) - self.pixel_mean) / self.pixel_std
        return F.pad(normal, (0, self.size - image.shape[2], 0, self.size - image.shape[1]))

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """What the decoder needs of each image.

        Args:
            images: (B, 3, S, S), normalised and padded (see `frame`).

        Returns:
            `image`: (B, C, g, g), SAM's embedding; `multi_scale`: (B, C / 8, 4 g, 4 g), sum of the bridges and of the
            upscaled embedding.
        """
        vit = self.image_encoder.sam_img_encoder
        assert vit.pos_embed is not None
        stages = self.resnet(images)
        tokens = vit.patch_embed(images) + vit.pos_embed
        bridged: list[Tensor] = []
        for index, block in enumerate(vit.blocks):
            if index not in self.config.global_attn_indexes:
                tokens = block(tokens)
                continue
            stage = self.config.global_attn_indexes.index(index)
            tokens = block(tokens + self.adapters_in[stage](stages[stage]).permute(0, 2, 3, 1))
            if stage < 3:  # the official order: the last bridge belongs to the first stage
                bridged.append(self.adapters_bridge[2 - stage](tokens.permute(0, 3, 1, 2)))
        image = vit.neck(tokens.permute(0, 3, 1, 2))
        return {"image": image, "multi_scale": self.embedding_encoder(image) + bridged[2] + bridged[1] + bridged[0]}

    def decode(
        self,
        embedding: Mapping[str, Tensor],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Masks of N prompts in one encoded image.

        Args:
            embedding: of `encode`, leading dimension 1.
            boxes: (N, 4) x0 y0 x1 y1 in the S-frame.
            points: (N, P, 2) x y in the S-frame.
            labels: (N, P), 1 inside, 0 outside, -1 padding.
            masks: (N, 1, M, M) logits over the whole S-frame.

        Returns:
            (N, 4 g, 4 g) logits over the whole S-frame, and None: the network does not score its masks.

        Raises:
            ModelError: prompts of other shapes, unequal in number, or points without labels.
        """
        prompts = {"boxes": boxes, "points": points, "labels": labels, "masks": masks}
        check_prompts("sam-unet", self.mask_size, prompts)
        sparse, dense = self.embed(boxes, points, labels, masks)
        image = embedding["image"].expand(len(sparse), -1, -1, -1)
        multi_scale = embedding["multi_scale"].expand(len(sparse), -1, -1, -1)
        return self.mask_decoder(image, multi_scale, self.position(), sparse, dense), None

    def embed(
        self, boxes: Tensor | None, points: Tensor | None, labels: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Prompts as in `decode` → sparse (N, tokens, C) and dense (N, C, g, g) embeddings."""
        clicks = None if points is None or labels is None else (points, labels)
        # Half precision would move the sines of a coordinate by whole pixels.
        with torch.autocast(self.pixel_mean.device.type, enabled=False):
            return self.prompt_encoder.sam_prompt_encoder(clicks, boxes, masks)

    def position(self) -> Tensor:
        """(1, C, g, g) positional encoding of the token grid."""
        with torch.autocast(self.pixel_mean.device.type, enabled=False):
            return self.prompt_encoder.sam_prompt_encoder.get_dense_pe()

    def upsample(self, logits: Tensor) -> Tensor:
        """(N, 1, 4 g, 4 g) → (N, 1, S, S)."""
        return F.interpolate(logits, (self.size, self.size), mode="bilinear", align_corners=False)

    def restore(self, logits: Tensor, inner: Sequence[int], original: Sequence[int]) -> Tensor:
        """(N, 1, 4 g, 4 g) → (N, 1, H, W) logits: cut to `inner` (h, w), resized to `original` (H, W)."""
        inside = self.upsample(logits)[..., : inner[0], : inner[1]]
        return F.interpolate(inside, tuple(int(n) for n in original), mode="bilinear", align_corners=False)

    def initialise(self) -> None:
        """Random weights of the transformer for training from scratch, without a SAM checkpoint: truncated normal."""
        for name, parameter in self.image_encoder.sam_img_encoder.named_parameters():
            if name == "pos_embed" or "rel_pos" in name or (name.endswith(".weight") and parameter.ndim == 2):
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name == "patch_embed.proj.weight":
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0].numel()))

    def freeze(self) -> None:
        """The official choice of what is trained: everything but SAM's image encoder.

        Gradients still flow through it to the adapters. Only sensible when its weights are SAM's.
        """
        self.image_encoder.requires_grad_(False)
