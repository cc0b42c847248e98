"""Compiles the adapters' Triton kernels without a GPU; one line per kernel, dtype and target. Run by its test."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from medseg_kernels.adapter import BLOCKS, adapter_kernel, split
from medseg_kernels.depthwise_conv3d import BLOCK, stencil_kernel, weight_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

POINTER = {"float32": "*fp32", "bfloat16": "*bf16"}
"""float16 differs from bfloat16 in nothing but the type of its loads."""
STENCIL = ("x", "taps", "bias", "gate", "y", "count", "h", "w", "d", "channels")
WEIGHTS = ("gradient", "x", "gate", "dw", "db", "count", "h", "w", "d", "channels", "blocks")
ADAPTER = ("x", "down_w", "down_b", "up_w", "up_b", "norm_w", "norm_b", "y", "count", "channels", "middle")


def source(kernel: triton.JITFunction, tensors: dict[str, str], numbers: dict[str, str], constants: dict) -> ASTSource:
    """The kernel for aligned pointers and for sizes that are multiples of 16, as the models have them."""
    names = kernel.arg_names
    kinds = {name: tensors.get(name) or numbers.get(name) or "constexpr" for name in names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if name in tensors or name in ("channels", "middle")
    }
    return ASTSource(kernel, kinds, {(names.index(name),): value for name, value in constants.items()}, aligned)


def sources(dtype: str):
    """(what, source, warps) of every kernel."""
    block = {"block_p": BLOCK["positions"], "block_r": BLOCK["channels"]}
    warps = BLOCK["warps"]
    pointer = POINTER[dtype]
    sizes = dict.fromkeys(("count", "h", "w", "d", "channels", "blocks", "middle"), "i32")
    plain = dict.fromkeys(("x", "gate", "y", "gradient"), pointer)
    single = dict.fromkeys(("taps", "bias", "dw", "db"), "*fp32")
    stencil = {"has_bias": True, "has_gate": False, "relu": True, **block}
    yield "stencil", source(stencil_kernel, plain | single, sizes, stencil), warps
    mirrored = {"has_bias": False, "has_gate": True, "relu": False, **block}
    yield "stencil of the gradient", source(stencil_kernel, plain | single, sizes, mirrored), warps
    yield "weights", source(weight_kernel, plain | single, sizes, {"has_gate": True, **block}), warps
    pointers = dict.fromkeys(ADAPTER[:8], pointer)
    for middle in (192, 384):
        rows, channels, warps = next(BLOCKS[limit] for limit in BLOCKS if middle <= limit)
        first, second = split(middle)
        constants = {"gelu": True, "has_norm": True, "residual": True, "upcast": False, "first": first}
        constants |= {"second": second, "block_t": rows, "block_c": channels}
        numbers = {**sizes, "scale": "fp32", "eps": "fp32"}
        yield f"adapter {middle}", source(adapter_kernel, pointers, numbers, constants), warps


def usage(cubin: bytes) -> str:
    """Registers, stack and shared memory, as the tool that comes with Triton tells them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return next(line.strip() for line in said.splitlines() if "REG:" in line)


for capability in (80, 90):
    for dtype in POINTER:
        for what, made, warps in sources(dtype):
            built = triton.compile(made, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
            sys.stdout.write(f"sm_{capability} {dtype} {what}: {usage(built.asm['cubin'])}\n")
            sys.stdout.flush()
