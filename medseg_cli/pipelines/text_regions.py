"""Coarse masks of a class through a scan, made consistent in 3-D, and the boxes and clicks that they become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from medseg_cli import coarse
from medseg_cli.dense_crf import V1, V2, dense_crf
from medseg_cli.prompt import Box, Click
from medseg_cli.slices import Plane


class Coarse(BaseModel):
    """How a map from 0 to 1 becomes a coarse mask.

    Attributes:
        method: "two-means" splits the values in two groups (v2's k-means, Otsu's threshold), "crf" draws the map to the
            picture's edges (v1), "threshold" keeps what is above `level`.
        level: of "threshold".
        parts: largest parts that are kept of each picture; 0 = all.
        kernels: sizes of the CRF's kernels, as published with v1 or v2.
        longest: longer side in pixels on which the CRF runs; it is as fine as the map needs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["two-means", "crf", "threshold"] = "two-means"
    level: float = Field(default=0.3, gt=0, lt=1)
    parts: int = Field(default=1, ge=0)
    kernels: Literal["v1", "v2"] = "v1"
    longest: int = Field(default=256, ge=32)


class Asking(BaseModel):
    """What a coarse mask becomes for the model that draws the fine one.

    Attributes:
        kind: "box" round the whole mask, "boxes" round each part, "points" in it, or "both" box and points.
        margin: pixels by which boxes are widened.
        points: how many.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["box", "boxes", "points", "both"] = "box"
    margin: int = Field(default=0, ge=0)
    points: int = Field(default=10, ge=1)


def coarse_mask(saliency: NDArray[np.float32], picture: NDArray[np.uint8], how: Coarse) -> NDArray[np.bool_]:
    """The coarse mask (H, W) of a map (H, W) from 0 to 1 and its picture (H, W, 3)."""
    if how.method == "two-means":
        mask = coarse.two_means(saliency)
    elif how.method == "threshold":
        mask = saliency > how.level
    else:
        mask = _by_crf(saliency, picture, how)
    return coarse.largest_parts(mask, how.parts) if how.parts else mask


def _by_crf(saliency: NDArray[np.float32], picture: NDArray[np.uint8], how: Coarse) -> NDArray[np.bool_]:
    high, wide = saliency.shape
    zoom = min(1.0, how.longest / max(high, wide))
    kernels = V1 if how.kernels == "v1" else V2
    if zoom == 1.0:
        return dense_crf(picture, saliency, kernels)
    small = dense_crf(
        ndimage.zoom(picture, (zoom, zoom, 1), order=1), ndimage.zoom(saliency, zoom, order=1).clip(0, 1), kernels
    )
    rows = np.minimum((np.arange(high) + 0.5) * small.shape[0] / high, small.shape[0] - 1).astype(int)
    columns = np.minimum((np.arange(wide) + 0.5) * small.shape[1] / wide, small.shape[1] - 1).astype(int)
    return small[rows[:, None], columns]


def one_body(masks: NDArray[np.bool_], parts: int) -> NDArray[np.bool_]:
    """Of the coarse masks of neighbouring slices (K, H, W) the `parts` largest that hang together; 0 = all."""
    if parts == 0 or not masks.any():
        return masks
    labels = cc3d.connected_components(masks.view(np.uint8), connectivity=26)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = np.argsort(-sizes, kind="stable")[:parts]
    body: NDArray[np.bool_] = np.isin(labels, kept[sizes[kept] > 0])
    return body


def consistent(masks: dict[int, NDArray[np.bool_]], parts: int) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """The coarse masks of a volume without what hangs on to nothing in the neighbouring slices."""
    if not masks:
        return
    first, last = min(masks), max(masks)
    stack = np.zeros((last - first + 1, *next(iter(masks.values())).shape), bool)
    for index, mask in masks.items():
        stack[index - first] = mask
    for index, mask in enumerate(one_body(stack, parts), start=first):
        if mask.any():
            yield index, mask


@dataclass(frozen=True)
class Pointed:
    """Where a class is: boxes and clicks in voxels ijk."""

    boxes: tuple[Box, ...]
    clicks: tuple[Click, ...]


def pointed(masks: Mapping[int, NDArray[np.bool_]], plane: Plane, how: Asking, seed: int) -> Pointed:
    """Prompts of one class for a 2-D model: in every slice with a coarse mask (H, W) what `how` says."""
    boxes: list[Box] = []
    clicks: list[Click] = []
    for index, mask in sorted(masks.items()):
        if how.kind != "points":
            for x0, y0, x1, y1 in coarse.boxes(mask, apart=how.kind == "boxes", margin=how.margin):
                # A single pixel at the picture's edge would make a box without extent.
                places = [[min(x0, x1 - 1), min(y0, y1 - 1)], [x1, y1]]
                corners = plane.to_voxels(np.array(places, np.float64), index)
                low, high = corners.min(0), corners.max(0)
                boxes.append(Box(tuple(low.tolist()), tuple(high.tolist())))
        if how.kind in ("points", "both"):
            xy = coarse.points(mask, how.points, seed + index).astype(np.float64)
            clicks += [Click(tuple(ijk)) for ijk in plane.to_voxels(xy, index).tolist()]
    return Pointed(tuple(boxes), tuple(clicks))


def middle(masks: Mapping[int, NDArray[np.bool_]], plane: Plane) -> Click | None:
    """One click for a 3-D model: the voxel deepest inside the coarse masks; None where they are empty."""
    if not any(mask.any() for mask in masks.values()):
        return None
    first, last = min(masks), max(masks)
    shape = next(iter(masks.values())).shape
    # A rim of nothing: what touches the edge is not deep there.
    stack = np.zeros((last - first + 3, shape[0] + 2, shape[1] + 2), bool)
    for index, mask in masks.items():
        stack[index - first + 1, 1:-1, 1:-1] = mask
    depth = ndimage.distance_transform_edt(stack, sampling=(plane.spacing[plane.through], *plane.pixel_mm))
    k, y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    ijk = plane.to_voxels(np.array([[x - 1.0, y - 1.0]]), int(k) - 1 + first)[0]
    return Click(tuple(ijk.tolist()))
