"""The 3-D spatial adapter: out = x + relu(up(relu(dwconv3(relu(down x))))) on a channels-last token grid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def spatial_adapter(
    x: Tensor, down_w: Tensor, down_b: Tensor, conv_w: Tensor, conv_b: Tensor, up_w: Tensor, up_b: Tensor
) -> Tensor:
    """Residual bottleneck with a depth-wise 3x3x3 convolution between its two projections.

    Args:
        x: (B, H, W, D, C).
        down_w, down_b: (R, C), (R,).
        conv_w, conv_b: (R, 1, 3, 3, 3), (R,); zero padding 1.
        up_w, up_b: (C, R), (C,).

    Returns:
        (B, H, W, D, C).
    """
    return spatial_adapter_reference(x, down_w, down_b, conv_w, conv_b, up_w, up_b)


def spatial_adapter_reference(
    x: Tensor, down_w: Tensor, down_b: Tensor, conv_w: Tensor, conv_b: Tensor, up_w: Tensor, up_b: Tensor
) -> Tensor:
    """The formula in plain PyTorch. Shapes as `spatial_adapter`."""
    hidden = torch.relu(F.linear(x, down_w, down_b))
    # The permuted view stays channels-last in memory, which is the layout in which depth-wise convolutions are fast.
    hidden = F.conv3d(hidden.permute(0, 4, 1, 2, 3), conv_w, conv_b, padding=1, groups=conv_w.shape[0])
    hidden = torch.relu(hidden).permute(0, 2, 3, 4, 1)
    return x + torch.relu(F.linear(hidden, up_w, up_b))
