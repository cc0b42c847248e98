"""Datasets on disk: found in any layout that people have, loaded case by case, split by patient.

read_dataset(path) -> Dataset(cases, labels, layout, notes)       path: a folder, or a JSON, CSV or YAML listing
read_cases(path) -> tuple[Case, ...]                              the cases alone
load_pair(case) -> (Scan, label values (I, J, K))                 one case in memory
split_cases(cases, seed) -> Split(train, validation, test)        drawn by patient
read_splits(path, cases, fold) -> Split                           from splits_final.json or a run's split.json
"""

from __future__ import annotations

from medseg_cli.datasets.case import Case, Dataset
from medseg_cli.datasets.pairs import load_pair
from medseg_cli.datasets.read import read_cases, read_dataset
from medseg_cli.datasets.splits import Split, read_splits, split_cases

__all__ = ["Case", "Dataset", "Split", "load_pair", "read_cases", "read_dataset", "read_splits", "split_cases"]
