"""y = activation(x Wᵀ + b) with the fastest matrix product that the processor has for the dtype.

PyTorch takes single-precision products to MKL, which reaches half of what oneDNN does on processors that are not
Intel's (Zen 5, one core: 90 against 170 to 210 GFLOP/s, both exact to rounding). oneDNN also applies the activation
while a result is still in registers. Its operation has no gradient and no autocast, so it serves inference only.
"""

from __future__ import annotations

import platform
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.dispatch import use_reference

Activation = Literal["none", "relu", "gelu"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """Linear layer and activation.

    Args:
        x: (..., I).
        weight: (O, I).
        bias: (O,) or None.
        activation: "gelu" is the exact one.

    Returns:
        (..., O).
    """
    if use_reference():
        return linear_reference(x, weight, bias, activation)
    # torch.compile takes a product by its name, and fuses the activation itself.
    if not torch.compiler.is_compiling() and use_onednn(x, weight, bias):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
    y = F.linear(x, weight, bias)
    if activation == "gelu":
        return F.gelu(y)
    return y.relu_() if activation == "relu" else y


def linear_reference(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none") -> Tensor:
    """The formula in plain PyTorch. Shapes as `linear`."""
    y = F.linear(x, weight, bias)
    return {"none": lambda: y, "relu": lambda: torch.relu(y), "gelu": lambda: F.gelu(y)}[activation]()


def onednn() -> bool:
    """Whether oneDNN can be asked directly: x86 only, since on other processors some of it runs as plain loops."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return x86 and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def use_onednn(x: Tensor, *others: Tensor | None) -> bool:
    """Whether oneDNN's own product takes these tensors: on a CPU, of one dtype, no autocast, no gradient wanted.

    Contiguous ones only: for a transposed weight oneDNN falls back to a loop a hundred times slower.
    """
    given = [x, *(other for other in others if other is not None)]
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == x.dtype and tensor.is_contiguous() for tensor in given)
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given))
        and onednn()
    )
