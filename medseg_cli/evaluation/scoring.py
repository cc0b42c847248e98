"""Scores of one case: a label map against a reference on the same grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg_cli.errors import InputError
from medseg_cli.evaluation.frames import mean_score
from medseg_cli.evaluation.results import CaseResult, Measures
from medseg_cli.evaluation.samus_scores import SamusScore, in_frame, samus_score
from medseg_cli.metrics import Score, score
from medseg_cli.scan import Scan

LARGEST_LABEL = np.iinfo(np.uint16).max

Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Maps:
    """Both label maps of a case, for its picture.

    Args:
        scan: what they lie on, or the reference's own file where nothing else is known.
        has_image: whether `scan` is an image.
        prediction, reference: (I, J, K) values.
    """

    scan: Scan
    has_image: bool
    prediction: NDArray[np.unsignedinteger]
    reference: NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Scored:
    """A case's result, with its maps unless it failed."""

    result: CaseResult
    maps: Maps | None = None


def values_in(*maps: NDArray[np.unsignedinteger]) -> list[int]:
    """The labels above 0 that any of the maps holds, sorted."""
    # Slice by slice: numpy would turn all values into 8-byte indices at once.
    counts = sum(np.bincount(plane.ravel(), minlength=LARGEST_LABEL + 1) for each in maps for plane in each)
    return [int(value) for value in np.flatnonzero(counts) if value]


def score_values(
    prediction: NDArray[np.unsignedinteger],
    reference: NDArray[np.unsignedinteger],
    values: Sequence[int],
    spacing: tuple[float, float, float],
    measures: Measures,
    cine: bool = False,
) -> list[Score]:
    """One score per label value, each worked out in the box that holds it, so that many small labels cost little.

    Args:
        prediction, reference: (I, J, K) label maps on one grid.
        values: labels, 1 to `LARGEST_LABEL`.
        spacing: mm along i, j, k.
        measures: what is measured.
        cine: whether k counts frames over time, whose scores are averaged.
    """
    if cine:
        planes = [
            score_values(prediction[:, :, k : k + 1], reference[:, :, k : k + 1], values, spacing, measures)
            for k in range(reference.shape[2])
        ]
        return [mean_score(frames) for frames in zip(*planes, strict=True)]
    places = [ndimage.find_objects(each) for each in (prediction, reference)]
    scores = []
    for value in values:
        found = [boxes[value - 1] for boxes in places if value <= len(boxes) and boxes[value - 1] is not None]
        box = _around(found) if found else (slice(0, 0),) * 3
        scores.append(
            score(
                prediction[box] == value,
                reference[box] == value,
                spacing,
                nsd_mm=measures.nsd_mm,
                hit=measures.hit,
                grid=reference.shape,
            )
        )
    return scores


def samus_values(
    prediction: NDArray[np.unsignedinteger],
    reference: NDArray[np.unsignedinteger],
    values: Sequence[int],
    measures: Measures,
) -> list[SamusScore | None]:
    """One of SAMUS's own scores per label value, or None for each where nobody asked for them.

    Args:
        prediction, reference: (I, J, 1) label maps on one grid, I across and J down the picture.
        values: labels.
        measures: what is measured.

    Raises:
        InputError: a volume, which SAMUS's evaluation does not know.
    """
    if not measures.samus:
        return [None] * len(values)
    if reference.shape[2] != 1:
        raise InputError(
            f"the protocol of SAMUS measures pictures, and this is a volume of {reference.shape} voxels",
            "leave --protocol out, or give its slices as pictures",
        )
    one, other = prediction[..., 0].T, reference[..., 0].T
    return [samus_score(in_frame(one == value), in_frame(other == value)) for value in values]


def _around(boxes: list[Box]) -> Box:
    """The box that holds all boxes."""
    return tuple(
        slice(min(each.start for each in axis), max(each.stop for each in axis)) for axis in zip(*boxes, strict=True)
    )
