"""What a preset is told about a case: a click, boxes or nothing, all taken from the reference in one stated way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from medseg_cli.errors import UsageError
from medseg_cli.evaluation.results import Kind
from medseg_cli.preset import Preset
from medseg_cli.prompt import Box, Click, Prompt, Target, Text
from medseg_cli.scan import Scan
from medseg_cli.slices import PlaneName, plane_of

Objects = Literal["together", "apart"]

THIN = 0.25
"""Voxels by which the box round an object of one voxel is wider on both sides: a box without extent is no prompt."""


@dataclass(frozen=True)
class Protocol:
    """How cases are prompted.

    Args:
        kind: "click" at a random voxel of the reference, "box" exactly round it, "boxes" exactly round it in each of
            its slices, "text": the same words for every case, or "none".
        seed: of the clicks; case number n is clicked by the generator (seed, n).
        objects: "apart": every label value is an object; "together": all of them are one.
        slices: the plane of "boxes".
        texts: of "text", one target per class.
        values: of "text", the label value of each class; (None,) = all of them together.
    """

    kind: Kind = "click"
    seed: int = 0
    objects: Objects = "together"
    slices: PlaneName = "finest"
    texts: Prompt = field(default_factory=Prompt)
    values: tuple[int | None, ...] = (None,)

    @property
    def takes_from_reference(self) -> bool:
        """Whether a case without an object cannot be asked about."""
        return self.kind not in ("none", "text")


@dataclass(frozen=True)
class Asked:
    """What is asked about one case.

    Args:
        values: label value of each object; None = all of them together.
        prompt: one target per object, in that order; none where nothing is told.
        places: where each was prompted, as in `ObjectScore`.
    """

    values: tuple[int | None, ...]
    prompt: Prompt
    places: tuple[tuple[float, ...], ...]


def usual_kind(preset: Preset) -> Kind:
    """How a preset is used when nobody says otherwise: without a prompt if it can, else by click, else by box."""
    if preset.prompts.whole_image or preset.prompts.automatic:
        return "none"
    if "text" in preset.prompts.kinds:
        return "text"
    return "click" if "point" in preset.prompts.kinds else "box"


def usual_objects(preset: Preset, kind: Kind) -> Objects:
    """What one object is when nobody says otherwise: each value where boxes are drawn, else what training took."""
    return "apart" if kind in ("box", "boxes") else preset.prompts.objects


def check_kind(preset: Preset, kind: Kind) -> None:
    """Refuse a kind of prompt that the preset does not take.

    Raises:
        UsageError: with the kinds that it takes.
    """
    takes = {"click": "point" in preset.prompts.kinds, "box": "box" in preset.prompts.kinds}
    takes["boxes"] = takes["box"] and preset.dims == 2
    takes["text"] = "text" in preset.prompts.kinds
    takes["none"] = preset.prompts.whole_image or preset.prompts.automatic
    if not takes[kind]:
        known = ", ".join(f"--prompt {name}" for name, taken in takes.items() if taken)
        raise UsageError(f"preset {preset.name} cannot be measured with --prompt {kind}", f"it takes {known}")


def values_of(texts: Prompt, labels: Mapping[int, str]) -> tuple[int | None, ...]:
    """The label value that each class of `texts` is measured against, by its name; (None,) = all of them together.

    Args:
        texts: one target per class.
        labels: value → name, as the dataset has them.

    Raises:
        UsageError: several classes, of which one has no name or another name than the dataset's labels.
    """
    values = {name: value for value, name in labels.items()}
    strange = [target.label or " ".join((target.text or Text(())).positive) for target in texts.targets]
    strange = [name for target, name in zip(texts.targets, strange, strict=True) if target.label not in values]
    if strange and len(texts.targets) == 1:
        return (None,)
    if strange:
        raise UsageError(
            f"the dataset has no label '{strange[0]}' to measure that text against",
            f"name each text as its label is called: {', '.join(values) or 'this dataset names none'}",
        )
    return tuple(values[target.label] for target in texts.targets)


def ask(scan: Scan, labels: NDArray[np.integer], protocol: Protocol, number: int) -> Asked:
    """The prompt of a case, taken from its reference.

    Args:
        scan: gives the plane of "boxes".
        labels: (I, J, K) reference, with one object or more.
        protocol: how.
        number: of the case, which draws its click.
    """
    if protocol.kind == "text":
        return Asked(protocol.values, protocol.texts, ((),) * len(protocol.values))
    apart = [int(value) for value in np.unique(labels) if value > 0] if protocol.objects == "apart" else []
    values: tuple[int | None, ...] = tuple(apart) or (None,)
    if protocol.kind == "none":
        return Asked(values, Prompt(), ((),) * len(values))
    references = [labels > 0 if value is None else labels == value for value in values]
    if protocol.kind == "click":
        rng = np.random.default_rng([protocol.seed, number])
        targets, places = _clicks(references, rng)
    else:
        axis = plane_of(scan, protocol.slices).through if protocol.kind == "boxes" else None
        targets, places = _boxes(references, axis)
    return Asked(values, Prompt(tuple(targets)), tuple(places))


def _clicks(references: list[NDArray[np.bool_]], rng: Generator) -> tuple[list[Target], list[tuple[float, ...]]]:
    """One target per reference (I, J, K), clicked at a random voxel of it, and where that is."""
    targets: list[Target] = []
    places: list[tuple[float, ...]] = []
    for number, reference in enumerate(references, start=1):
        foreground = np.argwhere(reference)
        i, j, k = foreground[rng.integers(len(foreground))].astype(float).tolist()
        targets.append(Target(str(number), "", (Click((i, j, k), "ijk"),)))
        places.append((i, j, k))
    return targets, places


def _boxes(references: list[NDArray[np.bool_]], axis: int | None) -> tuple[list[Target], list[tuple[float, ...]]]:
    """One target per reference (I, J, K): its exact box, or one in each slice across `axis`; and the box round all."""
    targets: list[Target] = []
    places: list[tuple[float, ...]] = []
    for number, reference in enumerate(references, start=1):
        voxels = np.argwhere(reference)
        depths = [voxels] if axis is None else [voxels[voxels[:, axis] == at] for at in np.unique(voxels[:, axis])]
        wide = np.array([size > 1 and this != axis for this, size in enumerate(reference.shape)])
        boxes = tuple(_box(each, wide) for each in depths)
        targets.append(Target(str(number), "", boxes=boxes))
        corners = (*np.min([box.first for box in boxes], 0), *np.max([box.second for box in boxes], 0))
        places.append(tuple(float(each) for each in corners))
    return targets, places


def _box(voxels: NDArray[np.int64], wide: NDArray[np.bool_]) -> Box:
    """The box round voxels (N, 3), ijk, with some width along the axes that are `wide` (3,)."""
    low, high = voxels.min(0).astype(float), voxels.max(0).astype(float)
    thin = (low == high) & wide
    return Box(tuple((low - THIN * thin).tolist()), tuple((high + THIN * thin).tolist()), "ijk")
