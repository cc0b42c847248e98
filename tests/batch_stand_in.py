"""A pipeline for tests of batches: what is bright, without a network; the first voxel says what else happens.

`python batch_stand_in.py batch ...` is `medseg batch ...` with it. It is registered when this file is imported, which
worker processes do too, because it is their main module.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from pydantic import BaseModel, ConfigDict

from medseg_cli.device import Runtime
from medseg_cli.preset import Preset
from medseg_cli.prompt import Prompt
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.stages import Stages

CRASH, DIE, SLEEP, DIE_ONCE, MEMORY = -1, -2, -3, -4, -5
"""Values of the first voxel."""
SIDE = 6
"""Edge of the bright cube in voxels of 1 mm."""


class Options(BaseModel):
    """Knobs: what counts as bright, where traces are left, and how long a case takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    above: float = 150.0
    trace: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Bright:
    """Voxels above a value."""

    preset: Preset
    options: Options
    runtime: Runtime
    model: Any = None

    @classmethod
    def from_preset(cls, preset: Preset, runtime: Runtime, random_weights: bool) -> Bright:
        """As `pipelines.build` calls it."""
        made = cls(preset, Options.model_validate(preset.options), runtime)
        made.leave("load", preset.name)
        return made

    def segment(self, scan: Scan, prompt: Prompt, stages: Stages) -> Segmentation:
        """One label, whatever was asked."""
        self.leave("segment", scan.provenance.path.name)
        self._meet_trouble(float(scan.voxels[0, 0, 0, 0]), scan.provenance.path)
        time.sleep(self.options.seconds)
        mask = (scan.voxels[0] > self.options.above).astype(np.uint8)
        return Segmentation(mask, (Label(1, "bright"),), scan, {"weights": None})

    def segment_together(self, jobs: list[tuple[Scan, Prompt]], stages: Stages) -> list[Segmentation]:
        """As a pipeline offers it whose slices can share batches."""
        self.leave("together", *(scan.provenance.path.name for scan, _ in jobs))
        return [self.segment(scan, prompt, stages) for scan, prompt in jobs]

    def leave(self, *words: str) -> None:
        """A trace that tests can read: one line, with the process that left it."""
        if self.options.trace:
            with open(self.options.trace, "a", encoding="utf-8") as file:
                file.write(" ".join([*words, str(os.getpid())]) + "\n")

    def _meet_trouble(self, value: float, path: Path) -> None:
        if value == CRASH:
            raise RuntimeError("the stand-in crashed")
        if value == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if value == DIE_ONCE and not (mark := path.with_suffix(".died")).exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if value == SLEEP:
            time.sleep(600)
        if value == MEMORY:
            np.empty(1 << 56, np.uint8)


def register() -> None:
    """What the one line in `pipelines/__init__.py` would do."""
    from medseg_cli.pipelines import PIPELINES, Entry

    PIPELINES["bright"] = Entry(f"{Path(__file__).stem}:Bright", "What is bright", prompts=frozenset(), dims=3)


def write_preset(folder: Path, *, above: float = 150.0, seconds: float = 0.0, quality: str = "") -> Path:
    """A preset of this pipeline with weights, such as they are, as a user would write one; its trace is `trace.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "none.safetensors").write_bytes(b"no tensors")
    path = folder / "bright.yaml"
    path.write_text(
        f"""\
name: bright
title: What is bright
pipeline: bright
modality: [any]
dims: 3
weights: {{file: none.safetensors}}
preprocessing: {{intensity: {{method: zscore}}}}
prompts: {{kinds: []}}
labels: [{{value: 1, name: bright, color: "#e63c3c"}}]
options: {{above: {above}, trace: {str(folder / "trace.txt")!r}, seconds: {seconds}}}
licence: Apache-2.0
source: tests/batch_stand_in.py
{quality}
"""
    )
    return path


def traces(preset: Path, word: str) -> list[str]:
    """What was done, in order: names and process of all traces that begin with `word`."""
    trace = preset.parent / "trace.txt"
    lines = trace.read_text(encoding="utf-8").splitlines() if trace.exists() else []
    return [line.removeprefix(f"{word} ") for line in lines if line.startswith(f"{word} ")]


def write_scan(path: Path, *, trouble: int = 0, seed: int = 0, size: int = 20, bright: bool = True) -> Path:
    """A cube of `SIDE` voxels of 1 mm in noise: `SIDE`³ mm³."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).normal(100, 3, (size, size, size)).astype(np.float32)
    if bright:
        first = slice(5, 5 + SIDE)
        voxels[first, first, first] = 200
    voxels[0, 0, 0] = trouble or voxels[0, 0, 0]
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
    return path


register()

if __name__ == "__main__":
    from medseg_cli.app import main

    raise SystemExit(main())
