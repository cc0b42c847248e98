"""Multi-head attention without bias: o = softmax(q kᵀ / sqrt(d)) v, per head."""

from __future__ import annotations

import torch
from torch import Tensor

from medseg_kernels.dispatch import use_reference


def attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The formula, term by term. Shapes as `attention`."""
    weights = torch.softmax((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5, dim=-1)
    return weights @ v


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention.

    Args:
        q: (B, heads, N, d).
        k, v: (B, heads, M, d).

    Returns:
        (B, heads, N, d), dtype of q.
    """
    if use_reference():
        return attention_reference(q, k, v)
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)
