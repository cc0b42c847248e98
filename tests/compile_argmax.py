"""Compiles upsample_argmax's Triton kernel without a GPU; one line per dtype and target. Run by its test."""

from __future__ import annotations

import sys

from compiled_kernels import CAPABILITIES, POINTER, used
from medseg_kernels.upsample_argmax_triton import BLOCK, argmax_kernel

TABLES = {f"{kind}_{axis}": pointer for kind, pointer in (("lower", "*i32"), ("weight", "*fp32")) for axis in "ijk"}
CONSTANTS = {"rows": BLOCK["voxels"] // BLOCK["widest"], "block": BLOCK["widest"]}

for capability in CAPABILITIES:
    for dtype, pointer in POINTER.items():
        kinds = {"logits": pointer, "labels": "*u8", **TABLES}
        found = used(argmax_kernel, kinds, CONSTANTS, capability, {"num_warps": BLOCK["warps"]})
        sys.stdout.write(f"sm_{capability} {dtype}: {found}\n")
