"""The 3-D adapter: out = x + relu(up(relu(dwconv3(relu(down x))))) on a channels-last token grid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.depthwise_conv3d import depthwise_conv3d, depthwise_conv3d_reference
from medseg_kernels.dispatch import use_reference
from medseg_kernels.linear import linear


def adapter_3d(
    x: Tensor, down_w: Tensor, down_b: Tensor, conv_w: Tensor, conv_b: Tensor, up_w: Tensor, up_b: Tensor
) -> Tensor:
    """Residual bottleneck with a depth-wise 3x3x3 convolution between its two projections.

    The projections are matrix products that a library does best; activations are put into their results in place.

    Args:
        x: (B, H, W, D, C).
        down_w, down_b: (R, C), (R,).
        conv_w, conv_b: (R, 1, 3, 3, 3), (R,); zero padding 1.
        up_w, up_b: (C, R), (C,).

    Returns:
        (B, H, W, D, C).
    """
    if use_reference():
        return adapter_3d_reference(x, down_w, down_b, conv_w, conv_b, up_w, up_b)
    hidden = linear(x, down_w, down_b, "relu")
    hidden = depthwise_conv3d(hidden, conv_w, conv_b, relu=True)
    out = linear(hidden, up_w, up_b, "relu")
    # The gradient of an activation needs its result, so only inference may add into it.
    return x + out if out.requires_grad else out.add_(x) if out.dtype == x.dtype else x + out


def adapter_3d_reference(
    x: Tensor, down_w: Tensor, down_b: Tensor, conv_w: Tensor, conv_b: Tensor, up_w: Tensor, up_b: Tensor
) -> Tensor:
    """The formula in plain PyTorch. Shapes as `adapter_3d`."""
    hidden = torch.relu(F.linear(x, down_w, down_b))
    hidden = torch.relu(depthwise_conv3d_reference(hidden, conv_w, conv_b))
    return x + torch.relu(F.linear(hidden, up_w, up_b))
