"""From coarse masks to fine ones: another preset, the segmenter, draws them from boxes or clicks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli import pipelines
from medseg_cli.device import Runtime
from medseg_cli.errors import ModelError
from medseg_cli.pipelines.text_classes import TextClass
from medseg_cli.pipelines.text_regions import Asking, middle, pointed
from medseg_cli.preset import Preset, find
from medseg_cli.prompt import Prompt, Target
from medseg_cli.scan import Scan
from medseg_cli.slices import Plane
from medseg_cli.stages import Stages

Masks = Sequence[dict[int, NDArray[np.bool_]]]
"""Per class, slice index → coarse mask (H, W)."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """Who draws and what they are asked.

    Args:
        segmenters: preset name → a pipeline that takes boxes or clicks.
        asking: what a coarse mask becomes.
        seed: of the places of clicks.
    """

    segmenters: Mapping[str, Any]
    asking: Asking
    seed: int


@dataclass(frozen=True, eq=False)
class Drawn:
    """What came out.

    Args:
        mask: (I, J, K) label map.
        said: what the segmenter of each class that has one says of itself.
        lost: of each class, voxels of its own that a class named before has.
        notes: what the user should know, one sentence each.
        tissue: (I, J) as `Segmentation.tissue`, where a segmenter looked for it.
    """

    mask: NDArray[np.unsignedinteger[Any]]
    said: list[dict[str, Any]]
    lost: list[int]
    notes: list[str]
    tissue: NDArray[np.bool_] | None


def draw(how: Drawing, scan: Scan, plane: Plane, masks: Masks, classes: Sequence[TextClass], stages: Stages) -> Drawn:
    """The label map, value n for the n-th class.

    Where masks meet, the class that was named first has the voxel.
    """
    mask = np.zeros(scan.shape, np.uint8 if len(masks) < 256 else np.uint16)
    said: list[dict[str, Any]] = []
    lost = [0] * len(masks)
    notes: list[str] = []
    tissue = None
    # One class at a time: a segmenter that is asked about several gives a voxel to the more probable one.
    for value, (own, each) in enumerate(zip(masks, classes, strict=True), start=1):
        solid = each.segmenter is not None and _is_3d(how.segmenters[each.segmenter])
        if each.segmenter is not None and solid and plane.count == 1 and own:
            notes.append(
                f"{each.name}: {each.segmenter} segments volumes and this is one slice: its mask is the coarse one of "
                "the text"
            )
        if each.segmenter is None or (solid and plane.count == 1):
            lost[value - 1] = sum(_put(plane.take(mask, index), part, value) for index, part in own.items())
            continue
        target = _target(how, each.segmenter, plane, own, each.name)
        asked = bool(target.clicks or target.boxes)
        facts: dict[str, Any] = {"preset": each.segmenter, "asked": int(asked)}
        if asked:
            drawn = how.segmenters[each.segmenter].segment(scan, Prompt((target,)), stages)
            lost[value - 1] = _put(mask, drawn.mask == 1, value)
            tissue = tissue if drawn.tissue is None else drawn.tissue
            facts |= drawn.provenance
            if not drawn.mask.any():
                notes.append(
                    f"{each.name} is there by its text, but {each.segmenter} drew nothing where it was pointed to"
                )
        said.append(facts)
    return Drawn(mask, said, lost, notes, tissue)


def _is_3d(segmenter: Any) -> bool:
    return pipelines.find(segmenter.preset.pipeline).dims == 3


def _put(mask: NDArray[np.unsignedinteger[Any]], own: NDArray[np.bool_], value: int) -> int:
    """Give free voxels to a class; how many of its own another has already."""
    free = own & (mask == 0)
    mask[free] = value
    return int(np.count_nonzero(own)) - int(np.count_nonzero(free))


def _target(how: Drawing, name: str, plane: Plane, masks: dict[int, NDArray[np.bool_]], label: str) -> Target:
    """What the segmenter is asked about one class; no click and no box where there is nothing to ask."""
    if _is_3d(how.segmenters[name]):
        click = middle(masks, plane)
        return Target(label, label, (click,) if click else ())
    places = pointed(masks, plane, how.asking, how.seed)
    return Target(label, label, places.clicks, places.boxes)


def segmenter_of(name: str, asker: Preset, asking: Asking, runtime: Runtime) -> Any:
    """The pipeline that draws masks.

    Args:
        name: its preset.
        asker: the preset whose coarse masks it is asked about, with what the user chose for this run.
        asking: what those become.
        runtime: where it computes.

    Raises:
        ModelError: no such preset, missing weights, or one that takes no such prompts.
    """
    preset = find(name)
    wanted = {"box": {"box"}, "boxes": {"box"}, "points": {"point"}, "both": {"box", "point"}}[asking.kind]
    wanted = {"point"} if pipelines.find(preset.pipeline).dims == 3 else wanted
    if not wanted <= set(preset.prompts.kinds):
        raise ModelError(
            f"segmenter {preset.name} takes {', '.join(preset.prompts.kinds) or 'no prompt'}, not "
            f"{' and '.join(sorted(wanted))}",
            "change options.prompts.kind, or choose another segmenter",
        )
    if pipelines.find(preset.pipeline).dims == 2:
        # It sees the same slices, in the grey values that the user chose, and every one is asked for itself.
        slices = asker.options.get("slices", "finest")
        changed: dict[str, Any] = {"options": {**preset.options, "propagate": False}}
        # A plane that somebody chose is refused of a cine, which has one; who chooses none must not be taken for him.
        if slices != preset.options.get("slices", "finest"):
            changed["options"]["slices"] = slices
        if any(key.startswith("preprocessing.") for key in asker.changes):
            changed["preprocessing"] = asker.preprocessing
        preset = preset.model_copy(update=changed)
    return pipelines.build(preset, runtime)
