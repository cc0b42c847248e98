"""Many scores in few numbers: means, medians, percentiles, intervals by bootstrap, and paired tests.

**Intervals** are percentile bootstrap intervals of the mean, 95 %, `RESAMPLES` drawings: patients are drawn with
replacement, and with a patient all of its cases and objects, because those are not independent. The seed is stated in
the report.

**Paired tests** are Wilcoxon's signed-rank test, two-sided, on the differences of each patient's means; patients
without a difference are left out, as Wilcoxon did. No p value is corrected for the number of metrics or labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medseg_cli.evaluation.results import CaseResult, Number, numbers

RESAMPLES = 2000
DIGITS = 6
"""Decimals of the numbers in reports, and of those that are compared: rounding must not be taken for a difference."""
COUNTS = frozenset({"TP", "FP", "FN", "TN", "n_pred", "n_ref", "parts_ref", "parts_found", "parts_pred", "parts_false"})
"""Numbers of a case that have a mean and nothing else."""


@dataclass(frozen=True)
class Row:
    """The numbers of one object.

    Args:
        case, patient: whose it is.
        label: its key: the label value as text.
        numbers: metric → value, None where it does not exist.
        emptiness: why some do not, "" if both masks have voxels.
    """

    case: str
    patient: str
    label: str
    numbers: Mapping[str, Number]
    emptiness: str = ""


@dataclass(frozen=True)
class Spread:
    """How one metric is distributed over objects.

    Args:
        n: objects that have it.
        undefined: objects that do not.
        sd: standard deviation, as an estimate from a sample; None of a single object.
        low, high: 95 % interval of the mean; None with fewer than two patients.
    """

    n: int
    undefined: int
    mean: float
    median: float
    p05: float
    p25: float
    p75: float
    p95: float
    least: float
    most: float
    low: float | None
    high: float | None
    sd: float | None = None


def rows_of(results: Iterable[CaseResult]) -> list[Row]:
    """The objects of all cases that did not fail."""
    return [
        Row(result.id, result.patient, found.key, numbers(found, result.units), found.score.emptiness)
        for result in results
        for found in result.objects
    ]


def metrics_of(rows: Sequence[Row], *, counts: bool = False) -> list[str]:
    """Names of the metrics that rows have, in their order; of those that are more than counts, unless asked."""
    names = dict.fromkeys(name for row in rows for name in row.numbers)
    return [name for name in names if counts or name not in COUNTS]


def spread(rows: Sequence[Row], metric: str, seed: int) -> Spread | None:
    """The distribution of a metric; None where no row has it."""
    asked = [row for row in rows if metric in row.numbers]
    have = [row for row in asked if row.numbers[metric] is not None]
    if not have:
        return None
    values = np.array([row.numbers[metric] for row in have], dtype=float)
    p05, p25, median, p75, p95 = (float(each) for each in np.percentile(values, (5, 25, 50, 75, 95)))
    low, high = interval(values, [row.patient for row in have], seed) or (None, None)
    return Spread(
        n=len(have),
        undefined=len(asked) - len(have),
        mean=float(values.mean()),
        median=median,
        p05=p05,
        p25=p25,
        p75=p75,
        p95=p95,
        least=float(values.min()),
        most=float(values.max()),
        low=low,
        high=high,
        sd=float(values.std(ddof=1)) if len(have) > 1 else None,
    )


def interval(values: NDArray[np.float64], patients: Sequence[str], seed: int) -> tuple[float, float] | None:
    """95 % interval of the mean of `values` (N,) that belong to `patients` (N); None with fewer than two of them."""
    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    sums, counts = np.bincount(owner, values), np.bincount(owner)
    size = len(sums)
    if size < 2:
        return None
    drawn = _drawn(size, seed)
    low, high = np.percentile(drawn @ sums / (drawn @ counts), (2.5, 97.5))
    return float(low), float(high)


@lru_cache(maxsize=4)
def _drawn(size: int, seed: int) -> NDArray[np.float64]:
    """(RESAMPLES, size): how often each patient is drawn. Kept, because every metric of every label asks for it."""
    drawn = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=RESAMPLES)
    return drawn.astype(np.float64)


@dataclass(frozen=True)
class Comparison:
    """One metric of two methods on the same objects.

    Args:
        metric: its name.
        label: of the objects; "all" together.
        n: objects that both have the metric for.
        left_out: objects that only one of them, or neither, has it for.
        patients: how many.
        mean, other_mean: of this method and of the other one.
        difference: mean of this minus the other.
        low, high: its 95 % interval; None with fewer than two patients.
        larger, smaller, equal: objects where this one's value is larger, smaller, the same.
        p: of the signed-rank test; None where all differences are 0, or there are fewer than two patients.
    """

    metric: str
    label: str
    n: int
    left_out: int
    patients: int
    mean: float
    other_mean: float
    difference: float
    low: float | None
    high: float | None
    larger: int
    smaller: int
    equal: int
    p: float | None


def compare(rows: Sequence[Row], others: Sequence[Row], metric: str, label: str, seed: int) -> Comparison | None:
    """A metric of two methods, object by object; None where no object has it in both.

    Args:
        rows, others: of this method and of the other one.
        metric: relative errors are compared without their sign.
        label: of the objects, "all" for every one.
        seed: of the interval.
    """
    theirs = {(row.case, row.label): row.numbers.get(metric) for row in others}
    asked = [row for row in rows if label in ("all", row.label) and (row.case, row.label) in theirs]
    pairs = [(row, row.numbers.get(metric), theirs[row.case, row.label]) for row in asked]
    both = [(row.patient, mine, other) for row, mine, other in pairs if mine is not None and other is not None]
    if not both:
        return None
    patients = [patient for patient, _, _ in both]
    mine, other = np.array([[round(a, DIGITS), round(b, DIGITS)] for _, a, b in both], dtype=float).T
    if "error" in metric:
        mine, other = np.abs(mine), np.abs(other)
    difference = mine - other
    low, high = interval(difference, patients, seed) or (None, None)
    return Comparison(
        metric=metric,
        label=label,
        n=len(both),
        left_out=len(asked) - len(both),
        patients=len(set(patients)),
        mean=float(mine.mean()),
        other_mean=float(other.mean()),
        difference=float(difference.mean()),
        low=low,
        high=high,
        larger=int(np.count_nonzero(difference > 0)),
        smaller=int(np.count_nonzero(difference < 0)),
        equal=int(np.count_nonzero(difference == 0)),
        p=_signed_rank(difference, patients),
    )


def _signed_rank(difference: NDArray[np.float64], patients: Sequence[str]) -> float | None:
    from scipy.stats import wilcoxon

    _, owner = np.unique(np.asarray(patients), return_inverse=True)
    means = np.bincount(owner, difference) / np.bincount(owner)
    if len(means) < 2 or not np.any(means):
        return None
    return float(wilcoxon(means, zero_method="wilcox").pvalue)
