"""AutoSAMUS: a SAMUS that prompts itself. The official code is the only source; it was never described or released."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.errors import ModelError
from medseg_cli.models.samus.config import SIZE, SamusConfig
from medseg_cli.models.samus.network import Samus, rgb
from medseg_cli.models.tuning import Parts
from medseg_cli.models.vit import with_channel_norms

OBJECTS = 50
"""Learned tokens; the official code uses what becomes of the first one only."""
HEADS, HEAD = 8, 64
DEPTH = 2
TRAINED = ("prompt_generator.", "feature_adapter.")
"""How the names of what AutoSAMUS adds to SAMUS begin; nothing else is trained."""


class Crossing(nn.Module):
    """Attention of `x` to `y`, both normalised; weights sum to less than one (below)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fn = nn.ModuleDict(
            {
                "to_q": nn.Linear(width, HEADS * HEAD, bias=False),
                "to_kv": nn.Linear(width, 2 * HEADS * HEAD, bias=False),
                "to_out": nn.Sequential(nn.Linear(HEADS * HEAD, width)),
            }
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, N, C) and (B, M, C) → (B, N, C).

        The weights are e^(s - max s) / (1 + Σ e^(s - max s)): the official one is added after the maximum was taken
        off, so that it is no softmax with a zero added, and what it takes away depends on the largest score.
        """
        q = self.fn["to_q"](self.norm1(x)).unflatten(-1, (HEADS, HEAD)).transpose(1, 2)
        k, v = self.fn["to_kv"](self.norm2(y)).unflatten(-1, (2, HEADS, HEAD)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * HEAD**-0.5
        raised = torch.exp(scores - scores.amax(-1, keepdim=True))
        weights = raised / (1 + raised.sum(-1, keepdim=True))
        return self.fn["to_out"]((weights @ v).transpose(1, 2).flatten(2))


class Feeding(nn.Module):
    """Norm and two layers of a perceptron, (B, N, C) → (B, N, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        layers = [nn.Linear(width, 4 * width), nn.ReLU(), nn.Identity(), nn.Linear(4 * width, width)]
        self.fn = nn.ModuleDict({"net": nn.Sequential(*layers)})

    def forward(self, x: Tensor) -> Tensor:
        return self.fn["net"](self.norm(x))


class CrossTransformer(nn.Module):
    """Two sets of tokens that look at each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([Crossing(width), Crossing(width), Feeding(width), Feeding(width)]) for _ in range(DEPTH)
        )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) and (B, M, C) → both."""
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleList)
            a, b = a + layer[0](a, b), b + layer[1](b, a)
            a, b = a + layer[2](a), b + layer[3](b)
        return a, b


class PromptGenerator(nn.Module):
    """Image tokens and the decoder's own tokens → changed image tokens and a prompt."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.object_token = nn.Parameter(torch.randn(1, OBJECTS, width) * 0.02)
        self.cross_token_token = CrossTransformer(width)
        self.token_proj = nn.Linear(width, width)
        self.cross_image_token = CrossTransformer(width)

    def forward(self, image: Tensor, learned: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) and (B, 5, C) → image tokens (B, N, C) and the prompt (B, 1, C)."""
        objects = self.object_token.expand(len(image), -1, -1)
        found, _ = self.cross_token_token(objects, learned)
        image, tokens = self.cross_image_token(image, torch.cat([self.token_proj(found) + objects, learned], dim=1))
        return image, tokens[:, :1]


class AutoSamus(nn.Module):
    """AutoSAMUS with its official keys: SAMUS, all frozen, and a generator of prompts that is trained."""

    def __init__(self, samus: Samus) -> None:
        super().__init__()
        self.config: SamusConfig = samus.config
        self.image_encoder, self.prompt_encoder = samus.image_encoder, samus.prompt_encoder
        self.mask_decoder = samus.mask_decoder
        width = samus.config.prompt_dim
        narrow = width // 4
        self.prompt_generator = PromptGenerator(width)
        layers: list[nn.Module] = []
        for channels, out in ((width, narrow), (narrow, narrow), (narrow, narrow), (narrow, width)):
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), LayerNorm2d(out), nn.GELU()]
        self.feature_adapter = with_channel_norms(nn.Sequential(*layers))

    @property
    def size(self) -> int:
        """Edge S of the square input."""
        return self.config.image_size

    @property
    def mask_size(self) -> int:
        """Edge M of the low-resolution logits."""
        return self.config.mask_size

    def parts(self) -> Parts:
        """What can be tuned of it; the generator of prompts counts as decoder."""
        encoder = self.image_encoder
        decoder = (self.prompt_generator, self.feature_adapter, self.mask_decoder)
        return Parts(encoder, encoder.blocks, decoder, own_adapters=True)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The one object of each image.

        Args:
            images: (B, 1 or 3, 256, 256), in [0, 1].

        Returns:
            `low_res_logits` (B, 1, 128, 128), `masks` (B, 1, 256, 256) logits and `iou` (B, 1).

        Raises:
            ModelError: images of another shape.
        """
        logits, quality = self.decode(self.encode(images))
        full = F.interpolate(logits[:, None], (SIZE, SIZE), mode="bilinear", align_corners=False)
        return {"low_res_logits": logits[:, None], "masks": full, "iou": quality[:, None]}

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 1 or 3, 256, 256) in [0, 1] → `image`: (B, C, 32, 32), SAMUS's own embedding."""
        return {"image": self.image_encoder(rgb(images))}

    def decode(self, embedding: Mapping[str, Tensor], **prompts: Tensor | None) -> tuple[Tensor, Tensor]:
        """The one object of each of B encoded images.

        Args:
            embedding: `encode`.
            **prompts: none, or what a pipeline gives to any network, all None.

        Returns:
            Logits (B, 128, 128) over the whole frame, and predicted IoU (B,); training does not touch the latter.

        Raises:
            ModelError: a prompt.
        """
        given = sorted(name for name, value in prompts.items() if value is not None)
        if given:
            raise ModelError(f"autosamus takes no {' and no '.join(given)}", "it prompts itself; samus takes prompts")
        image, sparse, dense = self.prompted(embedding["image"])
        with torch.autocast(image.device.type, enabled=False):
            position = self.prompt_encoder.get_dense_pe()
        logits, quality = self.mask_decoder(image, position, sparse, dense)
        return logits[:, 0], quality[:, 0]

    def prompted(self, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (B, C, 32, 32) → changed embeddings, sparse (B, 1, C) and dense (B, C, 32, 32) prompts."""
        decoder = self.mask_decoder
        learned = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(embedding), -1, -1)
        tokens, sparse = self.prompt_generator(embedding.flatten(2).transpose(1, 2), learned)
        image = tokens.transpose(1, 2).reshape(embedding.shape)
        return image, sparse, self.feature_adapter(image)

    def freeze(self) -> None:
        """The official choice of what is trained: the generator and the feature adapter."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(TRAINED))
