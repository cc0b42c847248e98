"""The bottleneck adapter: out = x + scale * up(act(down(x))), with a LayerNorm in front where the method has one.

x is wide and everything else narrow, so the operation is bound by reading x and writing out. The Triton kernels do all
of it for a block of rows, forward and backward (`adapter_triton` says how, and which products are a library's).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.dispatch import use_reference, use_triton
from medseg_kernels.linear import linear

Activation = Literal["relu", "gelu"]

WIDEST, LARGEST = 512, 2**31
"""What the kernels take at most: width of the middle, elements (their offsets are 32-bit numbers)."""


def adapter(
    x: Tensor,
    down_w: Tensor,
    down_b: Tensor,
    up_w: Tensor,
    up_b: Tensor,
    activation: Activation = "gelu",
    norm_w: Tensor | None = None,
    norm_b: Tensor | None = None,
    scale: float = 1.0,
    residual: bool = True,
    eps: float = 1e-5,
) -> Tensor:
    """Bottleneck with residual.

    Args:
        x: (..., C).
        down_w, down_b: (R, C), (R,).
        up_w, up_b: (C, R), (C,).
        activation: between the projections; "gelu" is the exact one.
        norm_w, norm_b: (C,) both or neither; LayerNorm in front of the first projection, not of the residual.
        scale: factor of the second projection's result.
        residual: whether x is added.
        eps: of the LayerNorm.

    Returns:
        (..., C); dtype of x under Triton, elsewhere what PyTorch makes of the dtypes.
    """
    weights = (down_w, down_b, up_w, up_b, norm_w, norm_b)
    if x.is_cuda and use_triton(x, *weights) and 0 < x.numel() < LARGEST and len(down_w) <= WIDEST:
        from medseg_kernels.adapter_triton import adapter_triton

        # Inside a custom operator autocast does nothing, so its dtype is chosen here; the kernel rounds to that of W.
        work = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        down_w, up_w = down_w.to(work), up_w.to(work)
        return adapter_triton(
            x.contiguous(), down_w, down_b, up_w, up_b, activation, norm_w, norm_b, scale, residual, eps
        )
    if use_reference():
        return adapter_reference(x, down_w, down_b, up_w, up_b, activation, norm_w, norm_b, scale, residual, eps)
    inner = x if norm_w is None else F.layer_norm(x, x.shape[-1:], norm_w, norm_b, eps)
    out = linear(linear(inner, down_w, down_b, activation), up_w, up_b)
    if not residual:
        return out * scale
    return x + out if scale == 1 else torch.add(x, out, alpha=scale)


def adapter_reference(
    x: Tensor,
    down_w: Tensor,
    down_b: Tensor,
    up_w: Tensor,
    up_b: Tensor,
    activation: Activation = "gelu",
    norm_w: Tensor | None = None,
    norm_b: Tensor | None = None,
    scale: float = 1.0,
    residual: bool = True,
    eps: float = 1e-5,
) -> Tensor:
    """The formula in plain PyTorch. Arguments as `adapter`."""
    inner = x if norm_w is None else F.layer_norm(x, x.shape[-1:], norm_w, norm_b, eps)
    middle = F.linear(inner, down_w, down_b)
    middle = F.gelu(middle) if activation == "gelu" else torch.relu(middle)
    out = F.linear(middle, up_w, up_b) * scale
    return x + out if residual else out
