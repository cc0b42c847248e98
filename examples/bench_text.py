"""Tables of docs/text-results.md: `python examples/bench_text.py PRESET DATA [CASES]`.

The published chains and the preset's own on the same held-back scans with the same encoder and segmenters, pictures
also without segmenters; what a wrong sentence does; and who is found in which scans. CASES scans of each concept go
through every chain; presence counts all.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from text_cases import CONCEPTS, Shown, said, shown

from medseg_cli import device, pipelines, preset
from medseg_cli.errors import InputError
from medseg_cli.slices import plane_of
from medseg_cli.stages import Stages

V1 = {
    "saliency": {"method": "gscorecam-official", "layer": 2, "geometry": "official"},
    "coarse": {"method": "crf", "kernels": "v1"},
    "prompts": {"kind": "box"},
    "presence": None,
}
V2 = {
    "saliency": {"method": "m2ib", "layer": 2, "geometry": "official"},
    "coarse": {"method": "two-means"},
    "prompts": {"kind": "box"},
    "presence": None,
}
"""Stages as published; of its 12 blocks BiomedCLIP is looked at behind the eighth, which is the third of four."""
FLAT = ("lungs", "fetal head")
"""Concepts of pictures; what a segmenter adds shows in these."""


def chains(name: str, coarse: bool = False) -> dict[str, Any]:
    """Chain → pipeline. v1 keeps all parts of its masks, v2 as many as a thing has; coarse: without segmenters."""
    own = preset.find(name)
    if coarse:
        alone = [{**concept, "segmenter": None} for concept in own.options["concepts"]]
        own = own.model_copy(update={"options": {**own.options, "concepts": alone}})
    all_parts = [{**concept, "parts": 0} for concept in own.options["concepts"]]
    always = {"presence": {**own.options["presence"], "threshold": 0.0}}
    wanted = {"v1": {**V1, "concepts": all_parts}, "v2": V2, "ours": {}, "ours, never absent": always}
    changed = {chain: own.model_copy(update={"options": {**own.options, **new}}) for chain, new in wanted.items()}
    return {chain: pipelines.build(each, device.select("cpu")) for chain, each in changed.items()}


def dice(pipeline: Any, each: Shown, concept: str) -> float:
    """Of what the text of a concept draws and what is drawn of the scan's own."""
    mask = pipeline.segment(each.scan, said(CONCEPTS[concept]), Stages()).mask > 0
    return float(2 * (mask & each.drawn).sum() / (mask.sum() + each.drawn.sum()))


def drawn_table(
    built: dict[str, Any], scans: list[Shown], most: int, concepts: Sequence[str] = tuple(CONCEPTS)
) -> Iterator[str]:
    """Dice of every chain."""
    yield "| chain | " + " | ".join(f"{concept}: Dice mean, median, worst; s a scan" for concept in concepts) + " |"
    yield "|---" * (len(concepts) + 1) + "|"
    for chain, pipeline in built.items():
        cells = []
        for concept in concepts:
            some, start = having(scans, concept, most), time.perf_counter()
            found = [dice(pipeline, each, concept) for each in some]
            seconds = (time.perf_counter() - start) / len(found)
            scores = ", ".join(f"{of(found):.3f}" for of in (np.mean, np.median, np.min))
            cells.append(f"{scores}; {seconds:.1f} (n = {len(found)})")
        yield f"| {chain} | " + " | ".join(cells) + " |"


def having(scans: list[Shown], concept: str, most: int) -> list[Shown]:
    """The first scans that show a concept and where it is."""
    return [each for each in scans if each.concept == concept and each.drawn is not None][:most]


def wrong_table(built: dict[str, Any], scans: list[Shown], most: int) -> Iterator[str]:
    """Dice with the thing that is there when another one is named."""
    yield "| scans of | said | ours: Dice mean | ours, never absent |\n|---|---|---|---|"
    for concept in CONCEPTS:
        some = having(scans, concept, most)
        for named, text in CONCEPTS.items():
            pair = [mean_dice(built[chain], some, named) for chain in ("ours", "ours, never absent")]
            yield f"| {concept} (n = {len(some)}) | {text} | {pair[0]} | {pair[1]} |"


def mean_dice(pipeline: Any, some: list[Shown], named: str) -> str:
    """As text; a segmenter of volumes refuses pictures."""
    try:
        return f"{np.mean([dice(pipeline, each, named) for each in some]):.3f}"
    except InputError:
        return "refused"


def presence_table(pipeline: Any, scans: list[Shown]) -> Iterator[str]:
    """In how many scans and slices each concept is found, by set, and of slices with and without it."""
    found: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
    slices: dict[tuple[str, bool], list[np.ndarray]] = defaultdict(list)
    for each in scans:
        plane = plane_of(each.scan, pipeline.options.slices)
        for concept, text in CONCEPTS.items():
            there = pipeline.presence(each.scan, said(text))[1][0] >= pipeline.options.presence.threshold
            found[each.source, concept].append(there)
            with_it = np.full(plane.count, concept == each.concept)
            if each.drawn is not None and concept == each.concept:
                with_it = np.array([bool(plane.take(each.drawn, index).any()) for index in range(plane.count)])
            for side in (True, False):
                slices[concept, side].append(there[with_it == side])
    truth = {each.source: each.concept for each in scans}
    yield "| set | shows | " + " | ".join(f"{concept}: scans; slices" for concept in CONCEPTS) + " |"
    yield "|---" * (len(CONCEPTS) + 2) + "|"
    for source, concept in truth.items():
        yield (
            f"| {source} | {concept or 'none'} | "
            + " | ".join(counted(found[source, each]) for each in CONCEPTS)
            + " |"
        )
    for named in CONCEPTS:
        sides = (
            [there for source, concept in truth.items() if (concept == named) is side for there in found[source, named]]
            for side in (True, False)
        )
        for side, some in zip(("with", "without"), sides, strict=True):
            own = np.concatenate(slices[named, side == "with"])
            yield f"\n{named}, found {side} it: {counted(some).split(';')[0]} scans, {own.sum()} of {len(own)} slices"


def counted(found: list[np.ndarray]) -> str:
    """Scans and slices in which something was found, of how many."""
    slices = np.concatenate(found)
    return f"{sum(map(any, found))} of {len(found)}; {slices.sum()} of {len(slices)}"


def main(name: str, data: str, most: str = "12") -> None:
    """Print the four tables."""
    built, scans = chains(name), list(shown(Path(data), "test"))
    tables = (
        drawn_table(built, scans, int(most)),
        drawn_table(chains(name, coarse=True), scans, int(most), FLAT),
        wrong_table(built, scans, min(6, int(most))),
        presence_table(built["ours"], scans),
    )
    for table in tables:
        for line in table:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        sys.stdout.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
