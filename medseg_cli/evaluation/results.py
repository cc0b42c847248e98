"""What an evaluation finds: scores per object, objects per case, and cases that failed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from medseg_cli.evaluation.doubt import Doubt, doubt_numbers
from medseg_cli.evaluation.ellipses import EllipseScore, Shapes, ellipse_numbers
from medseg_cli.evaluation.samus_scores import FRAME, SamusScore, samus_score
from medseg_cli.metrics import HIT, NSD_MM, Score, score
from medseg_cli.scan import Scan

Number = float | int | None
Kind = Literal["click", "median-click", "box", "boxes", "text", "none"]


@dataclass(frozen=True)
class Measures:
    """What is measured beyond what needs no choice.

    Args:
        nsd_mm: tolerances of NSD.
        hit: share of a part that makes a hit.
        samus: whether SAMUS's own numbers stand beside ours.
        shapes: whose ellipses are measured.
    """

    nsd_mm: tuple[float, ...] = NSD_MM
    hit: float = HIT
    samus: bool = False
    shapes: Shapes = field(default_factory=Shapes)


@dataclass(frozen=True)
class ObjectScore:
    """One object of a case: how and where it was prompted, and how it scored.

    Args:
        score: against the reference.
        value: the label value that is the object; None where all values together are.
        kind: of prompt; "none" too where masks came from files.
        place: voxel indices: i, j, k of a click; i0, j0, k0, i1, j1, k1 of a box or round all boxes, both corners
            inside; () of none.
        samus: by SAMUS's formulas in its frame, where these were asked for.
        ellipse: of an object that has one.
        doubt: of one about which several answers were compared.
    """

    score: Score
    value: int | None = None
    kind: Kind = "none"
    place: tuple[float, ...] = ()
    samus: SamusScore | None = None
    ellipse: EllipseScore | None = None
    doubt: Doubt | None = None

    @property
    def key(self) -> str:
        """Its name among the metrics of a case: the label value; "1" for all of them together."""
        return str(self.value or 1)


@dataclass(frozen=True)
class Units:
    """What numbers of a case are counted in.

    Args:
        length: "mm", or "px" where a picture does not state its pixel size.
        size: "ml", "mm2" of a picture, or "px".
        per_size: how many mm³, mm² or pixels one of it is.
    """

    length: Literal["mm", "px"] = "mm"
    size: Literal["ml", "mm2", "px"] = "ml"
    per_size: float = 1000.0


@dataclass(frozen=True)
class CaseResult:
    """One case: its objects, or why there are none.

    Args:
        id: names it in the report.
        group: the patient; cases of one patient are not independent.
        prediction, reference: file names, or the preset's name.
        objects: by label value.
        units: of distances and sizes.
        voxels: of the grid.
        failure: why it could not be scored, one line; "" if it was.
        hint: what can be done about it.
        exit_code: of the failure, as if it had ended the run.
        notes: what was assumed or changed, one sentence each.
    """

    id: str
    group: str = ""
    prediction: str = ""
    reference: str = ""
    objects: tuple[ObjectScore, ...] = ()
    units: Units = Units()
    voxels: int = 0
    failure: str = ""
    hint: str = ""
    exit_code: int = 0
    notes: tuple[str, ...] = ()

    @property
    def patient(self) -> str:
        """Which cases belong together when it comes to chance."""
        return self.group or self.id


def units_of(scan: Scan) -> Units:
    """The units of a scan's numbers."""
    if not scan.spacing_known:
        return Units("px", "px", 1.0)
    if not scan.flat:
        return Units()
    # Volumes are counted with the third side, which a picture has by name only.
    return Units("mm", "mm2", scan.spacing[2])


def numbers(found: ObjectScore, units: Units) -> dict[str, Number]:
    """The scores by the names of the report, with nnU-Net's for what its `summary.json` has."""
    of, length, size = found.score, units.length, "volume" if units.size == "ml" else "area"
    return {
        "Dice": of.dice,
        "IoU": of.iou,
        **{f"NSD_{limit:g}{length}": value for limit, value in of.nsd.items()},
        f"HD_{length}": of.hd_mm,
        f"HD95_{length}": of.hd95_mm,
        f"ASSD_{length}": of.assd_mm,
        "precision": of.precision,
        "recall": of.recall,
        f"{size}_{units.size}": of.volume_mm3 / units.per_size,
        f"reference_{size}_{units.size}": of.reference_mm3 / units.per_size,
        f"{size}_error_{units.size}": (of.volume_mm3 - of.reference_mm3) / units.per_size,
        f"{size}_error_relative": of.volume_error,
        "detection_rate": of.detection_rate,
        "parts_ref": of.reference_parts,
        "parts_found": of.found_parts,
        "parts_pred": of.mask_parts,
        "parts_false": of.false_parts,
        "TP": of.tp,
        "FP": of.fp,
        "FN": of.fn,
        "TN": of.tn,
        "n_pred": of.tp + of.fp,
        "n_ref": of.tp + of.fn,
        **(ellipse_numbers(found.ellipse, length) if found.ellipse else {}),
        **(samus_numbers(found.samus) if found.samus else {}),
        **(doubt_numbers(found.doubt) if found.doubt else {}),
    }


def samus_numbers(of: SamusScore) -> dict[str, Number]:
    """SAMUS's scores by the names of the report, which are none of ours."""
    return {
        "samus_Dice": of.dice,
        "samus_IoU": of.iou,
        "samus_Acc": of.accuracy,
        "samus_SE": of.sensitivity,
        "samus_SP": of.specificity,
        "hd_rowwise": of.hd_rowwise,
        "frame_HD_px": of.hd,
        "frame_HD95_px": of.hd95,
    }


def completed(results: list[CaseResult], measures: Measures) -> list[CaseResult]:
    """Every scored case with every label value that any case has: where both masks lack it, both are empty."""
    values = sorted({found.value for result in results for found in result.objects if found.value is not None})
    filled = []
    for result in results:
        have = {found.value for found in result.objects}
        if result.failure or None in have:
            filled.append(result)
            continue
        nothing = samus_score(*np.zeros((2, FRAME, FRAME), bool)) if measures.samus else None
        absent = [
            ObjectScore(_nothing(result.voxels, measures), value, samus=nothing)
            for value in values
            if value not in have
        ]
        objects = sorted([*result.objects, *absent], key=lambda each: each.value or 0)
        filled.append(replace(result, objects=tuple(objects)))
    return filled


def _nothing(voxels: int, measures: Measures) -> Score:
    """The score of an empty mask against an empty reference."""
    empty = np.zeros((1, 1, 1), bool)
    return score(empty, empty, (1.0, 1.0, 1.0), nsd_mm=measures.nsd_mm, hit=measures.hit, grid=(voxels, 1, 1))
