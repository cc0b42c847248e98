"""Every op on a small input against its formula in float64: what `medseg doctor` asks before it trusts a machine."""

from __future__ import annotations

from math import inf, isfinite

import torch
from torch import Tensor

from medseg_kernels.adapter import adapter, adapter_reference
from medseg_kernels.adapter_3d import adapter_3d, adapter_3d_reference
from medseg_kernels.attention import attention, attention_reference
from medseg_kernels.conv3d import conv3d, conv3d_reference
from medseg_kernels.cubic_attention import window_attention, window_attention_reference
from medseg_kernels.cubic_windows import window_sides
from medseg_kernels.decoder_attention import (
    image_to_token,
    image_to_token_reference,
    token_to_image,
    token_to_image_reference,
)
from medseg_kernels.linear import linear, linear_reference
from medseg_kernels.relpos_attention import relpos_attention, relpos_attention_reference
from medseg_kernels.upsample_argmax import upsample_argmax, upsample_argmax_reference
from medseg_kernels.upscaled_masks import upscaled_masks, upscaled_masks_reference
from medseg_kernels.volume_patches import volume_patches, volume_patches_reference

IN_16_BITS = ("image_to_token", "token_to_image")
ROUNDING = 2e-2
"""Relative distance to float64 that bfloat16 explains."""


def gaps(device: torch.device) -> dict[str, float]:
    """‖op - formula‖ / ‖formula‖ of each op in float32 on `device`, with the block sizes that a run would take.

    What is not a number is infinite. Operations whose kernels exist for 16 bits only are asked in bfloat16 on a GPU;
    of their distance counts what goes beyond rounding.
    """
    source = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source)

    sides = window_sides((16, 16, 16), 8, 4, torch.device("cpu"))
    narrow = (some(24, 48) / 7, some(24), some(48, 24) / 5, some(48))
    spatial = (some(24, 48) / 7, some(24), some(24, 1, 3, 3, 3) / 5, some(24), some(48, 24) / 5, some(48))
    heads3 = (some(8, 512, 3 * 2 * 16), some(15, 16), some(15, 16), some(15, 16))
    heads2 = (some(1, 9, 7, 3 * 2 * 16), some(7, 16), some(7, 16), some(3 * 2 * 16))
    stem = (some(1, 1, 8, 8, 8), some(6, 3, 8, 8), some(6), some(6, 1, 1, 1, 8), some(6))
    places = (some(2, 35, 32), some(1, 35, 32))
    cases = {
        "adapter": (adapter, adapter_reference, (some(70, 48), *narrow)),
        "adapter_3d": (adapter_3d, adapter_3d_reference, (some(1, 5, 4, 6, 48), *spatial)),
        "attention": (attention, attention_reference, (some(1, 2, 17, 8), some(1, 2, 9, 8), some(1, 2, 9, 8))),
        "conv3d": (conv3d, conv3d_reference, (some(1, 4, 5, 6, 7), some(3, 4, 3, 3, 3))),
        "image_to_token": (
            lambda *given: image_to_token(*given[:5], 4, (*given[5:], 1e-5)),
            lambda *given: image_to_token_reference(*given[:5], 4, (*given[5:], 1e-5)),
            (*places, some(2, 12, 32), some(2, 12), some(2, 12, 32), some(32), some(32)),
        ),
        "linear": (linear, linear_reference, (some(33, 48), some(20, 48), some(20))),
        "relpos_attention": (
            lambda qkv, h, w, pad: relpos_attention(qkv, (h, w), pad, 2, 4),
            lambda qkv, h, w, pad: relpos_attention_reference(qkv, (h, w), pad, 2, 4),
            heads2,
        ),
        "upsample_argmax": (
            lambda logits: upsample_argmax(logits, (13, 9, 70)),
            lambda logits: upsample_argmax_reference(logits, (13, 9, 70)),
            (some(5, 6, 4, 9),),
        ),
        "token_to_image": (token_to_image, token_to_image_reference, (some(2, 12, 32) / 4, *places)),
        "upscaled_masks": (
            lambda x, k, w, b, nw, nb, w2, b2: upscaled_masks(x, k, (7, 5), (w, b), (nw, nb, 1e-5), (w2, b2)),
            lambda x, k, w, b, nw, nb, w2, b2: upscaled_masks_reference(x, k, (7, 5), (w, b), (nw, nb, 1e-5), (w2, b2)),
            (places[0], some(2, 3, 16), some(64, 32) / 6, some(64), some(16), some(16), some(64, 16) / 4, some(64)),
        ),
        "volume_patches": (
            lambda *tensors: volume_patches(*tensors, 4),
            lambda *tensors: volume_patches_reference(*tensors, 4),
            stem,
        ),
        "window_attention": (
            lambda qkv, h, w, d: window_attention(qkv, (h, w, d), qkv.new_tensor(0.5), 2, 8, sides.to(device)),
            lambda qkv, h, w, d: window_attention_reference(qkv, (h, w, d), qkv.new_tensor(0.5), 2, 8, sides),
            heads3,
        ),
    }
    found = {}
    with torch.inference_mode():
        for name, (op, formula, tensors) in cases.items():
            halved = device.type == "cuda" and name in IN_16_BITS
            if halved:
                tensors = tuple(tensor.bfloat16() for tensor in tensors)
            exact = formula(*(tensor.double() for tensor in tensors)).double()
            result = op(*(tensor.to(device) for tensor in tensors)).cpu().double()
            gap = float((result - exact).norm() / exact.norm())
            found[name] = inf if not isfinite(gap) else max(0.0, gap - ROUNDING) if halved else gap
    return found
