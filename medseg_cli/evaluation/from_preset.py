"""A preset that predicts every case of a dataset first, prompted from the references."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medseg_cli.datasets import Case
from medseg_cli.datasets.pairs import empty, label_values, open_case, problems
from medseg_cli.errors import InputError
from medseg_cli.evaluation.doubt import doubt_of
from medseg_cli.evaluation.ellipses import ellipse_scores
from medseg_cli.evaluation.failing import failed
from medseg_cli.evaluation.prompting import Asked, Protocol, ask
from medseg_cli.evaluation.results import CaseResult, Kind, Measures, ObjectScore, units_of
from medseg_cli.evaluation.scoring import LARGEST_LABEL, Maps, Scored, samus_values, score_values, values_in
from medseg_cli.pipelines import Pipeline
from medseg_cli.prompt import Prompt
from medseg_cli.read_ahead import read_ahead
from medseg_cli.readers import load_scan
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Spread
from medseg_cli.stages import Stages


def score_preset(
    pipeline: Pipeline, cases: Sequence[Case], protocol: Protocol, measures: Measures, name: str = ""
) -> Iterator[Scored]:
    """Segment every case from prompts that its reference gives, and score it on the scan's own grid.

    While one case is segmented the next is read. A case that fails is a result that says why.

    Args:
        pipeline: takes prompts of that kind.
        cases: labelled cases.
        protocol: how they are prompted.
        measures: what is measured.
        name: of the preset, for the report.
    """
    for number, (case, pair) in enumerate(read_ahead(cases, lambda each: _load(each, protocol))):
        plain = CaseResult(case.id, case.group, name, case.label.name)
        if isinstance(pair, Exception):
            yield Scored(failed(plain, pair))
            continue
        try:
            yield _score(pipeline, pair, plain, protocol, measures, number)
        except Exception as error:
            yield Scored(failed(plain, error))


@dataclass(frozen=True, eq=False)
class _Pair:
    """A case in memory.

    Args:
        ignored: (I, J, K) what nobody labelled, None if there is no such thing.
        circumference: in mm, as the dataset states it; None where it does not.
    """

    scan: Scan
    labels: NDArray[np.int64]
    ignored: NDArray[np.bool_] | None
    circumference: float | None = None


def _load(case: Case, protocol: Protocol) -> _Pair:
    """As `datasets.load_pair`; where nothing is taken from the reference it may be empty."""
    scan, label = open_case(case, load_scan)
    problem = next(problems(case, scan, label), None)
    if problem is not None:
        raise problem.error()
    labels = label_values(case, label)
    if protocol.needs_object and not np.any(labels > 0):
        raise empty(case).error()
    ignored = None if case.ignore is None else np.rint(label.voxels[0]) == case.ignore
    return _Pair(scan, labels, ignored, case.circumference)


def _score(
    pipeline: Pipeline,
    pair: _Pair,
    plain: CaseResult,
    protocol: Protocol,
    measures: Measures,
    number: int,
) -> Scored:
    scan, labels = pair.scan, pair.labels
    if labels.max() > LARGEST_LABEL:
        raise InputError(f"{plain.reference} holds {labels.max()}", f"labels are 0 to {LARGEST_LABEL}")
    asked = ask(scan, labels, protocol, number)
    if protocol.samus and asked.prompt.targets and protocol.kind != "text":
        return _score_each(pipeline, pair, plain, protocol.kind, asked, measures)
    segmentation = pipeline.segment(scan, asked.prompt, Stages())
    mask, tissue = segmentation.mask, segmentation.tissue
    if pair.ignored is not None:
        # What nobody labelled is neither right nor wrong.
        mask = np.where(pair.ignored, 0, mask)
    found, truth, values = _same_values(mask, labels, asked)
    places = asked.places if asked.prompt.targets else ((),) * len(values)
    together = asked.values == (None,)
    objects = _objects(found, truth, values, pair, measures, protocol.kind, places, together=together, tissue=tissue)
    if segmentation.spread is not None:
        # Without a prompt masks and maps have the preset's own values; together there is one map.
        order = range(1, len(values) + 1) if asked.prompt.targets or together else values
        objects = _with_doubts(objects, segmentation.spread, order, values, found, truth, pair)
    result = replace(plain, objects=objects, units=units_of(scan), voxels=int(truth.size))
    return Scored(result, Maps(scan, True, found, truth))


def _score_each(
    pipeline: Pipeline, pair: _Pair, plain: CaseResult, kind: Kind, asked: Asked, measures: Measures
) -> Scored:
    """Every object in a run of its own, as if the others were none: masks may overlap, and do not compete."""
    scan, labels = pair.scan, pair.labels
    objects: list[ObjectScore] = []
    masks: list[NDArray[np.bool_]] = []
    for value, target, place in zip(asked.values, asked.prompt.targets, asked.places, strict=True):
        segmentation = pipeline.segment(scan, Prompt((target,)), Stages())
        mask = segmentation.mask > 0
        if pair.ignored is not None:
            mask &= ~pair.ignored
        inside = labels > 0 if value is None else labels == value
        number = value or 1
        found, reference = (np.where(each, number, 0).astype(np.uint16) for each in (mask, inside))
        own = _objects(found, reference, [number], pair, measures, kind, (place,), together=value is None)
        if segmentation.spread is not None:
            own = _with_doubts(own, segmentation.spread, [1], [number], found, reference, pair)
        objects += own
        masks.append(mask)
    shown = np.zeros(labels.shape, np.uint16)
    # The worst is drawn, and must be whole.
    for one, mask in sorted(zip(objects, masks, strict=True), key=lambda each: -each[0].score.dice):
        shown[mask] = one.value or 1
    truth = (labels > 0 if asked.values == (None,) else labels).astype(np.uint16)
    result = replace(plain, objects=tuple(objects), units=units_of(scan), voxels=int(labels.size))
    return Scored(result, Maps(scan, True, shown, truth))


def _objects(
    found: NDArray[np.uint16],
    truth: NDArray[np.uint16],
    values: list[int],
    pair: _Pair,
    measures: Measures,
    kind: Kind,
    places: Sequence[tuple[float, ...]],
    *,
    together: bool,
    tissue: NDArray[np.bool_] | None = None,
) -> tuple[ObjectScore, ...]:
    """The scores of label values in two label maps (I, J, K), with how they were prompted; predictions end at the
    border of `tissue` (I, J)."""
    scores = score_values(found, truth, values, pair.scan.spacing, measures, pair.scan.cine)
    official = samus_values(found, truth, values, measures)
    ellipses = ellipse_scores(found, truth, values, pair.scan, measures.shapes, pair.circumference, tissue)
    return tuple(
        ObjectScore(score, None if together else value, kind, place, samus, ellipse)
        for value, place, score, samus, ellipse in zip(values, places, scores, official, ellipses, strict=True)
    )


def _with_doubts(
    objects: Sequence[ObjectScore],
    spread: Spread,
    order: Sequence[int],
    values: Sequence[int],
    found: NDArray[np.uint16],
    truth: NDArray[np.uint16],
    pair: _Pair,
) -> tuple[ObjectScore, ...]:
    """The objects, one per label value in two label maps (I, J, K), with what the network's answers tell of each.

    Args:
        order: number of each object among the maps of `spread`.
    """
    counted = np.ones(truth.shape, bool) if pair.ignored is None else ~pair.ignored
    steps, cine = pair.scan.spacing, pair.scan.cine
    return tuple(
        replace(each, doubt=doubt_of(spread, number, found == value, truth == value, counted, steps=steps, cine=cine))
        for each, number, value in zip(objects, order, values, strict=True)
    )


def _same_values(
    mask: NDArray[np.unsignedinteger], labels: NDArray[np.int64], asked: Asked
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], list[int]]:
    """The mask and the reference with the same value for the same object, and the values.

    A prompted mask counts its targets from 1; one without a prompt has the values that the preset learnt.
    """
    if asked.values == (None,):
        return (mask > 0).astype(np.uint16), (labels > 0).astype(np.uint16), [1]
    truth = labels.astype(np.uint16)
    if not asked.prompt.targets:
        return mask.astype(np.uint16), truth, values_in(mask, truth)
    values = [value for value in asked.values if value is not None]
    table = np.zeros(LARGEST_LABEL + 1, np.uint16)
    table[1 : len(values) + 1] = values
    return table[mask], truth, values
