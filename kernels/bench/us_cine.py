"""A cine under the embedded fetal-head-us: its frames together, beside one after the other by the formulas."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from formulas import by_formulas
from measuring import Row, compare
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli import device, pipelines, preset
from medseg_cli.embeddings import EmbeddingCache
from medseg_cli.pipelines.by_slice import SlicePipeline
from medseg_cli.prompt import Prompt
from medseg_cli.scan import Provenance, Scan
from medseg_cli.stages import Stages

MASKS = 1e-2
"""Distance of the masks relative to the object: one of ten thousand of its pixels may be on the other side."""


def row(frames: int, seed: int) -> Row:
    """The embedded fetal-head-us on a cine of 540 x 800 pixels; frames are not smoothed over time on either side."""
    made = pipelines.build(preset.find("fetal-head-us"), device.select("cpu"))
    assert isinstance(made, SlicePipeline)
    time = made.options.time.model_copy(update={"window": 0})
    options = made.options.model_copy(update={"time": time, "ultrasound": None})
    # Nothing is remembered from round to round.
    pipeline = replace(made, options=options, cache=EmbeddingCache(0, None))
    voxels = ringed(frames, np.random.default_rng(seed))

    def segmented(first: int, count: int) -> Tensor:
        shown, cine = voxels[..., first : first + count], count > 1
        scan = Scan(shown, np.eye(4), Provenance(Path("cine"), "nifti", f"{first}"), "US", cine=cine)
        return torch.from_numpy(pipeline.segment(scan, Prompt(()), Stages()).mask > 0)

    def one_by_one() -> Tensor:
        with by_formulas():
            return torch.cat([segmented(index, 1) for index in range(frames)], dim=-1)

    what = f"cine of {frames} frames, fetal-head-us (baseline: frame by frame, the formulas)"
    return compare(what, one_by_one, lambda: segmented(0, frames), MASKS)


def ringed(frames: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(1, 800, 540, T) float32: a bright ring that drifts and beats, in speckle."""
    i, j = np.meshgrid(np.arange(800), np.arange(540), indexing="ij")
    shown = []
    for index in range(frames):
        size = 1 + 0.05 * np.sin(index / 3)
        far = np.hypot((i - 400 - 2 * index) / (230 * size), (j - 270) / (180 * size))
        grey = 50 + 150 * np.exp(-(((far - 1) / 0.05) ** 2)) - 20 * (far < 1)
        shown.append((grey * rng.uniform(0.6, 1.2, grey.shape)).clip(0, 255).round())
    return np.stack(shown, -1)[None].astype(np.float32)
