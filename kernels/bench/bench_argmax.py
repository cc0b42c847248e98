"""Label maps of many classes at the size of the scan: ours against interpolation of all logits; seeded input.

Run by itself, `bench_argmax.py memory original|ours DEVICE` prints the bytes that one label map adds to a process.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from measuring import Row, compare
from medseg_kernels import upsample_argmax
from medseg_kernels.upsample_argmax import upsample_argmax_reference
from peak_memory import in_fresh_process, peak
from torch import Tensor

CLASSES, COARSE, FINE = 14, (64, 64, 64), (192, 192, 192)


def organs(noise: float) -> Tensor:
    """(C, D, H, W) logits: every class has a region around a point of its own, with noise on top."""
    torch.manual_seed(0)
    cells = torch.stack(torch.meshgrid(*[torch.linspace(0, 1, size) for size in COARSE], indexing="ij"), -1)
    logits = torch.empty(CLASSES, *COARSE)
    for index, centre in enumerate(torch.rand(CLASSES, 3)):
        logits[index] = -40 * (cells - centre).norm(dim=-1)
    return logits + noise * torch.randn(logits.shape)


def rows(device: torch.device) -> list[Row]:
    """14 classes, 64³ to 192³: as a network makes them, and the worst case: every class may win anywhere."""
    what = f"label map of {CLASSES} classes, 64³ to 192³"
    base = "(baseline: all logits interpolated, then argmax)"
    cases = {"": organs(0.3).to(device), ", noise only": torch.randn(CLASSES, *COARSE).to(device)}
    return [
        compare(
            f"{what}{name} {base}",
            partial(upsample_argmax_reference, logits, FINE),
            partial(upsample_argmax, logits, FINE),
            # A share of 1e-5: voxels whose classes differ by rounding may have either.
            3e-3,
        )
        for name, logits in cases.items()
    ]


def memory(device: torch.device) -> dict[str, float]:
    """Peak MB beyond the logits, of the plain way and of ours."""
    return {name: in_fresh_process(__file__, "memory", name, str(device)) for name in ("original", "ours")}


def _peak(name: str, device: torch.device) -> int:
    op = upsample_argmax_reference if name == "original" else upsample_argmax
    return peak(partial(op, organs(0.3).to(device), FINE), device)


if __name__ == "__main__":
    sys.stdout.write(f"{_peak(sys.argv[2], torch.device(sys.argv[3]))}\n")
