"""`Sam3d`: the whole 3DSAM-adapter network, its initial weights and what of it is trained."""

from __future__ import annotations

import math

from torch import Tensor, nn

from medseg_cli.models.sam3d.config import Sam3dConfig
from medseg_cli.models.sam3d.decoder import MaskDecoder
from medseg_cli.models.sam3d.encoder import ImageEncoder
from medseg_cli.models.sam3d.prompt_encoder import PromptEncoder
from medseg_cli.models.tuning import Parts

CALLED = 3
"""Index of the only prompt encoder that the official network calls, on the deepest features."""


class Sam3d(nn.Module):
    """3DSAM-adapter (arXiv 2306.13465).

    State-dict keys are the official ones under `encoder.`, `feature.{0..3}.` and `decoder.`.
    """

    def __init__(self, config: Sam3dConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config)
        self.feature = nn.ModuleList(PromptEncoder(config) for _ in range(4))
        self.decoder = MaskDecoder(config)

    def parts(self) -> Parts:
        """What can be tuned of it."""
        idle = tuple(f"feature.{index}." for index in range(CALLED))
        decoder = (self.feature[CALLED], self.decoder)
        return Parts(self.encoder, self.encoder.blocks, decoder, own_adapters=True, idle=idle)

    def forward(self, image: Tensor, points: Tensor) -> Tensor:
        """Segment one object in each crop.

        Args:
            image: (B, 1 or 3, P, P, P) crop in (D, H, W), normalised as the preset says.
            points: (N, B, 3), columns (d, w, h) in crop voxels, all inside the object: the network knows no sign.

        Returns:
            (B, classes, P, P, P) logits in (D, H, W); softmax over classes, class 1 is the object.
        """
        return self.decode(self.encoder(image), image, points)

    def decode(self, features: list[Tensor], image: Tensor, points: Tensor) -> Tensor:
        """Logits from the encoder's features; encode once, click many times. Shapes as `forward`."""
        return self.decoder([*features[:3], self.feature[CALLED](features[3], points)], image)

    def initialise(self) -> None:
        """Random weights for training from scratch, without a SAM checkpoint: truncated normal for the transformer."""
        for name, parameter in self.encoder.named_parameters():
            if name == "pos_embed" or "rel_pos" in name or (".weight" in name and parameter.ndim == 2):
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name == "depth_embed":
                # Ones carry no order along D; a network that never saw SAM's training needs one.
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.startswith("patch_embed") and parameter.ndim == 4:
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter[0, 0].numel()))

    def freeze(self) -> None:
        """The official choice of what is trained: adapters, norms, necks, depth parts, prompt encoders and decoder."""
        trained = ("depth_embed", "slice_embed", "norm1", "norm2", "adapter", "neck_3d", "rel_pos_d")
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(any(part in name for part in trained))
        for prompt_encoder in self.feature[:CALLED]:
            prompt_encoder.requires_grad_(False)
