"""Ellipses of predictions against those of references, and against circumferences that people measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medseg_cli.biometry import Biometry, biometry_of
from medseg_cli.scan import Scan

AGAINST = {"circumference_error_mm": "the reference's ellipse", "circumference_error_to_stated_mm": "what was measured"}
"""Metrics that are summed up with mean, spread and absolute mean, and what they compare with."""
EMPTY = "it is empty"


@dataclass(frozen=True)
class Shapes:
    """Which objects have an ellipse.

    Args:
        every: whether somebody asked for the ellipse of every object.
        rims: label value → rim of it (`preset_format.Label`), of labels that a preset declares ellipses.
        default: rim of what is prompted, where that is an ellipse; None where it is not.
    """

    every: bool = False
    rims: Mapping[int, float] = field(default_factory=dict)
    default: float | None = None

    def rim(self, value: int) -> float | None:
        """The rim of a label value; None where nobody says that it is an ellipse."""
        known = self.rims.get(value, self.default)
        return 0.0 if known is None and self.every else known


@dataclass(frozen=True)
class EllipseScore:
    """The ellipses of one object.

    Args:
        found, reference: of the prediction and of the reference; None where a mask has none.
        stated: circumference in mm that the dataset states; None where it does not.
        why: "prediction", "reference" → why that mask has no ellipse.
    """

    found: Biometry | None
    reference: Biometry | None
    stated: float | None = None
    why: Mapping[str, str] = field(default_factory=dict)


def ellipse_scores(
    prediction: NDArray[np.unsignedinteger],
    reference: NDArray[np.unsignedinteger],
    values: Sequence[int],
    scan: Scan,
    shapes: Shapes,
    stated: float | None = None,
    tissue: NDArray[np.bool_] | None = None,
) -> list[EllipseScore | None]:
    """One per label value; None for what is no ellipse.

    Args:
        prediction, reference: (I, J, K) label maps on one grid; with K > 1 there are no ellipses.
        values: labels.
        scan: whose grid it is.
        shapes: which of them have one.
        stated: circumference in mm of the one object; where there are several, nobody says whose it is.
        tissue: (I, J) where predictions can be, `Segmentation.tissue`.
    """
    if reference.shape[2] != 1:
        return [None] * len(values)
    alone = stated if len(values) == 1 else None
    scores: list[EllipseScore | None] = []
    for value in values:
        rim = shapes.rim(value)
        if rim is None and alone is None:
            scores.append(None)
            continue
        one, other = (
            biometry_of(each[..., 0] == value, scan, rim or 0.0, tissue=shown)
            if np.any(each == value)
            else (None, EMPTY)
            for each, shown in ((prediction, tissue), (reference, None))
        )
        why = {name: text for name, (_, text) in (("prediction", one), ("reference", other)) if text}
        scores.append(EllipseScore(one[0], other[0], alone, why))
    return scores


def ellipse_numbers(of: EllipseScore, length: str) -> dict[str, float | None]:
    """The measures by the names of the report; `length` is "mm" or "px". What people stated is in mm."""
    one, other = of.found, of.reference
    length_of, expected = one.circumference if one else None, other.circumference if other else None
    told: dict[str, float | None] = {
        f"circumference_{length}": length_of,
        f"reference_circumference_{length}": expected,
        **_error(f"circumference{{}}error_{length}", length_of, expected),
        f"long_axis_error_{length}": one.long_axis - other.long_axis if one and other else None,
        f"short_axis_error_{length}": one.short_axis - other.short_axis if one and other else None,
    }
    if of.stated is None or length != "mm":
        return told
    reference = _error("reference_circumference{}error_to_stated_mm", expected, of.stated)
    return {
        **told,
        "stated_circumference_mm": of.stated,
        **_error("circumference{}error_to_stated_mm", length_of, of.stated),
        **reference,
    }


def _error(name: str, value: float | None, expected: float | None) -> dict[str, float | None]:
    """The error with its sign, and without."""
    error = None if value is None or expected is None else value - expected
    return {name.format("_"): error, name.format("_abs_"): None if error is None else abs(error)}


def circumference_errors(rows: Sequence[Mapping[str, float | int | None]]) -> dict[str, dict[str, float | int | None]]:
    """What one looks at first, per metric of `AGAINST` that any row has: n, mean, sd (of a sample) and absolute mean.

    Args:
        rows: the numbers of objects.
    """
    told: dict[str, dict[str, float | int | None]] = {}
    for name in AGAINST:
        values = np.array([row[name] for row in rows if row.get(name) is not None], dtype=float)
        if values.size:
            told[name] = {
                "n": int(values.size),
                "mean": round(float(values.mean()), 4),
                "sd": round(float(values.std(ddof=1)), 4) if values.size > 1 else None,
                "abs_mean": round(float(np.abs(values).mean()), 4),
            }
    return told


def told_errors(rows: Sequence[Mapping[str, float | int | None]]) -> list[str]:
    """The same in words."""
    lines = []
    for name, each in circumference_errors(rows).items():
        spread = "" if each["sd"] is None else f" ± {each['sd']:.2f}"
        lines.append(
            f"circumference (HC) against {AGAINST[name]}: {each['mean']:+.2f}{spread} mm, "
            f"absolute {each['abs_mean']:.2f} mm, {each['n']} objects"
        )
    return lines
