"""The ellipse that fits the outline of an object in a picture: circumference, axes and area, as of fetal heads.

**The outline** is what separates pixels of the object from pixels outside it, as the middles of the pixels' sides. Of
an object in several parts it is that of the largest; holes have none. Sides on the edge of the picture, or of the part
of it that shows tissue, say where the picture ends and not where the object does: they are left out, so that a head
which is cut off there is completed instead of squeezed.

**The fit** is the direct least-squares fit of an ellipse (Fitzgibbon, Pilu and Fisher 1999, in the numerically stable
form of Halir and Flusser 1998). It does not depend on the axes in which points are given, so that stretched pixels fit
like square ones. Of HC18's reference masks it agrees with the ellipse of their second moments to 0.02 pixels, which
would shrink where a mask is cut off.

**The circumference** is exact, 4 a E(e²), with the complete elliptic integral of the second kind.

**No ellipse** there is of lines and dots, of what has another shape, of pieces, and of what is mostly out of sight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_POINTS = 12
"""Sides of pixels that an outline must have: an ellipse has five unknowns, and staircases are rough."""
LEAST_SEEN = 1 / 3
"""Share of an ellipse that must lie in the picture: what is mostly guessed is no measurement."""
LEAST_AXIS = 10
"""Pixels across: mostly the circumference is off by 1 % there and by 3 % at 4 pixels, at worst by 6 % and 15 %."""
LEAST_OVERLAP = 0.93
"""Dice of object and whole ellipse: that of a rectangle is 0.90. Where half of one is seen, half as much is amiss."""
LEAST_SHARE = 2 / 3
"""Share of an object that its largest part must have: of two equal ones neither is the object."""
NEAR = 4
"""Pixels: a sector is found to 2 and kept 2 wider, and a mask ends where tissue ends."""
TURN = 720
"""Points round an ellipse by which it is seen how much of it lies in the picture."""

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ellipse:
    """An ellipse in a plane; lengths in the plane's unit.

    Args:
        center: (2,).
        long, short: half axes, long >= short > 0.
        way: (2,) unit vector along the long axis.
    """

    center: Points
    long: float
    short: float
    way: Points

    @property
    def circumference(self) -> float:
        """Of a head: its head circumference, HC."""
        from scipy.special import ellipe

        return float(4 * self.long * ellipe(1 - (self.short / self.long) ** 2))

    @property
    def area(self) -> float:
        """Inside it."""
        return float(np.pi * self.long * self.short)

    @property
    def across(self) -> Points:
        """(2,) unit vector along the short axis."""
        return np.array([-self.way[1], self.way[0]])

    def points(self, count: int = TURN) -> Points:
        """(count, 2) points on it."""
        turn = np.linspace(0, 2 * np.pi, count, endpoint=False)[:, None]
        found: Points = self.center + self.long * np.cos(turn) * self.way + self.short * np.sin(turn) * self.across
        return found

    def holds(self, points: Points) -> NDArray[np.bool_]:
        """(N,): which of the points (N, 2) lie inside or on it."""
        away = points - self.center
        inside: NDArray[np.bool_] = (away @ self.way / self.long) ** 2 + (away @ self.across / self.short) ** 2 <= 1
        return inside


@dataclass(frozen=True, eq=False)
class Fitted:
    """An ellipse and how far it can be trusted.

    Args:
        ellipse: in mm, or in pixels where their size is unknown.
        overlap: Dice of the pixels that it holds and those of the object's largest part without holes, both where the
            picture shows tissue: 1 = the object is an ellipse.
        seen: share of it that lies where the picture shows tissue.
        parts: connected parts of the object (pixels that share a side or a corner), of which the largest was fitted.
    """

    ellipse: Ellipse
    overlap: float
    seen: float
    parts: int


def fit(mask: NDArray[np.bool_], steps: Points, tissue: NDArray[np.bool_] | None = None) -> tuple[Fitted | None, str]:
    """The ellipse of an object, or why there is none.

    Args:
        mask: (I, J), all of the picture, or of the part of it that shows tissue: what lies beyond is unknown.
        steps: (2, 2): column d is the step of axis d in mm; the plane's coordinates are those of pixel (0, 0)'s centre
            plus steps @ index.
        tissue: (I, J) where the picture shows tissue at all, such as an ultrasound sector; None: everywhere. An outline
            within `NEAR` pixels of its border is the border of what is shown.
    """
    shown, box = np.ones_like(mask) if tissue is None else tissue, _surroundings(mask)
    part, parts, share = _largest(mask[box])
    if share < LEAST_SHARE:
        return None, f"the largest of its {parts} parts has {share:.0%} of it, and an ellipse needs {LEAST_SHARE:.0%}"
    largest = np.zeros_like(mask)
    largest[box] = part
    sides = outline(part) + np.array([box[0].start, box[1].start])
    sides = sides[_clear(sides, shown)]
    if len(sides) < LEAST_POINTS:
        return None, f"its outline has {len(sides)} sides of pixels, and an ellipse needs {LEAST_POINTS}"
    found = through(sides @ steps.T)
    if found is None:
        return None, "no ellipse fits its outline"
    inverse = np.linalg.inv(steps).T
    seen = float(_seen(found.points() @ inverse, shown).mean())
    if seen < LEAST_SEEN:
        return None, f"only {seen:.0%} of the ellipse that fits its outline lies in the picture"
    across = _least_pixels(found, steps)
    if across < LEAST_AXIS:
        return None, f"the ellipse that fits its outline is {across:.1f} pixels across, and one needs {LEAST_AXIS}"
    # What `redraw` has completed beyond what is shown is compared as what is seen of it.
    overlap, least = _overlap(found, largest & shown, steps, shown), 1 - (1 - LEAST_OVERLAP) * seen
    if overlap < least:
        return None, f"it is none: Dice with the ellipse that fits its outline is {overlap:.3f}, below {least:.3f}"
    return Fitted(found, overlap, seen, parts), ""


def outline(mask: NDArray[np.bool_]) -> Points:
    """(N, 2) indices of the middles of the pixel sides (I, J) between the object and what lies outside it."""
    sides = []
    for axis in (0, 1):
        at = np.argwhere(np.diff(mask, axis=axis)).astype(np.float64)
        at[:, axis] += 0.5
        sides.append(at)
    return np.concatenate(sides)


def through(points: Points) -> Ellipse | None:
    """The ellipse with the least sum of squared algebraic distances to points (N, 2); None where there is none."""
    middle, size = points.mean(axis=0), float(points.std())
    if not size > 0:
        return None
    x, y = ((points - middle) / size).T
    squares, lines = np.stack([x * x, x * y, y * y], axis=1), np.stack([x, y, np.ones_like(x)], axis=1)
    try:
        linear = -np.linalg.solve(lines.T @ lines, lines.T @ squares)
        scatter = squares.T @ squares + squares.T @ lines @ linear
        # The constraint 4ac - b² = 1 makes a conic an ellipse.
        _, vectors = np.linalg.eig(np.stack([scatter[2] / 2, -scatter[1], scatter[0] / 2]))
    except np.linalg.LinAlgError:
        return None
    vectors = vectors.real
    elliptic = 4 * vectors[0] * vectors[2] - vectors[1] ** 2
    if not np.any(elliptic > 0):
        return None
    quadratic = vectors[:, int(np.argmax(elliptic))]
    return _of_conic(quadratic, linear @ quadratic, middle, size)


def _of_conic(quadratic: Points, linear: Points, middle: Points, size: float) -> Ellipse | None:
    """The ellipse ax² + bxy + cy² + dx + ey + f = 0 of points that were moved by `middle` and divided by `size`."""
    a, b, c = quadratic
    form = np.array([[a, b / 2], [b / 2, c]])
    center = np.linalg.solve(2 * form, -linear[:2])
    values, ways = np.linalg.eigh(form / (center @ form @ center - linear[2]))
    if not (np.isfinite(values).all() and values.min() > 0):
        return None
    long, short = size / np.sqrt(values)
    return Ellipse(middle + size * center, float(long), float(short), ways[:, 0])


def _surroundings(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The box of an object and one pixel round it, as far as the picture goes; all of it where there is none."""
    spans = []
    for axis in (0, 1):
        at = np.flatnonzero(mask.any(axis=1 - axis))
        spans.append(slice(max(int(at[0]) - 1, 0), int(at[-1]) + 2) if at.size else slice(0, mask.shape[axis]))
    return spans[0], spans[1]


