"""SAM's image and prompt encoder in the shells that the official keys have."""

from __future__ import annotations

from torch import nn

from medseg_cli.models.sam_encoders import image_encoder, prompt_encoder
from medseg_cli.models.sam_unet.config import SamUnetConfig


class SamImageEncoder(nn.Module):
    """SAM's vision transformer, under the name that the checkpoint gives it."""

    def __init__(self, config: SamUnetConfig) -> None:
        super().__init__()
        self.sam_img_encoder = image_encoder(config, config.mlp_ratio)


class SamPromptEncoder(nn.Module):
    """SAM's prompt encoder, under the name that the checkpoint gives it."""

    def __init__(self, config: SamUnetConfig) -> None:
        super().__init__()
        self.sam_prompt_encoder = prompt_encoder(config)
