"""Compiles the adapters' Triton kernels without a GPU; one line per kernel, dtype and target. Run by its test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import triton
from compiled_kernels import CAPABILITIES, POINTER, used
from medseg_kernels.adapter_kernels import backward_kernel, forward_kernel
from medseg_kernels.adapter_triton import BLOCKS, BLOCKS_BACK, launch
from medseg_kernels.depthwise_conv3d import BLOCK, stencil_kernel, weight_kernel

SINGLE = ("taps", "bias", "dw", "db", "weight_sum", "bias_sum", "ddown_b", "dup_b")
NUMBERS = {
    **dict.fromkeys(("count", "h", "w", "d", "channels", "blocks", "middle"), "i32"),
    **dict.fromkeys(("scale", "eps"), "fp32"),
}
MIDDLES = (64, 192, 384)


def cases(dtype: str) -> Iterator[tuple[str, triton.JITFunction, dict[str, Any]]]:
    """(what, kernel, compile-time values and number of warps)."""
    block = {"block_p": BLOCK["positions"], "block_r": BLOCK["channels"], "num_warps": BLOCK["warps"]}
    yield "stencil", stencil_kernel, {"has_bias": True, "has_gate": False, "relu": True, **block}
    mirrored = {"has_bias": False, "has_gate": True, "relu": False, **block}
    yield "stencil of the gradient", stencil_kernel, mirrored
    yield "weights", weight_kernel, {"has_gate": True, **block}
    choices = {"gelu": True, "has_norm": True, "residual": True}
    for middle in MIDDLES:
        yield f"adapter {middle}", forward_kernel, launch(BLOCKS, 4096, middle)[1] | choices
        if dtype != "float32":  # products that are left to cuBLAS
            yield f"gradient of adapter {middle}", backward_kernel, launch(BLOCKS_BACK, 4096, middle)[1] | choices


for capability in CAPABILITIES:
    for dtype, pointer in POINTER.items():
        for what, kernel, constants in cases(dtype):
            warps = {"num_warps": constants.pop("num_warps")}
            kinds = {name: "*fp32" if name in SINGLE else NUMBERS.get(name, pointer) for name in kernel.arg_names}
            found = used(kernel, kinds, constants, capability, warps, round_sizes=("channels", "middle"))
            sys.stdout.write(f"sm_{capability} {dtype} {what}: {found}\n")
            sys.stdout.flush()
