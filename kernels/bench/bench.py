"""Time and memory of medseg's ops and networks: `make bench`, or with --json PATH for the figures.

Every row is measured beside its baseline in the same run; the ratio is what counts. Inputs are seeded random numbers
in the shapes that the pipelines use. A row's results must agree before its times are printed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict
from functools import partial

import bench_argmax
import bench_gpu
import bench_sam
import bench_sam3d
import kernel_page
import measuring
import torch
from measuring import Row, compare
from medseg_kernels import attention, volume_patches
from medseg_kernels.attention import attention_reference
from medseg_kernels.volume_patches import volume_patches_reference
from torch import Tensor

import medseg_cli
from medseg_cli import preset


def measure(device: torch.device) -> list[Row]:
    """Single ops and 3DSAM-adapter."""
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


PARTS = {"ops": measure, "argmax": bench_argmax.rows, "sam": bench_sam.rows, "sam3d": bench_sam3d.rows}
MEMORY = {
    "argmax": ("label map of 14 classes at 192³", bench_argmax.memory),
    "sam": ("ViT-B encoder, 1024 px", partial(bench_sam.memory, size=1024)),
    "sam3d": ("3DSAM stem, one block and decoder, 128³ crop", bench_sam3d.memory),
}
"""What a forward pass in float32 adds to weights and input, by part."""


def main() -> None:
    """Print the table; with --json also write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", choices=[*PARTS, "gpu"], help="one part; all when left out")
    parser.add_argument("--clock", choices=measuring.CLOCKS, default="wall", help="cpu: on a busy machine, one thread")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--page", help="file for the tables, as Markdown")
    arguments = parser.parse_args()
    measuring.chosen[0] = arguments.clock
    device = torch.device(arguments.device)
    # Older versions of torch cannot name the processor.
    processor = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name") or platform.machine()
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else processor
    chosen = [arguments.only] if arguments.only else [*PARTS, "gpu"]
    with torch.inference_mode():
        rows = [row for part in chosen if part in PARTS for row in PARTS[part](device)]
    memory = {what: measured(device) for part, (what, measured) in MEMORY.items() if part in chosen}
    gpu_rows = bench_gpu.rows(device) if device.type == "cuda" and "gpu" in chosen else None
    facts: dict[str, object] = {
        "device": str(device),
        "hardware": hardware,
        "clock": arguments.clock,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    sys.stdout.write(", ".join(f"{key} {value}" for key, value in facts.items()) + "\n")
    for row in rows:
        sys.stdout.write(
            f"{row.baseline_ms:9.2f} ms -> {row.ours_ms:9.2f} ms  x{row.ratio:<6.2f} {row.difference:.0e} {row.what}\n"
        )
    for what, peak in memory.items():
        ratio = peak["original"] / peak["ours"]
        sys.stdout.write(
            f"{peak['original']:9.0f} MB -> {peak['ours']:9.0f} MB  x{ratio:<6.2f} memory of {what}, fp32\n"
        )
    if gpu_rows is not None:
        sys.stdout.write(bench_gpu.table(gpu_rows))
    elif "gpu" in chosen:
        sys.stdout.write("no CUDA device: G rows not measured\n")
    if arguments.page:
        measured = "No CUDA device: G rows not measured." if gpu_rows is None else bench_gpu.table(gpu_rows)
        with open(arguments.page, "w", encoding="utf-8") as file:
            file.write(kernel_page.page(facts, rows, memory, measured))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            facts |= {"seed": 0, "memory_mb": memory, "rows": [asdict(row) for row in rows]}
            facts["gpu_rows"] = None if gpu_rows is None else [asdict(row) for row in gpu_rows]
            json.dump(facts, file, indent=1)
    if any(row.problem for row in gpu_rows or []):
        sys.exit(1)


if __name__ == "__main__":
    main()
