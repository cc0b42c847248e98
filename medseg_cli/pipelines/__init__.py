"""Pipelines by name: what turns a scan and a prompt into a segmentation. Listing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from medseg_cli.errors import ModelError

if TYPE_CHECKING:
    from medseg_cli.device import Runtime
    from medseg_cli.preset import Preset
    from medseg_cli.prompt import Prompt
    from medseg_cli.scan import Scan
    from medseg_cli.segmentation import Segmentation
    from medseg_cli.stages import Stages


class Pipeline(Protocol):
    """The whole inference seam: weights loaded once, then any number of scans."""

    def segment(self, scan: Scan, prompt: Prompt, stages: Stages) -> Segmentation:
        """Segment the prompted objects of one scan, on the scan's own grid."""
        ...


@dataclass(frozen=True)
class Entry:
    """One pipeline.

    Args:
        target: "module:Class" with `from_preset(preset, runtime, random_weights) -> Pipeline`.
        summary: one line for people.
        prompts: kinds of prompt it takes.
        dims: 2 or 3.
        recipe: "module:Class" that trains it, `Class(preset, start, choices)`; empty when it cannot be trained here.
    """

    target: str
    summary: str
    prompts: frozenset[str]
    dims: int
    recipe: str = ""


PIPELINES: dict[str, Entry] = {
    "3dsam-adapter": Entry(
        target="medseg_cli.pipelines.sam3d:Sam3dPipeline",
        summary="SAM lifted to volumes by spatial adapters; clicks (arXiv 2306.13465)",
        prompts=frozenset({"point"}),
        dims=3,
        recipe="medseg_cli.pipelines.sam3d_recipe:Sam3dRecipe",
    ),
    "sam": Entry(
        target="medseg_cli.pipelines.sam:SamPipeline",
        summary="SAM and checkpoints of its layout; clicks, boxes, masks, on images and slices (arXiv 2304.02643)",
        prompts=frozenset({"point", "box", "mask"}),
        dims=2,
    ),
    "sam-unet": Entry(
        target="medseg_cli.pipelines.sam_unet:SamUnetPipeline",
        summary="SAM's ViT beside a ResNet branch; boxes, on images and slices (arXiv 2408.09886)",
        prompts=frozenset({"box", "mask"}),
        dims=2,
        recipe="medseg_cli.pipelines.sam_unet_recipe:SamUnetRecipe",
    ),
}


def find(name: str) -> Entry:
    """The entry of a pipeline.

    Raises:
        ModelError: unknown name, with the known ones.
    """
    if name not in PIPELINES:
        raise ModelError(f"unknown pipeline '{name}'", f"known pipelines: {', '.join(sorted(PIPELINES))}")
    return PIPELINES[name]


def build(preset: Preset, runtime: Runtime, *, random_weights: bool = False) -> Pipeline:
    """The preset's pipeline with its weights loaded on the device.

    Raises:
        ModelError: unknown pipeline, wrong options, missing or misfitting weights.
    """
    module, name = find(preset.pipeline).target.split(":")
    return getattr(import_module(module), name).from_preset(preset, runtime, random_weights)
