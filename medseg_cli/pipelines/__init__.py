"""Pipelines by name: what turns a scan and a prompt into a segmentation. Listing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

from medseg_cli.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from medseg_cli.datasets import Case
    from medseg_cli.device import Runtime
    from medseg_cli.preset import Preset
    from medseg_cli.prompt import Prompt
    from medseg_cli.scan import Scan
    from medseg_cli.segmentation import Segmentation
    from medseg_cli.stages import Stages


class Pipeline(Protocol):
    """The whole inference seam: weights loaded once, then any number of scans.

    Attributes:
        runtime: where and in which precision it computes; `--precision auto` has been decided in it.
        model: the network.
    """

    @property
    def runtime(self) -> Runtime: ...
    @property
    def model(self) -> Any: ...

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
        planner: "module:function" that completes a preset from a dataset before training, see `plan`; empty when
            presets are complete.
        promptless: whether its network answers without any prompt, in every slice of a volume, where other 2-D networks
            that need none take a box over one whole image.
        ensemble: whether several checkpoints of its network can answer together, by the mean of their probabilities.
        latents: whether its networks may have latents, which can be drawn to see how far the answers lie apart.
        words: what becomes of a text. "map": an image-text network maps where words and scan agree, and another preset
            draws the mask from that; "prompt": its own network hears it beside clicks and boxes; "": it takes none.
        learns: what else its recipe can be given to learn from, by the names of `choices.Choices`.
    """

    target: str
    summary: str
    prompts: frozenset[str]
    dims: int
    recipe: str = ""
    planner: str = ""
    promptless: bool = False
    ensemble: bool = False
    latents: bool = False
    words: Literal["", "map", "prompt"] = ""
    learns: frozenset[str] = frozenset()


PIPELINES: dict[str, Entry] = {
    "3dsam-adapter": Entry(
        target="medseg_cli.pipelines.sam3d:Sam3dPipeline",
        summary="SAM lifted to volumes by spatial adapters; clicks (arXiv 2306.13465)",
        prompts=frozenset({"point"}),
        dims=3,
        recipe="medseg_cli.pipelines.sam3d_recipe:Sam3dRecipe",
    ),
    "autosamus": Entry(
        target="medseg_cli.pipelines.autosamus:AutosamusPipeline",
        summary="SAMUS that prompts itself: one object per image, no prompt (official code, never described)",
        prompts=frozenset(),
        dims=2,
        recipe="medseg_cli.pipelines.autosamus_recipe:AutosamusRecipe",
        ensemble=True,
    ),
    "cc-sam": Entry(
        target="medseg_cli.pipelines.cc_sam:CcSamPipeline",
        summary="SAMUS beside a frozen CNN, our reconstruction; clicks, boxes, masks, text, none (arXiv 2408.00181)",
        prompts=frozenset({"point", "box", "mask", "text"}),
        dims=2,
        recipe="medseg_cli.pipelines.cc_sam_recipe:CcSamRecipe",
        planner="medseg_cli.pipelines.cc_sam_plan:plan",
        promptless=True,
        ensemble=True,
        latents=True,
        words="prompt",
        learns=frozenset({"boxes", "cnn", "text_table"}),
    ),
    "dynunet": Entry(
        target="medseg_cli.pipelines.dynunet:DynunetPipeline",
        summary="a U-Net trained from scratch on your dataset; no prompt, all its labels (nnU-Net's rules)",
        prompts=frozenset(),
        dims=3,
        recipe="medseg_cli.pipelines.dynunet_recipe:DynunetRecipe",
        planner="medseg_cli.pipelines.dynunet_plan:plan",
        ensemble=True,
    ),
    "medclip-sam": Entry(
        target="medseg_cli.pipelines.medclip_sam:MedclipSamPipeline",
        summary="a text → a mask by saliency of an image-text network and SAM (arXiv 2403.20253, 2409.19483)",
        prompts=frozenset({"text"}),
        dims=2,
        recipe="medseg_cli.pipelines.clip_recipe:ClipRecipe",
        planner="medseg_cli.pipelines.clip_plan:plan",
        words="map",
    ),
    "sam": Entry(
        target="medseg_cli.pipelines.sam:SamPipeline",
        summary="SAM and checkpoints of its layout; clicks, boxes, masks, on images and slices (arXiv 2304.02643)",
        prompts=frozenset({"point", "box", "mask"}),
        dims=2,
        recipe="medseg_cli.pipelines.sam_recipe:SamRecipe",
        ensemble=True,
    ),
    "sam-unet": Entry(
        target="medseg_cli.pipelines.sam_unet:SamUnetPipeline",
        summary="SAM's ViT beside a ResNet branch; boxes, on images and slices (arXiv 2408.09886)",
        prompts=frozenset({"box", "mask"}),
        dims=2,
        recipe="medseg_cli.pipelines.sam_unet_recipe:SamUnetRecipe",
        ensemble=True,
    ),
    "samus": Entry(
        target="medseg_cli.pipelines.samus:SamusPipeline",
        summary="SAM for ultrasound beside a CNN branch; clicks, boxes, masks (arXiv 2309.06824)",
        prompts=frozenset({"point", "box", "mask"}),
        dims=2,
        recipe="medseg_cli.pipelines.samus_recipe:SamusRecipe",
        ensemble=True,
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
        ModelError: unknown pipeline, wrong options, missing or misfitting weights, several where it takes one.
    """
    if getattr(preset.weights, "members", ()) and not find(preset.pipeline).ensemble:
        raise ModelError(f"pipeline {preset.pipeline} takes one checkpoint, and preset {preset.name} names several")
    module, name = find(preset.pipeline).target.split(":")
    return getattr(import_module(module), name).from_preset(preset, runtime, random_weights)


def plan(preset: Preset, labels: Mapping[int, str], cases: Sequence[Case]) -> Preset:
    """The preset as it is trained: what its pipeline plans from the data filled in, most often nothing.

    Args:
        preset: any.
        labels: value → name, as the dataset names them; empty where it names none.
        cases: the training cases.

    Raises:
        InputError: cases that cannot be planned for.
    """
    planner = find(preset.pipeline).planner
    if not planner:
        return preset
    module, name = planner.split(":")
    planned: Preset = getattr(import_module(module), name)(preset, labels, cases)
    return planned
