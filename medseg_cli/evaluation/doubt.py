"""Whether uncertainty tells errors: where a network wavers against where it is wrong, in objects and over them.

**In an object** the standard deviation of the answers is a score of each pixel, and "wrong" what it should tell: the
area under the ROC curve is the chance that a wrong pixel has more of it than a right one, ties by half. Wrong pixels
lie along the border whatever the network thinks, so that nearness to the mask's border is scored in the same way:
uncertainty is worth what it knows beyond that.

**Over objects** Spearman's rank correlation says whether those with more doubt are those that are drawn worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg_cli.segmentation import Spread

FEWEST = 3
"""Objects: two are always in order, or in the opposite one."""
SIGNS = {"uncertainty_inside": "inside the mask", "uncertainty_disagreement": "disagreement of the answers"}
"""Numbers of an object that rise with doubt, and what they are called."""
AREAS = {"uncertainty_auc": "by uncertainty", "uncertainty_auc_of_border": "by nearness to the mask's border alone"}


@dataclass(frozen=True)
class Doubt:
    """One object that a network was asked about several times.

    Args:
        inside: standard deviation of the probability, mean over the mask; None of an empty one.
        agreement: Dice of the answers with the mask, mean.
        area: how well the standard deviation tells wrong pixels; None where all are right, or all wrong.
        border_area: how well nearness to the mask's border does; None without a border, too.
        answers, of: how many were compared, and what they are.
    """

    inside: float | None
    agreement: float
    area: float | None
    border_area: float | None
    answers: int = 0
    of: str = ""


def doubt_of(
    spread: Spread,
    number: int,
    found: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    counted: NDArray[np.bool_],
    *,
    steps: tuple[float, float, float],
    cine: bool,
) -> Doubt | None:
    """The doubt about one object, and what it tells of its errors; None where nobody asked about it.

    Args:
        spread: what the answers were.
        number: of the object among its maps.
        found, truth: (I, J, K) its mask and its reference.
        counted: (I, J, K) voxels that are right or wrong.
        steps: mm along i, j, k.
        cine: whether k counts frames, between which there is no distance.
    """
    if number not in spread.maps:
        return None
    values, wrong = spread.maps[number][counted], (found != truth)[counted]
    border = _nearness(found, steps, cine)
    scores = spread.scores[number]
    return Doubt(
        scores["sd_inside"],
        scores["agreement"]["mean"],
        area_under_curve(values, wrong),
        None if border is None else area_under_curve(border[counted], wrong),
        spread.answers,
        spread.of,
    )


def doubt_numbers(of: Doubt) -> dict[str, float | None]:
    """The measures by the names of the report."""
    return {
        "uncertainty_inside": of.inside,
        "uncertainty_disagreement": 1 - of.agreement,
        "uncertainty_auc": of.area,
        "uncertainty_auc_of_border": of.border_area,
    }


def area_under_curve(scores: NDArray[np.floating[Any]], wrong: NDArray[np.bool_]) -> float | None:
    """The chance that what is wrong has a higher score than what is not; None where there is but one of both.

    Args:
        scores: (N,).
        wrong: (N,).
    """
    low, high = np.sort(scores[~wrong]), scores[wrong]
    if not low.size or not high.size:
        return None
    below = np.searchsorted(low, high, "left").sum(dtype=np.int64) + np.searchsorted(low, high, "right").sum(
        dtype=np.int64
    )
    return float(below) / (2 * low.size * high.size)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's, with mean ranks of equal values; None of fewer than `FEWEST`, and where all values are equal."""
    if len(first) < FEWEST or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def correlations(doubts: Sequence[Doubt], groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any] | None:
    """What `summary.json` says under `uncertainty`; None where no answers were compared.

    Args:
        doubts: of all objects that have one.
        groups: label, or "all" → the numbers of its objects.
    """
    if not doubts:
        return None
    told = {label: _told(rows) for label, rows in groups.items()}
    return {"answers": max(each.answers for each in doubts), "of": doubts[0].of, "labels": told}


def told_doubts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same of one group in words."""
    found = _told(rows)
    ranks = [
        f"{word} {_figure(found[name]['spearman'])} ({found[name]['n']} objects)"
        for name, word in SIGNS.items()
        if name in found
    ]
    areas = [f"{found[name]['mean']:.3f} {word}" for name, word in AREAS.items() if name in found]
    lines = [f"rank correlation of uncertainty with 1 - Dice: {', '.join(ranks)}"] if ranks else []
    return [*lines, *([f"wrong pixels, area under the curve: {', '.join(areas)}"] if areas else [])]


def _told(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name in SIGNS:
        pairs = [(row[name], 1 - row["Dice"]) for row in rows if row.get(name) is not None]
        if pairs:
            found = rank_correlation(*zip(*pairs, strict=True))
            told[name] = {"n": len(pairs), "spearman": None if found is None else round(found, 4)}
    for name in AREAS:
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            told[name] = {"n": len(values), "mean": round(float(np.mean(values)), 4)}
    return told


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _nearness(mask: NDArray[np.bool_], steps: tuple[float, float, float], cine: bool) -> NDArray[np.float64] | None:
    """(I, J, K) how near each voxel is to the border of a mask, minus mm; None where it has none."""
    if not mask.any() or mask.all():
        return None
    if not cine:
        return -np.where(mask, _inward(mask, steps), _inward(~mask, steps))
    # A frame without a border is as far from one as can be.
    near = np.full(mask.shape, -np.inf)
    for k in range(mask.shape[2]):
        frame = _nearness(mask[..., k : k + 1], steps, False)
        if frame is not None:
            near[..., k : k + 1] = frame
    return near


def _inward(mask: NDArray[np.bool_], steps: tuple[float, float, float]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(mask, sampling=steps)
    return distance
