"""Compiles the mask decoder's Triton kernels without a GPU; one line per kernel, dtype and target. Run by its test."""

from __future__ import annotations

import sys

from compiled_kernels import CAPABILITIES, used
from medseg_kernels import decoder_triton, upscaled_triton

ROUNDED = ("queries", "places", "position", "keys", "values", "out", "kernels", "first_w", "first_b")
ROUNDED += ("second_w", "second_b")
SINGLE = dict.fromkeys(("shift", "mixed", "peak", "total", "weight", "bias", "norm_w", "norm_b"), "*fp32") | {
    "eps": "fp32"
}

for capability in CAPABILITIES:

    def show(what: str, kernel, pointer: str, constants: dict, warps: int, capability: int = capability) -> None:
        kinds = {n: kind for n, kind in (dict.fromkeys(ROUNDED, pointer) | SINGLE).items() if n in kernel.arg_names}
        found = used(kernel, kinds, constants, capability, {"num_warps": warps, "num_stages": 2})
        sys.stdout.write(f"sm_{capability} {what}: {found}\n")
        sys.stdout.flush()

    block, warps = decoder_triton.BLOCKS["token_to_image"]
    sizes = {"width": 256, "up": False, "shared": False}
    rows = {**sizes, "block_r": decoder_triton.ROWS, "block": block}
    show("token_to_image", decoder_triton.rows_kernel, "*bf16", rows, warps)
    show("join", decoder_triton.join_kernel, "*bf16", {"width": 256, "most": 32}, 4)
    block, warps = decoder_triton.BLOCKS["image_to_token"]
    for most in (8, 16):
        constants = {**sizes, "heads": 8, "most": most, "block": block, "piece": decoder_triton.PIECE}
        show(f"image_to_token, {most} tokens", decoder_triton.places_kernel, "*bf16", constants, warps)
    for size, pointer in ((2, "*bf16"), (4, "*fp32")):
        block, warps = upscaled_triton.BLOCKS[size]
        constants = {"channels": 256, "inner": 64, "outer": 32, "most": 16, "block": block, "up": False}
        show(f"upscaled_masks {pointer}", upscaled_triton.pixels_kernel, pointer, constants, warps)
