"""Compiles window_attention's Triton kernels without a GPU; one line per kernel, case and target. Run by its test."""

from __future__ import annotations

import sys

import torch
from compiled_kernels import used
from medseg_kernels import cubic_attention_kernels, cubic_attention_triton

KERNELS = ("forward", "dq", "dkv")
POINTER = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
"""float16 differs from bfloat16 in nothing but the type of its loads."""
ROUNDED = ("qkv", "out", "gradient", "dqkv")
SINGLE = ("products", "lse", "delta", "dproducts")
CASES = [
    (90, torch.bfloat16, 8, 64),
    (90, torch.bfloat16, 8, 80),
    (90, torch.bfloat16, 4, 12),
    (90, torch.float32, 8, 64),
    (80, torch.bfloat16, 8, 64),
    (80, torch.float32, 8, 64),
]
"""Compute capability, dtype, edge of a window, head dimension."""

for capability, dtype, edge, d in CASES:
    qkv = torch.empty(1, edge**3, 3, 2, d, dtype=dtype, device="meta")
    for name in KERNELS:
        kernel = getattr(cubic_attention_kernels, f"{name}_kernel")
        constants = cubic_attention_triton.launch(name, qkv, edge)[1] | {"masked": True}
        options = {key: constants.pop(key) for key in ("num_warps", "num_stages")}
        kinds = {argument: POINTER[dtype] for argument in kernel.arg_names if argument in ROUNDED}
        kinds |= {argument: "*fp32" for argument in kernel.arg_names if argument in SINGLE} | {"sides": "*i8"}
        found = used(kernel, kinds, constants, capability, options)
        sys.stdout.write(f"sm_{capability} {dtype} window {edge} head {d} {name}: {found}\n")
        sys.stdout.flush()
