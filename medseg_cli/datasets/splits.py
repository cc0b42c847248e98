"""Which cases train, validate and test: drawn by patient, or read from a file in nnU-Net's form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg_cli.datasets.case import Case
from medseg_cli.errors import InputError

ANEW = "write it anew with medseg dataset split"


@dataclass(frozen=True)
class Split:
    """Cases by their use; the three are disjoint."""

    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]


def split_cases(cases: tuple[Case, ...], seed: int, test: float = 0.15, validation: float = 0.07) -> Split:
    """A seeded split by group; the same ids and seed give the same split on every machine.

    What the dataset itself uses a case for (`part`) stays; only the others are drawn.

    Args:
        cases: all cases.
        seed: seed of the permutation of the sorted groups.
        test, validation: shares of the groups that the dataset leaves to us, at least one group each; 0 draws none. A
            part that the dataset names cases for is not drawn.

    Raises:
        InputError: fewer groups than parts, nothing left to train on, or a patient whom the dataset has in two parts.
    """
    held = _held(cases)
    groups = sorted({case.patient for case in cases} - set(held))
    given = set(held.values())
    wanted = [part for part, share in (("test", test), ("validation", validation)) if share and part not in given]
    if len(groups) < len(wanted) + ("train" not in given):
        count = f"{len(groups)} {'training ' if held else ''}case{'s' * (len(groups) != 1)}"
        raise InputError(
            f"{count} cannot be split into train, validation and test",
            f"give at least {len(wanted) + ('train' not in given)} of different patients",
        )
    shuffled = [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]
    n_test = max(1, round(test * len(groups))) if "test" in wanted else 0
    n_validation = max(1, round(validation * len(groups))) if "validation" in wanted else 0
    if n_test + n_validation >= len(groups) and "train" not in given and groups:
        raise InputError(
            f"{n_test} of {len(groups)} patients to test and {n_validation} to validate leave none to train",
            "hold back less",
        )
    drawn = dict.fromkeys(shuffled[:n_test], "test")
    drawn |= dict.fromkeys(shuffled[n_test : n_test + n_validation], "validation")
    rank = {group: place for place, group in enumerate([*shuffled, *sorted(held)])}
    ordered = sorted(cases, key=lambda case: (rank[case.patient], case.id))
    use = {**drawn, **held}
    return Split(
        tuple(case for case in ordered if use.get(case.patient, "train") == "train"),
        tuple(case for case in ordered if use.get(case.patient) == "validation"),
        tuple(case for case in ordered if use.get(case.patient) == "test"),
    )


def folds_of(cases: tuple[Case, ...], count: int, seed: int, test: float = 0.0) -> tuple[Split, ...]:
    """A seeded cross-validation by group: every group that is not held back validates exactly once.

    Args:
        cases: all cases. Those that the dataset tests with are held back from all folds.
        count: of folds.
        seed: seed of the permutation of the sorted groups.
        test: share of the groups to hold back where the dataset holds none back.

    Raises:
        InputError: fewer groups than folds, or a patient whom the dataset has in two parts.
    """
    held = {group for group, part in _held(cases).items() if part == "test"}
    groups = sorted({case.patient for case in cases} - held)
    shuffled = [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]
    n_test = max(1, round(test * len(groups))) if test and not held else 0
    tested, rest = held | set(shuffled[:n_test]), shuffled[n_test:]
    if len(rest) < count:
        raise InputError(
            f"{count} folds need as many patients (or cases, where the dataset names none): there are {len(rest)}",
            f"ask for at most --folds {len(rest)}" if len(rest) > 1 else "give at least 2 cases of different patients",
        )
    splits = []
    for number in range(count):
        validating = set(rest[number::count])
        sides = (set(rest) - validating, validating, tested)
        splits.append(Split(*(tuple(case for case in cases if case.patient in side) for side in sides)))
    return tuple(splits)


def as_nnunet(splits: Sequence[Split]) -> list[dict[str, list[str]]]:
    """`splits_final.json` as nnU-Net reads it: ids to train and validate per fold; it passes over the key `test`."""
    listed = []
    for split in splits:
        fold = {"train": [case.id for case in split.train], "val": [case.id for case in split.validation]}
        listed.append(fold | ({"test": [case.id for case in split.test]} if split.test else {}))
    return listed


def read_splits(path: Path | None, cases: tuple[Case, ...], fold: int = 0) -> Split:
    """The split that a file or the dataset itself names: what `--splits FILE --fold N` mean.

    Args:
        path: nnU-Net's `splits_final.json`, a list of `{"train": [ids], "val": [ids]}` as `medseg dataset split` writes
            it (with `test`, too, where cases are held back), or a run's `split.json`, one object with `train`,
            `validation` and `test`; None takes the folds that the dataset gives its cases (`Case.fold`).
        cases: of the dataset. Cases that the file does not name are left out, but those that the dataset itself tests
            with are the test cases of a file that names none.
        fold: which entry of a list, or which of the dataset's folds validates (0-based).

    Raises:
        InputError: unreadable, no such fold, an unknown case, a case or a patient on two sides, or nothing to train on.
    """
    if path is None:
        return _own_fold(cases, fold)
    entry = _entry(path, fold)
    known = {case.id: case for case in cases}
    parts = []
    for names in (("train",), ("val", "validation"), ("test",)):
        ids: Any = next((entry[name] for name in names if name in entry), [])
        if not isinstance(ids, list) or not all(isinstance(id_, str) for id_ in ids):
            raise InputError(f"{path}: {names[0]} is no list of case names", ANEW)
        unknown = [id_ for id_ in ids if id_ not in known]
        if unknown:
            raise InputError(
                f"{path} names {unknown[0]}{_more(unknown)}, which is no case of the dataset",
                f"it fits another dataset: {ANEW}",
            )
        parts.append(tuple(known[id_] for id_ in ids))
    train, validation, test = parts
    if "test" not in entry:
        named = {case.id for case in (*train, *validation)}
        test = tuple(case for case in cases if case.part == "test" and case.id not in named)
    split = Split(train, validation, test)
    both = leaks(split)
    if both:
        raise InputError(f"{path}: {both[0]} is on two sides of the split{_more(both)}", ANEW)
    if not train or not validation:
        raise InputError(f"{path} names no {'training' if not train else 'validation'} case", ANEW)
    return split


def leaks(split: Split) -> list[str]:
    """Patients who are in more than one part of a split."""
    sides = [{case.patient for case in part} for part in (split.train, split.validation, split.test)]
    return sorted((sides[0] & sides[1]) | (sides[0] & sides[2]) | (sides[1] & sides[2]))


def own_leaks(cases: Sequence[Case]) -> list[str]:
    """Patients whom the dataset itself has in more than one part, or in more than one fold."""
    uses: dict[str, set[tuple[str, int | None]]] = {}
    for case in cases:
        uses.setdefault(case.patient, set()).add((case.part, case.fold))
    return sorted(patient for patient, found in uses.items() if len(found) > 1)


def _held(cases: tuple[Case, ...]) -> dict[str, str]:
    """Group → part, of the groups whose cases the dataset itself has put somewhere."""
    parts: dict[str, set[str]] = {}
    for case in cases:
        parts.setdefault(case.patient, set()).add(case.part)
    both = next((group for group, found in sorted(parts.items()) if len(found) > 1), None)
    if both is not None:
        named = " and for ".join(sorted(part or "any use" for part in parts[both]))
        raise InputError(f"{both} is listed for {named}", "list every patient for one use")
    return {group: part for group, (part,) in parts.items() if part}


def _own_fold(cases: tuple[Case, ...], fold: int) -> Split:
    folds = sorted({case.fold for case in cases if case.fold is not None and case.part != "test"})
    if fold not in folds:
        named = f"its folds are {', '.join(map(str, folds))}" if folds else "it puts its cases into no folds"
        raise InputError(f"the dataset has no fold {fold}: {named}", "give a file of splits, or one of its folds")
    test = tuple(case for case in cases if case.part == "test")
    rest = [case for case in cases if case.part != "test"]
    validation = tuple(case for case in rest if case.fold == fold)
    split = Split(tuple(case for case in rest if case.fold != fold), validation, test)
    both = leaks(split)
    if both:
        raise InputError(f"the dataset has {both[0]} in several folds{_more(both)}", "give each patient one fold")
    if not split.train:
        raise InputError(f"all cases are in fold {fold}", "put cases into at least two folds")
    return split


def _entry(path: Path, fold: int) -> dict[str, Any]:
    """The part of a file that names the cases of one fold."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a file of splits: {error}", ANEW) from error
    if isinstance(facts, list):
        if not 0 <= fold < len(facts):
            raise InputError(f"{path} has {len(facts)} folds, there is no fold {fold}", "folds count from 0")
        facts = facts[fold]
    elif fold:
        raise InputError(f"{path} is one split, there is no fold {fold}", "leave --fold out")
    if not isinstance(facts, dict) or "train" not in facts:
        raise InputError(f"{path} is no file of splits: it names no train", 'a list of {"train": [...], "val": [...]}')
    return facts


def _more(found: Sequence[object]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
