"""Time and memory of medseg's ops and of 3DSAM-adapter's parts: `make bench`, or with --json PATH for the figures.

Every row is measured beside its baseline in the same run; the ratio is what counts. Inputs are seeded random numbers
in the shapes that the pipelines use. A row's results must agree before its times are printed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from medseg_kernels import attention, volume_patches
from medseg_kernels.attention import attention_reference
from medseg_kernels.volume_patches import volume_patches_reference
from torch import Tensor

import medseg_cli
from medseg_cli import preset

REPEATS = 5


@dataclass(frozen=True)
class Row:
    """One comparison: median milliseconds of baseline and ours, their ratio, the largest relative difference."""

    what: str
    baseline_ms: float
    ours_ms: float
    ratio: float
    difference: float


def clock(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The result, and the median wall time in milliseconds of `REPEATS` runs after one warm-up."""
    result = run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return result, statistics.median(times)


def compare(what: str, baseline: Callable[[], Tensor], ours: Callable[[], Tensor], tolerance: float = 1e-4) -> Row:
    """Measure both; refuses to report a speed whose results differ."""
    expected, slow = clock(baseline)
    result, fast = clock(ours)
    difference = float((result - expected).abs().max() / expected.abs().max())
    if not difference < tolerance:
        raise SystemExit(f"{what}: results differ by {difference:.1e}, no speed is reported")
    return Row(what, round(slow, 2), round(fast, 2), round(slow / fast, 2), difference)


def measure(device: torch.device) -> list[Row]:
    """All rows on one device."""
    torch.manual_seed(0)
    image_tokens = torch.randn(1, 8, 4096, 16, device=device)
    queries = torch.randn(1, 8, 10, 16, device=device)
    chosen = preset.find("hippocampus-mr")
    network = medseg_cli.load_model(chosen.pipeline, None, **chosen.model).to(device)
    size = network.config.crop_size
    crop = torch.randn(1, 1, size, size, size, device=device)
    three = crop.repeat(1, 3, 1, 1, 1)
    patch, slices = network.encoder.patch_embed.proj, network.encoder.slice_embed
    stem = (patch.weight, patch.bias, slices.weight, slices.bias)
    click = torch.full((1, 1, 3), size / 2, device=device)
    second = click + 3
    features = network.encoder(crop)

    def two_clicks_one_encoding() -> Tensor:
        kept = network.encoder(crop)
        return network.decode(kept, crop, click) + network.decode(kept, crop, second)

    return [
        compare(
            "attention, image to 10 queries, 4096 tokens (baseline: explicit softmax)",
            lambda: attention_reference(image_tokens, queries, queries),
            lambda: attention(image_tokens, queries, queries),
        ),
        compare(
            "stem of the embedded network (baseline: slice by slice, three equal channels, as the official code)",
            lambda: volume_patches_reference(three, *stem, 1),
            lambda: volume_patches(crop, *stem, 1),
        ),
        compare(
            "two objects in one crop (baseline: encode for each, as the official code)",
            lambda: network(crop, click) + network(crop, second),
            two_clicks_one_encoding,
        ),
        compare(
            "decoder on kept features (baseline: whole network)",
            lambda: network(crop, click),
            lambda: network.decode(features, crop, click),
        ),
    ]


def main() -> None:
    """Print the table; with --json also write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", help="file for the figures")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    hardware = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    )
    with torch.inference_mode():
        rows = measure(device)
    setting = {
        "device": str(device),
        "hardware": hardware,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    sys.stdout.write(", ".join(f"{key} {value}" for key, value in setting.items()) + "\n")
    for row in rows:
        sys.stdout.write(f"{row.baseline_ms:9.2f} ms -> {row.ours_ms:9.2f} ms  x{row.ratio:<6.2f} {row.what}\n")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({**setting, "seed": 0, "rows": [asdict(row) for row in rows]}, file, indent=1)


if __name__ == "__main__":
    main()
