"""Which cases train, validate and test: drawn by patient, or read from a file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseg_cli.datasets.case import Case
from medseg_cli.errors import InputError


@dataclass(frozen=True)
class Split:
    """Cases by their use; the three are disjoint."""

    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]


def split_cases(cases: tuple[Case, ...], seed: int, test: float = 0.15, validation: float = 0.07) -> Split:
    """A seeded split by group; the same ids and seed give the same split on every machine.

    Args:
        cases: all cases. Where the dataset holds cases back itself (`part`), these are the test cases.
        seed: seed of the permutation of the sorted groups.
        test, validation: shares of the groups, at least one group each when there are three or more.

    Raises:
        InputError: fewer groups than parts.
    """
    held = {_group(case) for case in cases if case.part == "test"}
    groups = sorted({_group(case) for case in cases} - held)
    parts = 2 if held else 3
    if len(groups) < parts:
        count = f"{len(groups)} cases" if not held else f"{len(groups)} training cases"
        raise InputError(
            f"{count} cannot be split into train, validation and test", f"give at least {parts} of different patients"
        )
    shuffled = [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]
    n_test = 0 if held else max(1, round(test * len(groups)))
    n_validation = max(1, round(validation * len(groups)))
    tested = held | set(shuffled[:n_test])
    validated = set(shuffled[n_test : n_test + n_validation])
    rank = {group: place for place, group in enumerate([*shuffled, *sorted(held)])}
    ordered = sorted(cases, key=lambda case: (rank[_group(case)], case.id))
    return Split(
        tuple(case for case in ordered if _group(case) not in tested | validated),
        tuple(case for case in ordered if _group(case) in validated),
        tuple(case for case in ordered if _group(case) in tested),
    )


def _group(case: Case) -> str:
    return case.group or case.id
