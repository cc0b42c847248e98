"""A fifth pipeline, as somebody outside would write one: region growing round the clicks, no network.

It stands in the tests for a model whose answer is known beforehand, and proves that a pipeline is one class, one
`Entry` and one preset. `python region_growing.py ...` is `medseg ...` with that pipeline registered.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from medseg_cli.device import Runtime
from medseg_cli.preset import Preset
from medseg_cli.prompt import Prompt, locate
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.stages import Stages

COLORS = ((230, 60, 60), (60, 200, 90), (80, 140, 255))


class Options(BaseModel):
    """Knobs of this pipeline.

    Attributes:
        tolerance: how far a voxel's value may be from the clicked voxel's.
        trouble: what goes wrong while it runs, so that the tests can see what medseg makes of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    tolerance: float = 20.0
    trouble: Literal["", "crash", "memory", "torch memory", "not deterministic", "sleep", "sigterm"] = ""


@dataclass(frozen=True)
class RegionGrowing:
    """Voxels connected to a click whose value is like the clicked one; minus clicks take their own regions away."""

    preset: Preset
    options: Options
    runtime: Runtime
    random: bool

    @classmethod
    def from_preset(cls, preset: Preset, runtime: Runtime, random_weights: bool) -> RegionGrowing:
        """As `pipelines.build` calls it."""
        return cls(preset, Options.model_validate(preset.options), runtime, random_weights)

    def segment(self, scan: Scan, prompt: Prompt, stages: Stages) -> Segmentation:
        """One mask value per object, in the order of the prompt."""
        mask = np.zeros(scan.shape, np.uint8)
        labels = []
        for value, target in enumerate(prompt.targets, start=1):
            with stages(f"object {target.id}"):
                self._meet_trouble()
                for click in target.clicks:
                    region = self._grow(scan.voxels[0], tuple(np.rint(locate(click, scan)).astype(int)))
                    mask[region & (mask == 0 if click.positive else mask == value)] = value if click.positive else 0
            labels.append(Label(value, target.label or self.preset.labels[0].name, COLORS[(value - 1) % 3]))
        provenance = {"weights": None, "tolerance": self.options.tolerance}
        return Segmentation(mask, tuple(labels), scan, provenance)

    def _grow(self, voxels: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
        from scipy import ndimage

        alike = np.abs(voxels - voxels[seed]) <= self.options.tolerance
        parts, _ = ndimage.label(alike)
        return np.zeros_like(alike) if self.options.tolerance < 0 else parts == parts[seed]

    def _meet_trouble(self) -> None:
        if self.options.trouble == "crash":
            raise RuntimeError("the region outgrew the test")
        if self.options.trouble == "memory":
            np.empty(1 << 56, np.uint8)
        if self.options.trouble == "torch memory":
            import torch

            torch.empty(1 << 56, dtype=torch.uint8)
        if self.options.trouble == "not deterministic":
            import torch

            torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
        if self.options.trouble == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.options.trouble == "sleep":
            time.sleep(120)


def register() -> None:
    """What the one line in `pipelines/__init__.py` would do."""
    from medseg_cli.pipelines import PIPELINES, Entry

    PIPELINES["region-growing"] = Entry(
        "region_growing:RegionGrowing", "Region growing round the clicks", prompts=frozenset({"point"}), dims=3
    )


def write_preset(folder: Path, *, minus: bool = True, **options: Any) -> Path:
    """The preset of this pipeline, as a user would write one."""
    path = folder / "region-growing.yaml"
    path.write_text(
        f"""\
name: region-growing
title: Whatever is as bright as the clicked voxel and connected to it
pipeline: region-growing
modality: [MR, CT]
dims: 3
weights: {{file: weights/none.safetensors}}
preprocessing: {{intensity: {{method: zscore}}}}
prompts: {{kinds: [point], minus: {str(minus).lower()}}}
labels: [{{value: 1, name: blob, color: "#e63c3c"}}]
options: {{{", ".join(f"{key}: {value!r}" for key, value in options.items())}}}
licence: Apache-2.0
source: tests/region_growing.py
"""
    )
    return path


if __name__ == "__main__":
    from medseg_cli.app import main

    register()
    raise SystemExit(main())
