"""Predictions that lie in files, scored against references that lie in files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medseg_cli.datasets import table
from medseg_cli.datasets.facts import Facts
from medseg_cli.errors import InputError
from medseg_cli.evaluation.ellipses import ellipse_scores
from medseg_cli.evaluation.failing import failed
from medseg_cli.evaluation.label_maps import on_one_grid, read_map
from medseg_cli.evaluation.label_table import LabelTable
from medseg_cli.evaluation.matching import Pair, case_key
from medseg_cli.evaluation.results import CaseResult, Measures, ObjectScore, units_of
from medseg_cli.evaluation.scoring import Maps, Scored, samus_values, score_values, values_in
from medseg_cli.prompt_mask import check_grid
from medseg_cli.read_ahead import read_ahead
from medseg_cli.readers.detect import detect
from medseg_cli.readers.files import read_file
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import Scan
from medseg_cli.writers.outputs import case_name

RESAMPLE = "give --resample-to ref to lay the prediction on the reference's grid, nearest neighbour"
DIFFERENT = "predict on the image that the reference was drawn on"


@dataclass(frozen=True)
class Rules:
    """How files are compared.

    Args:
        table: names of labels; a value that it does not name is refused.
        objects: "apart": each value is scored by itself; "together": all values above 0 are one object.
        resample: whether predictions are moved onto the reference's grid.
        missing: a case without a prediction "fail"s, or counts as an "empty" mask.
        reading: how files are read.
        facts: what tables beside the references say about them, by file name and by name without suffix.
        measures: what is measured.
    """

    table: LabelTable = field(default_factory=LabelTable)
    objects: Literal["apart", "together"] = "apart"
    resample: bool = False
    missing: Literal["fail", "empty"] = "fail"
    reading: ReadOptions = field(default_factory=ReadOptions)
    facts: Mapping[str, Facts] = field(default_factory=dict)
    measures: Measures = field(default_factory=Measures)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """Both label maps of a case on the reference's grid, the scan if there is one, and the circumference in mm that a
    table states."""

    reference: Scan
    truth: NDArray[np.uint16]
    found: NDArray[np.uint16]
    image: Scan | None
    notes: tuple[str, ...]
    circumference: float | None = None


def sizes_beside(reference: Path) -> tuple[dict[str, Facts], tuple[str, ...]]:
    """What tables in the folder of the references, or the one above it, say about pixel sizes and circumferences.

    Returns:
        The same as `datasets.table.beside`.

    Raises:
        InputError: a value that cannot be one.
    """
    folder = reference if reference.is_dir() else reference.parent
    for place in (folder, folder.parent):
        facts, notes = table.beside(place, ("spacing", "circumference"))
        if facts:
            return facts, notes
    return {}, ()


def score_files(pairs: Sequence[Pair], rules: Rules) -> Iterator[Scored]:
    """Every case in order; while one is scored the next is read. A case that fails is a result that says why."""
    for pair, loaded in read_ahead(pairs, lambda each: _load(each, rules)):
        plain = CaseResult(
            pair.id,
            prediction=pair.prediction.name if pair.prediction else "",
            reference=pair.reference.name,
        )
        if isinstance(loaded, Exception):
            yield Scored(failed(plain, loaded))
            continue
        try:
            yield _score(plain, loaded, rules)
        except Exception as error:
            yield Scored(failed(plain, error))


def _load(pair: Pair, rules: Rules) -> _Loaded:
    if pair.prediction is None and rules.missing == "fail":
        raise InputError(f"there is no prediction for {pair.reference.name}", "--missing empty counts it as empty")
    facts = _facts(pair.reference, rules)
    reference, truth, notes = read_map(pair.reference, _reading(pair.reference, facts, rules))
    if pair.prediction is None:
        found = np.zeros_like(truth)
        more: tuple[str, ...] = ("there is no prediction: it counts as empty",)
    else:
        prediction, found, more = read_map(pair.prediction, _reading(pair.prediction, facts, rules))
        (reference, truth), (prediction, found) = on_one_grid((reference, truth), (prediction, found))
        if rules.resample:
            found, moved = _resampled(prediction, found, reference)
            more = (*more, *moved)
        else:
            check_grid(prediction, reference, RESAMPLE if reference.provenance.format != "image" else DIFFERENT)
    image = read_file(pair.image, _reading(pair.image, facts, rules)) if pair.image else None
    if image is not None:
        check_grid(reference, image)
    stated = facts.get("circumference")
    return _Loaded(reference, truth, found, image, tuple(dict.fromkeys((*notes, *more))), stated)


def _facts(reference: Path, rules: Rules) -> Facts:
    """What a table says about a case."""
    names = (reference.name, case_name(reference), case_key(reference))
    return next((rules.facts[name] for name in names if name in rules.facts), Facts())


def _reading(path: Path, facts: Facts, rules: Rules) -> ReadOptions:
    """How a file of a case is read: a picture has the pixel size that a table states, unless the user states one."""
    stated = facts.get("spacing")
    if stated is None or rules.reading.spacing is not None or detect(path).format != "image":
        return rules.reading
    return replace(rules.reading, spacing=stated)


def _resampled(prediction: Scan, found: NDArray[np.uint16], reference: Scan) -> tuple[NDArray[np.uint16], list[str]]:
    if "image" in (prediction.provenance.format, reference.provenance.format):
        check_grid(prediction, reference, "pictures do not say where they lie, so --resample-to cannot move them")
        return found, []
    if prediction.shape == reference.shape and np.allclose(prediction.affine, reference.affine, atol=1e-4):
        return found, []
    from medseg_cli.geometry import nearest, scan_grid

    moved = nearest(found, scan_grid(prediction), scan_grid(reference))
    if found.any() and not moved.any():
        raise InputError(
            f"{prediction.provenance.path} lies nowhere on the grid of {reference.provenance.path}",
            "check that both show the same patient and the same scan",
        )
    return moved, [f"{prediction.provenance.path.name} was moved onto the reference's grid, nearest neighbour"]


def _score(plain: CaseResult, loaded: _Loaded, rules: Rules) -> Scored:
    found, truth = loaded.found, loaded.truth
    if rules.table.ignore is not None:
        # What nobody labelled is neither right nor wrong.
        ignored = truth == rules.table.ignore
        found, truth = np.where(ignored, 0, found), np.where(ignored, 0, truth)
    if rules.objects == "together":
        found, truth = (found > 0).astype(np.uint16), (truth > 0).astype(np.uint16)
        values = [1]
    else:
        values = values_in(found, truth)
        _check_named(values, found, plain, rules.table)
    lying = loaded.reference
    scores = score_values(found, truth, values, lying.spacing, rules.measures, lying.cine)
    official = samus_values(found, truth, values, rules.measures)
    shapes = rules.measures.shapes
    ellipses = ellipse_scores(found, truth, values, loaded.reference, shapes, loaded.circumference)
    together = rules.objects == "together"
    result = replace(
        plain,
        objects=tuple(
            ObjectScore(score, None if together else value, samus=samus, ellipse=ellipse)
            for value, score, samus, ellipse in zip(values, scores, official, ellipses, strict=True)
        ),
        units=units_of(loaded.reference),
        voxels=int(truth.size),
        notes=loaded.notes if values else (*loaded.notes, f"{plain.id}: both masks are empty, there is no label"),
    )
    return Scored(result, Maps(loaded.image or loaded.reference, loaded.image is not None, found, truth))


def _check_named(values: list[int], found: NDArray[np.uint16], plain: CaseResult, table: LabelTable) -> None:
    unnamed = [value for value in values if table.names and value not in table.names]
    if unnamed:
        file = plain.prediction if np.any(found == unnamed[0]) else plain.reference
        raise InputError(
            f"{file} holds label {', '.join(map(str, unnamed))}, which {table.source} does not name",
            "name it there, or give another table with --labels",
        )
