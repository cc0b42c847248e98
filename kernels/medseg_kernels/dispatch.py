"""Which version of an op runs, decided from the tensors and one variable before anything is launched.

Three versions exist of an op: its Triton kernel, the fast PyTorch one, and the formula (`OP_reference`).

    MEDSEG_KERNELS=triton      (or unset) Triton on CUDA devices, fast PyTorch elsewhere
    MEDSEG_KERNELS=reference   the formula everywhere: slow, and the way to find out whether a kernel is at fault

Triton's interpreter (TRITON_INTERPRET=1, set before triton is imported) also takes CPU tensors; it is for tests.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from torch import Tensor

CHOICES = ("triton", "reference")

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What the kernels compute in; float64 is left to PyTorch."""
HAS_TRITON = find_spec("triton") is not None
"""Triton has no wheel outside Linux; its kernels are then never imported."""
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether Triton's kernels run in its interpreter in this process."""


def choice() -> str:
    """What `MEDSEG_KERNELS` says, "triton" when unset.

    Raises:
        ValueError: it says something else than one of `CHOICES`.
    """
    said = os.environ.get("MEDSEG_KERNELS") or CHOICES[0]
    if said not in CHOICES:
        raise ValueError(f"MEDSEG_KERNELS={said}: use {' or '.join(CHOICES)}")
    return said


def use_reference() -> bool:
    """Whether the formula is to run."""
    return choice() == "reference"


def use_triton(*tensors: Tensor | None) -> bool:
    """Whether a kernel can and should take these tensors; an op adds what its shapes and dtypes have to be."""
    if not HAS_TRITON or use_reference():
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    if any(tensor.dtype not in DTYPES for tensor in given):
        return False
    return INTERPRETED or all(tensor.is_cuda and current(tensor.device) and capable(tensor.device) for tensor in given)


def current(device: torch.device) -> bool:
    """Whether a CUDA device is the one that Triton launches on; a kernel on another one would read foreign memory."""
    return device.index == torch.cuda.current_device()


def capable(device: torch.device) -> bool:
    """Whether a CUDA device is one that the kernels are compiled and tested for: Ampere (sm_80) or later."""
    return torch.cuda.get_device_properties(device).major >= 8
