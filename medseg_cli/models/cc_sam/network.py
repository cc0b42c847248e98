"""`CcSam`: encoder, text and other prompts, decoder, and what of them is trained. Our reconstruction of CC-SAM."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.errors import ModelError
from medseg_cli.models.cc_sam.config import CcSamConfig
from medseg_cli.models.cc_sam.encoder import CcSamEncoder
from medseg_cli.models.cc_sam.table import TextRows
from medseg_cli.models.cc_sam.text import TextPrompt
from medseg_cli.models.prompts import check_prompts
from medseg_cli.models.sam_encoders import prompt_encoder
from medseg_cli.models.samus.config import SIZE
from medseg_cli.models.samus.network import TRAINED, mask_decoder, rgb, vision_transformer
from medseg_cli.models.tuning import Parts

_OURS = (*TRAINED, "cnn_proj", ".vaf.", "tail_scale", "text_prompt.")
"""Parts of the names of what is trained, besides the position tables of the global blocks."""


class CcSam(nn.Module):
    """CC-SAM (arXiv 2408.00181) as we reconstruct it; coordinates are pixels (x, y) of the 256 x 256 frame.

    From the paper's readable parts: a frozen CNN beside SAM's transformer, fusion weighted by certainty, five feature
    adapters and one position adapter, text and boxes as prompts. Equations, taps, sizes and losses are ours.
    """

    def __init__(self, config: CcSamConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = CcSamEncoder(config, vision_transformer(config.samus))
        self.prompt_encoder = prompt_encoder(config.samus)
        self.mask_decoder = mask_decoder(config.samus)
        self.text_prompt = TextPrompt(config.text_dim, config.samus.prompt_dim) if config.text else None
        rows = dict(config.text_rows)
        self.text_rows = TextRows(rows, config.text_dim) if rows and config.text else None

    @property
    def size(self) -> int:
        """Edge S of the square input."""
        return self.config.samus.image_size

    @property
    def mask_size(self) -> int:
        """Edge M of a mask prompt."""
        return self.config.samus.mask_size

    def parts(self) -> Parts:
        """What can be tuned of it; without adapters of its own it gets bottlenecks like SAM."""
        encoder = self.image_encoder
        return Parts(encoder, encoder.blocks, (self.mask_decoder,), own_adapters=self.config.adapters)

    def forward(
        self,
        images: Tensor,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        text: Tensor | None = None,
        multimask: bool = False,
        n_samples: int = 0,
        noise: torch.Generator | None = None,
    ) -> dict[str, Any]:
        """One prompted object in each image of a batch; without any prompt, what the network takes for the object.

        Args:
            images: (B, 1 or 3, 256, 256), grey values or RGB in [0, 1].
            points, labels: (B, P, 2) xy and (B, P), 1 inside, 0 outside, -1 padding.
            boxes: (B, 4) corners x0 y0 x1 y1.
            masks: (B, 1, 128, 128) logits.
            text: (B, E) embedded sentences.
            multimask: the three masks for ambiguous prompts instead of the one.
            n_samples: above 0, the latents are drawn that often instead of taken by their means, logits are averaged,
                and the variance of the probability says where the network is uncertain. Training draws once.
            noise: generator of all noise, on the images' device; None = PyTorch's own.

        Returns:
            `low_res_logits` (B, n, 128, 128), `masks` (B, n, 256, 256) logits, `iou` (B, n), `kl` in nats, `gate`: the
            CNN's weight in each fusing block (B, 32, 32), and with `n_samples` `variance` (B, n, 256, 256).

        Raises:
            ModelError: tensors of other shapes, or of unequal length.
        """
        images = rgb(images)
        sparse, dense = self.embed(boxes, points, labels, masks, text, len(images), noise)
        kept = slice(1, None) if multimask else slice(0, 1)
        drawn, begun = [], self.image_encoder.begun(images)
        for _ in range(max(1, n_samples)):
            encoded = self.image_encoder.finished(begun, noise, sampled=self.training or n_samples > 0)
            logits, quality = self.mask_decoder(encoded.image, self.position(), sparse, dense)
            drawn.append((logits[:, kept], quality[:, kept]))
        low = torch.stack([logits for logits, _ in drawn]).mean(0)
        found: dict[str, Any] = {
            "low_res_logits": low,
            "masks": enlarged(low),
            "iou": torch.stack([quality for _, quality in drawn]).mean(0),
            "kl": encoded.divergence,
            "gate": encoded.shares,
        }
        if n_samples:
            each = torch.stack([enlarged(logits).sigmoid() for logits, _ in drawn])
            found["variance"] = each.var(0, correction=0)
        return found

    @property
    def has_latents(self) -> bool:
        """Whether drawing from them gives other masks than their means."""
        return self.config.fusion in ("vaf", "convex", "gate")

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 1 or 3, 256, 256) in [0, 1] → `image`: (B, C, 32, 32), by the means of the latents."""
        return {"image": self.image_encoder(rgb(images)).image}

    def encodings(self, images: Tensor, noises: Iterable[Sequence[torch.Generator]]) -> Iterator[dict[str, Tensor]]:
        """`encode` with latents that are drawn, again and again; what no noise reaches is computed once.

        Args:
            images: as in `encode`.
            noises: per answer a generator on the CPU for each image.
        """
        begun = self.image_encoder.begun(rgb(images))
        for noise in noises:
            yield {"image": self.image_encoder.finished(begun, noise, sampled=True).image}

    def decode(
        self,
        embedding: Mapping[str, Tensor],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
        text: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks of N prompts in one encoded image; arguments as `forward` with N for B, N = 1 without any prompt.

        Returns:
            Logits (N, 128, 128) over the whole frame, and predicted IoU (N,).

        Raises:
            ModelError: prompts of other shapes, unequal in number, or points without labels.
        """
        count = next((len(each) for each in (boxes, points, masks, text) if each is not None), 1)
        sparse, dense = self.embed(boxes, points, labels, masks, text, count)
        logits, quality = self.mask_decoder(embedding["image"], self.position(), sparse, dense)
        return logits[:, 0], quality[:, 0]

    def embed(
        self,
        boxes: Tensor | None,
        points: Tensor | None,
        labels: Tensor | None,
        masks: Tensor | None,
        text: Tensor | None,
        count: int,
        noise: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Prompts → sparse (B, tokens, C), in the order box, clicks, text, and dense (B, C, 32, 32) embeddings."""
        check_prompts("cc-sam", self.mask_size, {"boxes": boxes, "points": points, "labels": labels, "masks": masks})
        if text is not None and (text.ndim != 2 or text.shape[1] != self.config.text_dim):
            raise ModelError(f"cc-sam: text of shape {tuple(text.shape)}", f"expected (N, {self.config.text_dim})")
        given = {len(each) for each in (boxes, points, masks, text) if each is not None}
        if given - {count}:
            raise ModelError(f"cc-sam: {sorted(given)} prompts for {count} images", "give one of each to each image")
        if text is not None and self.text_prompt is None:
            raise ModelError("cc-sam: this network was built without text", "leave the text out")
        encoder = self.prompt_encoder
        # In half precision, coordinates would be off by pixels.
        with torch.autocast(self.image_encoder.pos_embed.device.type, enabled=False):
            tokens = [] if boxes is None else [encoder(None, boxes, None)[0]]
            if points is not None and labels is not None:
                tokens.append(encoder._embed_points(points, labels, pad=boxes is None))
            dense = encoder(None, None, masks)[1].expand(count, -1, -1, -1)
            if self.text_prompt is not None:
                tokens.append(self.text_prompt(text, count, noise))
            nothing = dense.new_zeros(count, 0, dense.shape[1])
            return torch.cat([nothing, *tokens], dim=1), dense

    def position(self) -> Tensor:
        """(1, C, 32, 32) positional encoding of the token grid."""
        with torch.autocast(self.image_encoder.pos_embed.device.type, enabled=False):
            return self.prompt_encoder.get_dense_pe()

    def freeze(self) -> None:
        """What is trained: projections of the CNN, fusion, adapters, tables of the global blocks, the text's token."""
        tables = {
            f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            for block in self.config.samus.global_attn_indexes
            for axis in "hw"
        }
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in tables or any(part in name for part in _OURS))


def enlarged(logits: Tensor) -> Tensor:
    """(B, n, 128, 128) → (B, n, 256, 256)."""
    return F.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)
