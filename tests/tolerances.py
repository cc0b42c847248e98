"""How far an operation may be from its formula in float64: the one table of the kernel tests."""

from __future__ import annotations

import torch

TOLERANCE = {
    torch.float64: (1e-12, 1e-12, 1e-12),
    torch.float32: (2e-6, 4e-6, 2e-6),
    torch.float16: (1e-3, 2e-3, 2e-3),
    torch.bfloat16: (1e-2, 2e-2, 2e-2),
}
"""dtype → relative Frobenius distance of results, of gradients, and of results of PyTorch's attention, which rounds
biases and weights on its way. Triton's interpreter truncates to bfloat16.
"""
KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What the Triton kernels compute in."""
