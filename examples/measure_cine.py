"""Table of docs/ultrasound.md: `python examples/measure_cine.py DATA PRESET OUT [CASES] [FRAMES]`.

Cines are drawn (`draw_cine.py`) from held-back pictures of a dataset, so that the truth of every frame is known, and
segmented frame by frame, with and without smoothing over time: without a prompt where the preset needs none, and from
one box or click in frame 0, followed by the rules for volumes and by those for time. Flicker is 1 - IoU of neighbouring
frames, mean, after both were moved back to the picture by the true motion.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from draw_cine import Cine, draw, moved, write
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from medseg_cli import datasets, device, pipelines, preset
from medseg_cli.over_time import dice
from medseg_cli.prompt import Box, Click, Prompt, Target
from medseg_cli.readers import load_scan
from medseg_cli.scan import Scan
from medseg_cli.stages import Stages

Masks = NDArray[np.bool_]
"""(T, H, W)."""
WINDOWS = (0, 3, 5, 7)
"""Frames smoothed over; 0 = none."""


def first_frame(truth: NDArray[np.bool_], kind: str) -> Prompt:
    """A click where the object (H, W) of frame 0 is deepest, or the box round it."""
    if kind == "click":
        row, column = np.unravel_index(int(np.argmax(distance_transform_edt(truth))), truth.shape)
        return Prompt((Target("1", "", (Click((float(column), float(row), 0.0)),)),))
    (top, left), (bottom, right) = np.argwhere(truth).min(0), np.argwhere(truth).max(0)
    corners = (float(left), float(top), 0.0), (float(right), float(bottom), 0.0)
    return Prompt((Target("1", "", boxes=(Box(*corners),)),))


def ways(pipeline: Any, truth: Masks) -> Iterator[tuple[str, Any, Prompt]]:
    """(name, pipeline, prompt) of everything that is compared."""
    own, prompts = pipeline.options, pipeline.preset.prompts
    asked = [("none", Prompt(()))] if prompts.whole_image or prompts.automatic else []
    kinds = [name for kind, name in (("point", "click"), ("box", "box")) if kind in prompts.kinds]
    asked += [(kind, first_frame(truth[0], kind)) for kind in kinds]
    for name, prompt in asked:
        for window in WINDOWS:
            time = own.time.model_copy(update={"window": window})
            yield f"{name}, {window} frames", replace(pipeline, options=own.model_copy(update={"time": time})), prompt
        if name != "none":
            time = own.time.model_copy(update={"window": 0, "propagation": own.propagation})
            volumes = replace(pipeline, options=own.model_copy(update={"time": time}))
            yield f"{name}, 0 frames, rules for volumes", volumes, prompt


def flicker(masks: Masks, cine: Cine) -> float:
    """Of masks that were moved back to where the picture is; pairs of empty ones do not count."""
    back = [
        moved(mask.astype(float), np.linalg.inv(motion), order=1) > 0.5
        for mask, motion in zip(masks, cine.motion, strict=True)
    ]
    unions = [(first & second, first | second) for first, second in pairwise(back)]
    return float(np.mean([1 - both.sum() / either.sum() for both, either in unions if either.any()] or [0.0]))


def scores(masks: Masks, facts: dict[str, Any], cine: Cine) -> dict[str, float]:
    """What the table holds of one cine."""
    found = np.array([dice(*pair) for pair in zip(masks, cine.truth, strict=True)])
    spoilt = list(cine.spoilt)
    good = np.delete(found, spoilt)
    told = {*facts["jumps"], *facts["gaps"]}
    return {
        "Dice": float(good.mean()),
        "worst frame": float(good.min()),
        "Dice of spoilt frames": float(found[spoilt].mean()),
        "flicker": flicker(masks, cine),
        "spoilt frames flagged": len(told & {*spoilt}) / len(spoilt),
        "others flagged": len(told - {*spoilt}) / len(good),
    }


def segmented(pipeline: Any, scan: Scan, prompt: Prompt) -> tuple[Masks, dict[str, Any]]:
    """Masks of all frames, and what the report says of time."""
    result = pipeline.segment(scan, prompt, Stages())
    return result.mask.transpose(2, 1, 0) > 0, result.provenance["objects"][0]["time"]


def main(data: str, name: str, out: str, most: str = "8", count: str = "48") -> None:
    """Print the table, mean over the cines, and keep these in OUT."""
    pipeline = pipelines.build(preset.find(name), device.select("cpu"))
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    cases = datasets.split_cases(datasets.read_cases(Path(data)), 0).test[: int(most)]
    for number, case in enumerate(cases):
        scan, labels = datasets.load_pair(case)
        picture = np.clip(scan.voxels[..., 0].mean(axis=0).T, 0, 255).astype(np.uint8)
        cine = draw(picture, labels[..., 0].T > 0, int(count), np.random.default_rng(number))
        write(cine, Path(out) / case.id, scan.spacing[0])
        frames = load_scan(Path(out) / case.id / "cine.nii.gz")
        for way, own, prompt in ways(pipeline, cine.truth):
            rows[way].append(scores(*segmented(own, frames, prompt), cine))
    keys = list(next(iter(rows.values()))[0])
    sys.stdout.write(f"{len(cases)} cines of {count} frames\n\n| prompt, smoothed over | {' | '.join(keys)} |\n")
    sys.stdout.write("|---" * (len(keys) + 1) + "|\n")
    for way, each in rows.items():
        worst = {"worst frame"}
        cells = [(min if key in worst else np.mean)([row[key] for row in each]) for key in keys]
        sys.stdout.write(f"| {way} | {' | '.join(f'{cell:.3f}' for cell in cells)} |\n")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
