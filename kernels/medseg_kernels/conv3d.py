"""3x3x3 convolution, zero padding 1, no bias, always by oneDNN on a CPU.

PyTorch hands small single-precision volumes to a routine of its own that copies every neighbourhood (5 to 8 times
slower on grids of 16³ with 12 to 32 channels), and larger ones to oneDNN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.dispatch import use_reference
from medseg_kernels.linear import onednn


def conv3d(x: Tensor, weight: Tensor) -> Tensor:
    """Convolution that keeps the grid.

    Args:
        x: (B, C, H, W, D), channels-last in memory or not; the result is as x.
        weight: (O, C, 3, 3, 3).

    Returns:
        (B, O, H, W, D).
    """
    direct = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and x.numel() > 0
    if direct and onednn() and not torch.is_autocast_enabled("cpu") and not use_reference():
        return torch.mkldnn_convolution(x, weight, None, (1, 1, 1), (1, 1, 1), (1, 1, 1), 1)
    return conv3d_reference(x, weight)


def conv3d_reference(x: Tensor, weight: Tensor) -> Tensor:
    """PyTorch's own choice. Shapes as `conv3d`."""
    return F.conv3d(x, weight, padding=1)
