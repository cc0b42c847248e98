"""Triton kernels as machine code for a GPU that is not here, and what they use of it. For the tests' compile_*.py."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

POINTER = {"float32": "*fp32", "bfloat16": "*bf16"}
"""float16 differs from bfloat16 in nothing but the type of its loads."""
CAPABILITIES = (80, 90)


def used(
    kernel: triton.JITFunction,
    kinds: Mapping[str, str],
    constants: Mapping[str, object],
    capability: int,
    options: Mapping[str, int],
    round_sizes: Iterable[str] = (),
) -> str:
    """Registers, stack and shared memory of a kernel, as the tool that comes with Triton tells them.

    Args:
        kernel: compiled for aligned pointers.
        kinds: of its arguments; those not named are 32-bit whole numbers.
        constants: its compile-time values.
        capability: 80 or 90.
        options: num_warps and num_stages.
        round_sizes: arguments that are multiples of 16, as models have them.
    """
    names = kernel.arg_names
    every = dict.fromkeys(names, "i32") | dict(kinds) | dict.fromkeys(constants, "constexpr")
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if every[name].startswith("*") or name in round_sizes
    }
    source = ASTSource(kernel, every, {(names.index(name),): value for name, value in constants.items()}, aligned)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(options))
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return next(line.strip() for line in said.splitlines() if "REG:" in line)
