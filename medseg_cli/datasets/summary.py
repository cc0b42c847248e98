"""Numbers about a whole dataset, from what `check` found of each case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg_cli.datasets.case import Dataset, Finding
from medseg_cli.datasets.check import CaseFacts


@dataclass(frozen=True)
class ClassSize:
    """How large a class is in the cases that hold it.

    Args:
        value, name: of the class; the name is "" where the dataset gives none.
        cases: how many hold it.
        voxels: smallest, median and largest number of voxels.
        millilitres: the same as a volume; None where a case with it has none.
    """

    value: int
    name: str
    cases: int
    voxels: tuple[float, float, float]
    millilitres: tuple[float, float, float] | None


def class_sizes(facts: list[CaseFacts], dataset: Dataset) -> list[ClassSize]:
    """One per class that a mask holds or the dataset names, by value."""
    sizes = []
    for value in sorted({*dataset.labels, *(value for each in facts for value in each.classes)}):
        holding = [each for each in facts if value in each.classes]
        counts = [each.classes[value] for each in holding]
        volumes = [each.classes[value] * each.millilitres for each in holding if each.millilitres is not None]
        whole = len(volumes) == len(counts) > 0
        sizes.append(
            ClassSize(
                value, dataset.labels.get(value, ""), len(counts), spread(counts), spread(volumes) if whole else None
            )
        )
    return sizes


def spread(numbers: list[int] | list[float]) -> tuple[float, float, float]:
    """Smallest, median and largest; zeros of no numbers."""
    if not numbers:
        return (0.0, 0.0, 0.0)
    return (float(min(numbers)), float(np.median(numbers)), float(max(numbers)))


def ranges(facts: list[CaseFacts]) -> dict[str, Any]:
    """Extents of what the scans are: shape and spacing along i, j, k, grey values, modalities."""
    if not facts:
        return {}
    shapes = np.array([each.shape for each in facts])
    spacings = np.array([each.spacing for each in facts if each.spacing is not None])
    return {
        "shape": [shapes.min(0).tolist(), shapes.max(0).tolist()],
        "spacing_mm": [spacings.min(0).tolist(), spacings.max(0).tolist()] if len(spacings) else None,
        "spacing_unknown": len(facts) - len(spacings),
        "intensity": [min(each.low for each in facts), max(each.high for each in facts)],
        "intensity_high": list(spread([each.high for each in facts])),
        "modalities": {
            code or "unknown": sum(each.modality == code for each in facts)
            for code in sorted({each.modality for each in facts})
        },
    }


def as_json(path: str, dataset: Dataset, facts: list[CaseFacts], findings: list[Finding]) -> dict[str, Any]:
    """Everything that `medseg dataset check --json` prints."""
    return {
        "path": path,
        "layout": dataset.layout,
        "cases": len(dataset.cases),
        "patients": len({case.patient for case in dataset.cases}),
        "labels": {str(value): name for value, name in dataset.labels.items()},
        "notes": list(dataset.notes),
        "ranges": ranges(facts),
        "classes": [
            {
                "value": size.value,
                "name": size.name,
                "cases": size.cases,
                "voxels": list(size.voxels),
                "millilitres": list(size.millilitres) if size.millilitres else None,
            }
            for size in class_sizes(facts, dataset)
        ],
        "findings": [
            {"kind": each.kind, "text": each.text, "remedy": each.remedy, "file": str(each.file) if each.file else None}
            for each in findings
        ],
        "per_case": [_case(each) for each in facts],
    }


def _case(facts: CaseFacts) -> dict[str, Any]:
    return {
        "id": facts.id,
        "patient": facts.patient,
        "image": str(facts.image),
        "label": str(facts.label),
        "shape": list(facts.shape),
        "spacing_mm": list(facts.spacing) if facts.spacing else None,
        "modality": facts.modality or None,
        "intensity": [facts.low, facts.high],
        "voxels": {str(value): count for value, count in facts.classes.items()},
        "millilitres": (
            {str(value): count * facts.millilitres for value, count in facts.classes.items()}
            if facts.millilitres is not None
            else None
        ),
        "image_sha256": facts.image_hash,
        "label_sha256": facts.label_hash or None,
    }
