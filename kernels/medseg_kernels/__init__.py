"""The ops of medseg's models: tensors in, tensors out, nothing but torch (and later triton) imported."""

from medseg_kernels.adapter import adapter
from medseg_kernels.adapter_3d import adapter_3d
from medseg_kernels.attention import attention
from medseg_kernels.conv3d import conv3d
from medseg_kernels.cubic_attention import window_attention
from medseg_kernels.decoder_attention import image_to_token, token_to_image
from medseg_kernels.linear import linear
from medseg_kernels.relpos_attention import relpos_attention
from medseg_kernels.upsample_argmax import upsample_argmax
from medseg_kernels.upscaled_masks import upscaled_masks
from medseg_kernels.volume_patches import volume_patches

__all__ = [
    "adapter",
    "adapter_3d",
    "attention",
    "conv3d",
    "image_to_token",
    "linear",
    "relpos_attention",
    "token_to_image",
    "upsample_argmax",
    "upscaled_masks",
    "volume_patches",
    "window_attention",
]
