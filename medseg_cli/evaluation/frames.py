"""Scores of a cine: its frames are scored as if each were a case of its own, and the case has their means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from medseg_cli.metrics import Score


def mean_score(frames: Sequence[Score]) -> Score:
    """The mean of scores of one object in every frame; voxels and parts are those of all frames together.

    Values that a frame does not have, such as the distance from nothing, are left out of their mean.
    """
    return Score(
        dice=fmean(each.dice for each in frames),
        iou=fmean(each.iou for each in frames),
        tp=sum(each.tp for each in frames),
        fp=sum(each.fp for each in frames),
        fn=sum(each.fn for each in frames),
        tn=sum(each.tn for each in frames),
        precision=_mean_of(each.precision for each in frames),
        recall=_mean_of(each.recall for each in frames),
        hd_mm=_mean_of(each.hd_mm for each in frames),
        hd95_mm=_mean_of(each.hd95_mm for each in frames),
        assd_mm=_mean_of(each.assd_mm for each in frames),
        nsd={limit: fmean(each.nsd[limit] for each in frames) for limit in frames[0].nsd},
        volume_mm3=fmean(each.volume_mm3 for each in frames),
        reference_mm3=fmean(each.reference_mm3 for each in frames),
        volume_error=_mean_of(each.volume_error for each in frames),
        reference_parts=sum(each.reference_parts for each in frames),
        found_parts=sum(each.found_parts for each in frames),
        mask_parts=sum(each.mask_parts for each in frames),
        false_parts=sum(each.false_parts for each in frames),
    )


def _mean_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
