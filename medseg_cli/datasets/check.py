"""Whether a dataset can be trained and measured on: every file is opened, one case at a time; nothing is changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg_cli.datasets import pairs
from medseg_cli.datasets.case import Case, Dataset, Finding
from medseg_cli.datasets.splits import ANEW, own_leaks, read_splits
from medseg_cli.errors import DeviceError, InputError, UsageError
from medseg_cli.preset import Preset
from medseg_cli.readers import check_image
from medseg_cli.readers.files import read_file
from medseg_cli.scan import Scan

NAMED = 8
"""Values or cases that one line names before it counts the rest."""


@dataclass(frozen=True)
class CaseFacts:
    """What a case was found to be.

    Args:
        id, patient: of the case.
        image, label: its files.
        shape: (I, J, K) voxels.
        spacing: mm along i, j, k; None where it is unknown.
        modality: DICOM code, "" where neither file nor dataset says it.
        low, high: smallest and largest value of the scan.
        classes: label value → voxels; {} where the label could not be read.
        millilitres: of one voxel; None for pictures, cines and unknown voxel sizes.
        flat: whether it is a picture without depth, or frames of one.
        image_hash, label_hash: of the voxels, whatever the file looks like; "" where there are none to compare.
    """

    id: str
    patient: str
    image: Path
    label: Path
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None
    modality: str
    low: float
    high: float
    classes: dict[int, int]
    millilitres: float | None
    flat: bool
    image_hash: str
    label_hash: str


def check(
    dataset: Dataset,
    preset: Preset | None = None,
    splits: Iterable[Path] = (),
    tell: Callable[[Case], None] = lambda case: None,
) -> tuple[list[CaseFacts], list[Finding]]:
    """Open every case of a dataset and list what is wrong.

    Args:
        dataset: of `read.list_dataset`, whose own findings come first.
        preset: if given, findings say what it could not be trained on.
        splits: files of splits to hold against the cases.
        tell: called before each case.

    Returns:
        What each readable case is, and the findings.
    """
    facts: list[CaseFacts] = []
    findings = list(dataset.findings)
    missing = {finding.file for finding in findings if finding.kind == "missing"}
    before: tuple[Case, Scan] | None = None
    for case in dataset.cases:
        if missing & {case.image, case.label}:
            continue
        tell(case)
        try:
            same = before is not None and (before[0].image, before[0].channel) == (case.image, case.channel)
            scan = before[1] if before is not None and same else pairs.open_image(case, read_file)
        except (InputError, UsageError, DeviceError) as error:
            findings.append(Finding("unreadable", error.message, error.hint or "export it again", case.image))
            continue
        before = (case, scan)
        found, wrong = _examine(case, scan, dataset)
        facts.append(found)
        findings += wrong
    findings += _duplicates(facts) + _absent(facts, dataset)
    findings += _own_leaks(dataset) + [each for path in splits for each in _split(path, dataset)]
    findings += _for_preset(facts, preset) if preset is not None else []
    return facts, findings


def _examine_label(case: Case, scan: Scan, dataset: Dataset, findings: list[Finding]) -> tuple[dict[int, int], str]:
    """Voxels of each class in a case's mask, and a hash of them; what is wrong with it goes to `findings`."""
    try:
        label = pairs.open_label(case, read_file)
    except (InputError, UsageError, DeviceError) as error:
        findings.append(Finding("unreadable", error.message, error.hint or "export it again", case.label))
        return {}, ""
    wrong = list(pairs.problems(case, scan, label))
    findings += wrong
    if {"colour", "float", "outline"} & {each.kind for each in wrong}:
        return {}, ""
    values = pairs.label_values(case, label)
    classes = pairs.count_values(values)
    findings += _values(case, classes, dataset)
    return classes, _hash(values) if classes else ""


def _examine(case: Case, scan: Scan, dataset: Dataset) -> tuple[CaseFacts, list[Finding]]:
    """The facts of a case whose scan could be read, and what is wrong with it."""
    findings: list[Finding] = []
    try:
        check_image(scan)
    except InputError as error:
        findings.append(Finding("image", error.message, error.hint, case.image))
    classes, label_hash = ({}, "") if case.captioned else _examine_label(case, scan, dataset, findings)
    small = scan.voxel_volume / 1000 if scan.spacing_known and not scan.flat else None
    return CaseFacts(
        case.id,
        case.patient,
        case.image,
        case.label,
        scan.shape,
        scan.spacing if scan.spacing_known else None,
        scan.modality,
        float(scan.voxels.min()),
        float(scan.voxels.max()),
        classes,
        small,
        scan.flat,
        _hash(scan.voxels),
        label_hash,
    ), findings


