"""What a preset is told about a case: a click, boxes or nothing, all taken from the reference in one stated way.

The median click is SAMUS's: the middle one of the object's pixels, row by row. Under SAMUS's protocol clicks are taken
in its frame, and where an object is absent the same rule takes a pixel outside, as a click that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from medseg_cli.errors import InputError, UsageError
from medseg_cli.evaluation.results import Kind
from medseg_cli.evaluation.samus_scores import from_frame, in_frame
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
        kind: "click" at a random voxel of the reference, "median-click" at its middle one, "box" exactly round it,
            "boxes" exactly round it in each of its slices, "text": the same words for every case, or "none".
        seed: of the clicks; case number n is clicked by the generator (seed, n).
        objects: "apart": every label value is an object; "together": all of them are one.
        slices: the plane of "boxes".
        texts: of "text", one target per class.
        values: of "text", the label value of each class; (None,) = all of them together.
        samus: whether prompts are taken as SAMUS's evaluation takes them: one class after the other, each on its own,
            absent ones too, and clicks in its frame.
        classes: of SAMUS's protocol where objects are apart: the label values of the dataset.
    """

    kind: Kind = "click"
    seed: int = 0
    objects: Objects = "together"
    slices: PlaneName = "finest"
    texts: Prompt = field(default_factory=Prompt)
    values: tuple[int | None, ...] = (None,)
    samus: bool = False
    classes: tuple[int, ...] = ()

    @property
    def needs_object(self) -> bool:
        """Whether a case without an object cannot be asked about."""
        return self.kind not in ("none", "text") and not self.samus


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
    clicks = "point" in preset.prompts.kinds
    takes = {"click": clicks, "median-click": clicks, "box": "box" in preset.prompts.kinds}
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


def classes_of(labels: Mapping[int, str], kind: Kind, objects: Objects) -> tuple[int, ...]:
    """The classes that SAMUS's protocol asks about in every picture, whether they occur in it or not.

    Args:
        labels: value → name, as the dataset has them.
        kind: of prompts; without any from the reference, nothing is asked about a class.
        objects: together there are no classes.

    Raises:
        UsageError: the dataset does not say which there are.
    """
    if objects == "together" or kind in ("none", "text"):
        return ()
    if not labels:
        raise UsageError(
            "--protocol samus asks about every class in every picture, and the dataset does not name its classes",
            "name them in its listing, or give --objects together",
        )
    return tuple(sorted(labels))


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
    apart: Sequence[int] = ()
    if protocol.objects == "apart":
        apart = protocol.classes or [int(value) for value in np.unique(labels) if value > 0]
    values: tuple[int | None, ...] = tuple(apart) or (None,)
    if protocol.kind == "none":
        return Asked(values, Prompt(), ((),) * len(values))
    references = [labels > 0 if value is None else labels == value for value in values]
    if protocol.kind in ("click", "median-click"):
        rng = np.random.default_rng([protocol.seed, number]) if protocol.kind == "click" else None
        clicks = [_official_click(each, rng) if protocol.samus else _click(each, rng) for each in references]
        targets = [
            Target(str(number), "", (click,), absent=not click.positive) for number, click in enumerate(clicks, start=1)
        ]
        places = [click.position for click in clicks]
    else:
        axis = plane_of(scan, protocol.slices).through if protocol.kind == "boxes" else None
        targets, places = _boxes(references, axis)
    return Asked(values, Prompt(tuple(targets)), tuple(places))


def _click(reference: NDArray[np.bool_], rng: Generator | None) -> Click:
    """A click in a reference (I, J, K), at a random voxel of it, or without a generator at its middle one.

    The middle is that of slice by slice, row by row.
    """
    if rng is not None:
        foreground = np.argwhere(reference)
        i, j, k = foreground[rng.integers(len(foreground))].astype(float).tolist()
    else:
        foreground = np.argwhere(reference.transpose(2, 1, 0))
        k, j, i = foreground[len(foreground) // 2].astype(float).tolist()
    return Click((i, j, k), "ijk")


def _official_click(reference: NDArray[np.bool_], rng: Generator | None) -> Click:
    """A click as SAMUS's evaluation takes it from a reference (I, J, 1), in its frame; outside where there is nothing.

    Raises:
        InputError: a volume.
    """
    if reference.shape[2] != 1:
        raise InputError(
            f"the protocol of SAMUS clicks pictures, and this is a volume of {reference.shape} voxels",
            "leave --protocol out, or give its slices as pictures",
        )
    picture = reference[..., 0].T
    framed = in_frame(picture)
    present = bool(framed.any())
    pixels = np.argwhere(framed == present)
    row, column = pixels[len(pixels) // 2 if rng is None else rng.integers(len(pixels))].tolist()
    return Click((*from_frame(column, row, picture.shape), 0.0), "ijk", present)


def _boxes(references: list[NDArray[np.bool_]], axis: int | None) -> tuple[list[Target], list[tuple[float, ...]]]:
    """One target per reference (I, J, K): its exact box, or one in each slice across `axis`; and the box round all."""
    targets: list[Target] = []
    places: list[tuple[float, ...]] = []
    for number, reference in enumerate(references, start=1):
        # Around an absent object, which only SAMUS's protocol asks about, is the whole picture.
        voxels = np.argwhere(reference if reference.any() else np.ones_like(reference))
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
