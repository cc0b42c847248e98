"""Compiles relpos_attention's Triton kernels without a GPU; one line per kernel, dtype and target. Run by its test."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from medseg_kernels import relpos_kernels, relpos_triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

KERNELS = {
    "forward": relpos_kernels.forward_kernel,
    "dq": relpos_kernels.dq_kernel,
    "dkv": relpos_kernels.dkv_kernel,
}
POINTER = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}
"""float16 differs from bfloat16 in nothing but the type of its loads."""
ROUNDED = ("qkv", "out", "gradient", "dqkv")
SINGLE = ("bias_h", "bias_w", "pad_logit", "pad_value", "lse", "delta", "dbias_h", "dbias_w")
CASES = [
    (90, torch.bfloat16, 14, 64),
    (90, torch.bfloat16, 64, 80),
    (90, torch.float32, 64, 64),
    (80, torch.bfloat16, 14, 64),
]
"""Compute capability, dtype, edge of a window, head dimension."""


def compiled(kernel: str, capability: int, dtype: torch.dtype, window: int, d: int) -> bytes:
    """Machine code for aligned pointers, as `relpos_triton.launch` would ask for it."""
    function = KERNELS[kernel]
    qkv = torch.empty(1, window, window, 3, 2, d, dtype=dtype, device="meta")
    options = relpos_triton.launch(kernel, qkv, window, window, by_keys=kernel == "dkv")[2]
    stages, warps = options.pop("num_stages"), options.pop("num_warps")
    if kernel == "forward":
        options["padded"] = True
    names = function.arg_names
    kinds = dict.fromkeys(names, "i32") | dict.fromkeys(options, "constexpr")
    kinds |= {name: POINTER[dtype] for name in names if name in ROUNDED} | {n: "*fp32" for n in names if n in SINGLE}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if kinds[name].startswith("*")}
    source = ASTSource(function, kinds, {(names.index(name),): value for name, value in options.items()}, aligned)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages}).asm["cubin"]


def usage(cubin: bytes) -> str:
    """Registers, stack and shared memory, as the tool that comes with Triton tells them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return next(line.strip() for line in said.splitlines() if "REG:" in line)


for capability, dtype, window, d in CASES:
    for kernel in KERNELS:
        found = usage(compiled(kernel, capability, dtype, window, d))
        sys.stdout.write(f"sm_{capability} {dtype} window {window} head {d} {kernel}: {found}\n")
        sys.stdout.flush()