def _largest(mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int, float]:
    """The largest part of an object without its holes, how many parts there are, and its share of the pixels."""
    from scipy import ndimage

    parts, count = ndimage.label(mask, np.ones((3, 3)))
    share = 1.0
    if count > 1:
        sizes = np.bincount(parts.ravel())[1:]
        mask, share = parts == np.argmax(sizes) + 1, float(sizes.max() / sizes.sum())
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(mask)
    return filled, int(count), share


def _least_pixels(ellipse: Ellipse, steps: Points) -> float:
    """The short axis of an ellipse as it lies on the pixels, in pixels: these may be oblong."""
    axes = np.linalg.inv(steps) @ np.stack([ellipse.long * ellipse.way, ellipse.short * ellipse.across], axis=1)
    return 2 * float(np.linalg.svd(axes, compute_uv=False)[-1])


def _seen(points: Points, shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,): which of the indices (N, 2) lie on pixels that show something."""
    at = np.rint(points).astype(int)
    low, high = at >= 0, at < np.array(shown.shape)
    inside: NDArray[np.bool_] = np.all(low & high, axis=1)
    inside[inside] = shown[tuple(at[inside].T)]
    return inside


def _clear(sides: Points, shown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,): which sides of pixels (N, 2) are no part of the border of what is shown; the picture's edge is none."""
    if shown.all():
        return np.ones(len(sides), bool)
    from scipy import ndimage

    deep = ndimage.binary_erosion(shown, np.ones((3, 3)), iterations=NEAR, border_value=1)
    low, high = np.floor(sides).astype(int), np.ceil(sides).astype(int)
    clear: NDArray[np.bool_] = deep[tuple(low.T)] & deep[tuple(high.T)]
    return clear


def drawn(ellipse: Ellipse, shape: tuple[int, ...], steps: Points) -> NDArray[np.bool_]:
    """(I, J) of a picture of that shape: the pixels whose centres an ellipse holds; `steps` as in `fit`."""
    rounds = ellipse.points() @ np.linalg.inv(steps).T
    low = np.clip(np.floor(rounds.min(axis=0)).astype(int), 0, shape)
    high = np.clip(np.ceil(rounds.max(axis=0)).astype(int) + 1, 0, shape)
    box = np.indices(high - low).reshape(2, -1).T + low
    held = np.zeros(shape, dtype=bool)
    held[low[0] : high[0], low[1] : high[1]] = ellipse.holds(box @ steps.T).reshape(high - low)
    return held


def _overlap(ellipse: Ellipse, mask: NDArray[np.bool_], steps: Points, shown: NDArray[np.bool_]) -> float:
    """Dice of the pixels (I, J) of what is `shown` that an ellipse holds, and those of a mask of it, not empty."""
    held = drawn(ellipse, mask.shape, steps) & shown
    return 2 * np.count_nonzero(held & mask) / (np.count_nonzero(held) + np.count_nonzero(mask))
