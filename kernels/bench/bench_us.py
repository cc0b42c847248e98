"""SAMUS and CC-SAM beside their references: `make bench WHAT=us`, PAGE=docs/benchmarks-us.md writes the table.

The reference of SAMUS is what its official code computes, that of CC-SAM (our reconstruction) its formulas, see
`us_formulas`; both on the same random weights. The row of a cine is the embedded fetal-head-us, frame by frame with
`MEDSEG_KERNELS=reference`. A row's results must agree before its times are printed. --small takes seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import measuring
import torch
import us_cine
import us_formulas as plain
from measuring import Row, compare
from torch import Tensor, nn

from medseg_cli.models.cc_sam import checkpoint as cc_sam
from medseg_cli.models.cc_sam.config import config_of as cc_sam_config
from medseg_cli.models.samus import checkpoint as samus
from medseg_cli.models.samus.config import SIZE
from medseg_cli.models.samus.config import config_of as samus_config

EXACT, LEARNT = 1e-4, 1e-3
"""Relative distance in float32 that embeddings and logits, and gradients may have."""
SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 5,
    "num_heads": 2,
    "global_attn_indexes": (1, 2, 3, 4),
    "prompt_dim": 32,
    "decoder_mlp_dim": 32,
}
SMALL_CNN: dict[str, Any] = {"cnn_block": "basic", "cnn_layers": (1, 1, 1, 1), "cnn_stem": 8}
OFFICIAL, FORMULAS = "(baseline: as the official code)", "(baseline: the formulas)"
PACKAGES = ("torch", "torchvision", "segment-anything", "numpy")
_INTRODUCTION = """\
SAMUS beside what its official code computes, CC-SAM (our reconstruction) beside its formulas in plain PyTorch: the same
random weights of ViT-B size, the same pictures of 256 x 256, float32, in one process and in turns. A row whose results
differ by more than a rounding error ends the benchmark; *error* is the distance of the results, relative to the
baseline's. Where prompts or draws are several, the baseline runs the whole network for each. The cine is that of a
user: pictures of 800 x 540, the embedded fetal-head-us with the options of its preset but for the sector, the marks
and the smoothing over time, which a single frame cannot have; its baseline segments one frame after the other with
`MEDSEG_KERNELS=reference`. Each figure is the median of the rounds, at least three unless `--rounds` says less. Read
the ratios: milliseconds are those of one machine at one hour, and with the clock `cpu` they are the processor's.
"""


def seeded(network: Any, seed: int) -> Any:
    """Positions that are not zero, a fusion that says something, in eval mode."""
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "rel_pos" in name or name.endswith("pos_embed"):
            nn.init.normal_(parameter, std=0.3)
        elif ".vaf.out." in name or name.endswith("tail_scale"):
            nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


def clicks(count: int) -> tuple[Tensor, Tensor]:
    """Coordinates (N, 1, 2) xy and labels (N, 1) of clicks on objects of their own."""
    return torch.rand(count, 1, 2) * (SIZE - 1), torch.ones(count, 1, dtype=torch.int64)


def samus_rows(sizes: dict[str, Any], seed: int) -> Iterator[Row]:
    """Encoder, decoder, one and eight clicks, a step of training."""
    network = seeded(samus.random_network(samus_config(sizes), seed), seed)
    decoder = plain.sam_decoder(network.config, network.mask_decoder.state_dict())
    image = torch.rand(1, 3, SIZE, SIZE)
    encode = partial(plain.samus_encode, network.image_encoder, image)

    def official(count: int, encoded: Tensor | None = None) -> Tensor:
        found = []
        for place, sign in zip(*asked[count], strict=True):
            sparse, dense = network.embed(None, place[None], sign[None], None)
            found.append(plain.decoded(decoder, network, encode() if encoded is None else encoded, sparse, dense)[0])
        return torch.cat(found)

    def ours(count: int, encoded: Tensor | None = None) -> Tensor:
        points, labels = asked[count]
        embedding = network.encode(image) if encoded is None else {"image": encoded}
        return network.decode(embedding, points=points, labels=labels)[0]

    asked, known = {count: clicks(count) for count in (1, 8)}, encode()
    yield compare(f"SAMUS encoder {OFFICIAL}", encode, lambda: network.encode(image)["image"], EXACT)
    yield compare(f"SAMUS decoder, 8 clicks {OFFICIAL}", lambda: official(8, known), lambda: ours(8, known), EXACT)
    for count, said in (
        (1, f"1 click {OFFICIAL}"),
        (8, "8 clicks on one picture (baseline: official, called for each)"),
    ):
        yield compare(f"SAMUS, {said}", partial(official, count), partial(ours, count), EXACT)
    network.freeze()
    learns = [each for each in network.parameters() if each.requires_grad]
    # A norm ends the encoder: squares would have next to no gradient.
    wanted = torch.randn_like(known)

    def step(encoded: Callable[[], Tensor]) -> Tensor:
        with torch.enable_grad():
            gradients = torch.autograd.grad((encoded() * wanted).mean(), learns)
        return torch.cat([each.flatten() for each in gradients])

    yield compare(
        f"SAMUS encoder, gradients of all that is trained {OFFICIAL}",
        lambda: step(encode),
        lambda: step(lambda: network.encode(image)["image"]),
        LEARNT,
    )


def cc_sam_rows(sizes: dict[str, Any], seed: int) -> Iterator[Row]:
    """Encoder, encoder and decoder, and variance over one and eight draws; without a prompt."""
    network = seeded(cc_sam.random_network(cc_sam_config(sizes), seed), seed)
    decoder = plain.sam_decoder(network.config.samus, network.mask_decoder.state_dict())
    image, encoder = torch.rand(1, 3, SIZE, SIZE), network.image_encoder

    def formulas() -> Tensor:
        sparse, dense = network.embed(None, None, None, None, None, 1)
        return plain.decoded(decoder, network, plain.cc_sam_encode(encoder, image), sparse, dense)[:, 0]

    def drawn(samples: int) -> Tensor:
        found: Tensor = network(image, n_samples=samples, noise=torch.Generator().manual_seed(seed))["low_res_logits"]
        return found

    yield compare(
        f"CC-SAM encoder {FORMULAS}",
        lambda: plain.cc_sam_encode(encoder, image),
        lambda: network.encode(image)["image"],
        EXACT,
    )
    yield compare(f"CC-SAM, no prompt {FORMULAS}", formulas, lambda: network.decode(network.encode(image))[0], EXACT)
    for samples in (2, 8):
        yield compare(
            f"CC-SAM, {samples} draws and their variance {FORMULAS}",
            lambda samples=samples: plain.drawn(network, decoder, image, samples, torch.Generator().manual_seed(seed)),
            partial(drawn, samples),
            EXACT,
        )


def rows(part: str, small: bool, seed: int) -> Iterator[Row]:
    """The rows of one part, measured as they are asked for."""
    torch.manual_seed(seed)
    if part == "samus":
        yield from samus_rows(SMALL if small else {}, seed)
    elif part == "cc-sam":
        yield from cc_sam_rows(SMALL | SMALL_CNN | {"fusion_dim": 16, "latent_dim": 8} if small else {}, seed)
    else:
        yield us_cine.row(2 if small else 30, seed)


PARTS = ("samus", "cc-sam", "cine")


def page(facts: dict[str, Any], found: list[Row]) -> str:
    """The table as Markdown."""
    said = ", ".join(f"{name} {value}" for name, value in facts.items() if name != "command")
    lines = ["# Benchmarks of ultrasound", "", f"Written by `{facts['command']}`; do not edit."]
    lines += [_INTRODUCTION, f"Measured on: {said}.", ""]
    lines += ["| what | baseline, ms | ours, ms | ratio | error |", "|---|---:|---:|---:|---:|"]
    for row in found:
        times = f"{row.baseline_ms:.1f} | {row.ours_ms:.1f} | {row.ratio:.2f}"
        lines.append(f"| {row.what} | {times} | {row.difference:.1e} |")
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> None:
    """Print the table; with --json and --page also write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PARTS, action="append", help="one part; may be repeated; all when left out")
    parser.add_argument("--small", action="store_true", help="small networks and a short cine")
    parser.add_argument("--clock", choices=measuring.CLOCKS, default="wall", help="cpu: on a busy machine, one thread")
    parser.add_argument("--rounds", type=int, default=measuring.ROUNDS, help="most rounds of a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--page", type=Path, help="file for the table, such as docs/benchmarks-us.md")
    asked = parser.parse_args(arguments)
    measuring.chosen[0], measuring.ROUNDS = asked.clock, asked.rounds
    processor = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name") or platform.machine()
    facts: dict[str, Any] = {
        "command": " ".join(["python kernels/bench/bench_us.py", *(sys.argv[1:] if arguments is None else arguments)]),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "hardware": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "clock": asked.clock,
        "seed": asked.seed,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }
    found: list[Row] = []
    with torch.no_grad():
        for part in asked.only or PARTS:
            for row in rows(part, asked.small, asked.seed):
                found.append(row)
                times = f"{row.baseline_ms:9.1f} ms -> {row.ours_ms:9.1f} ms  x{row.ratio:<6.2f}"
                sys.stdout.write(f"{times} {row.difference:.0e} {row.what}\n")
                sys.stdout.flush()
    if asked.json:
        asked.json.write_text(json.dumps({**facts, "rows": [asdict(row) for row in found]}, indent=1) + "\n")
    if asked.page:
        asked.page.write_text(page(facts, found), encoding="utf-8")


if __name__ == "__main__":
    main()