def _values(case: Case, classes: dict[int, int], dataset: Dataset) -> list[Finding]:
    if not classes:
        return [pairs.empty(case)]
    foreign = sorted(set(classes) - set(dataset.labels)) if dataset.labels else []
    if not foreign:
        return []
    known = ", ".join(f"{value} {name}" for value, name in list(dataset.labels.items())[:NAMED])
    text = f"{case.label} holds {_some(foreign)}, which the label map does not name ({known})"
    return [Finding("values", text, "name the value in the label map, or correct the mask", case.label)]


def _duplicates(facts: list[CaseFacts]) -> list[Finding]:
    """Cases listed twice under other names, and images or masks that two patients share.

    Several masks of one image, or one mask for the images of one patient, are no mistake.
    """
    findings = []
    same: dict[tuple[str, str], list[CaseFacts]] = {}
    for each in facts:
        same.setdefault((each.image_hash, each.label_hash), []).append(each)
    for first, *rest in same.values():
        others = {each.image: each for each in rest if each.image != first.image}
        if others and first.label_hash:
            text = f"{first.image} and its mask hold the same values as {_some(others)} and theirs"
            findings.append(Finding("duplicate", text, "keep one of them", first.image))
    for what in ("image", "label"):
        shared: dict[str, dict[str, Path]] = {}
        for each in facts:
            content = each.image_hash if what == "image" else each.label_hash
            if content:
                shared.setdefault(content, {}).setdefault(each.patient, each.image if what == "image" else each.label)
        for patients in shared.values():
            first_file, *files = patients.values()
            if files:
                text = f"{first_file} holds the same values as {_some(files)}, of {len(patients)} patients"
                remedy = "put these cases into one group, or they may end on both sides of a split"
                findings.append(Finding("duplicate", text, remedy, first_file))
    return findings


def _absent(facts: list[CaseFacts], dataset: Dataset) -> list[Finding]:
    """Classes that the dataset names and no mask holds."""
    if not facts:
        return []
    there = {value for each in facts for value in each.classes}
    return [
        Finding("absent", f"no mask holds class {value} ({name})", "take it out of the label map, or add cases with it")
        for value, name in dataset.labels.items()
        if value not in there
    ]


def _own_leaks(dataset: Dataset) -> list[Finding]:
    return [
        Finding("leak", f"patient {patient} is in more than one part or fold of the dataset", "list each for one use")
        for patient in own_leaks(dataset.cases)
    ]


def _split(path: Path, dataset: Dataset) -> Iterator[Finding]:
    """What is wrong with each fold of a file of splits."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        yield Finding("splits", f"{path} cannot be read as a file of splits: {error}", ANEW, path)
        return
    for fold in range(len(facts) if isinstance(facts, list) else 1):
        try:
            read_splits(path, dataset.cases, fold)
        except InputError as error:
            kind = "leak" if "two sides" in error.message else "splits"
            where = f" (fold {fold})" if isinstance(facts, list) else ""
            yield Finding(kind, error.message + where, error.hint, path)


def _for_preset(facts: list[CaseFacts], preset: Preset) -> list[Finding]:
    """What a preset could not be trained on: pictures, other modalities, values that it has no label for."""
    findings = []
    pictures = [each.id for each in facts if each.flat]
    if preset.dims == 3 and pictures:
        text = f"{_some(pictures)}: pictures without depth or cines, and preset {preset.name} segments volumes"
        findings.append(Finding("preset", text, "choose a preset of 2 dimensions"))
    foreign_codes = set() if "any" in preset.modality else {each.modality for each in facts} - {"", *preset.modality}
    for code in sorted(foreign_codes):
        cases = [each.id for each in facts if each.modality == code]
        text = f"{_some(cases)}: of modality {code}, and preset {preset.name} is for {', '.join(preset.modality)}"
        findings.append(Finding("preset", text, "choose another preset, or expect it to learn anew"))
    known = {label.value for label in preset.labels}
    foreign = sorted({value for each in facts for value in each.classes} - known)
    if preset.prompts.tells_apart and known and foreign:
        text = f"the masks hold {_some(foreign)}, and preset {preset.name} knows {_some(sorted(known))}"
        findings.append(
            Finding("preset", text, "choose a preset that knows as many classes, or train one from scratch")
        )
    return findings


def _hash(values: NDArray[np.generic]) -> str:
    """Of voxels and their arrangement."""
    digest = hashlib.sha256(repr(values.shape).encode())
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _some(things: Iterable[object]) -> str:
    listed = [str(thing) for thing in things]
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    return ", ".join(listed[:NAMED]) + more
