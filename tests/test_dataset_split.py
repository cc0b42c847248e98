"""`medseg dataset split`: by patient, seeded, in a file that nnU-Net reads and that leads back to the same cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from dataset_phantom import pictures
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg_cli.datasets import Case, read_cases, read_splits, split_cases
from medseg_cli.datasets.splits import folds_of
from medseg_cli.errors import InputError

Run = Callable[..., tuple[int, str, str]]


def cases_of(patients: list[str], parts: list[str] | None = None) -> tuple[Case, ...]:
    return tuple(
        Case(f"c{number}", Path("i"), Path("l"), patient, part)  # type: ignore[arg-type]
        for number, (patient, part) in enumerate(zip(patients, parts or [""] * len(patients), strict=True))
    )


def test_folds_are_a_list_of_train_and_val(in_process: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "data", 11)
    code, out, err = in_process("dataset", "split", "data", "-o", "splits_final.json", "--folds", 5)
    assert (code, out) == (0, "")
    assert "11 cases of 11 patients; wrote splits_final.json" in err
    folds = json.loads((tmp_path / "splits_final.json").read_text())
    names = {f"x{number}" for number in range(11)}
    assert len(folds) == 5
    # What nnU-Net's do_split takes: exactly these two keys per fold, lists of case names.
    assert [set(fold) for fold in folds] == [{"train", "val"}] * 5
    assert all(set(fold["train"]) | set(fold["val"]) == names for fold in folds)
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(names)
    before = (tmp_path / "splits_final.json").read_bytes()
    assert in_process("dataset", "split", "data", "-o", "splits_final.json")[0] == 3
    assert in_process("dataset", "split", "data", "-o", "splits_final.json", "--overwrite")[0] == 0
    assert (tmp_path / "splits_final.json").read_bytes() == before
    in_process("dataset", "split", "data", "-o", "other.json", "--seed", 1)
    assert (tmp_path / "other.json").read_bytes() != before


def test_patients_by_a_pattern_in_the_names(in_process: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "data", 30)
    in_process("dataset", "split", "data", "-o", "s.json", "--group-by", r"x(\d)", "--folds", 3)
    for fold in json.loads((tmp_path / "s.json").read_text()):
        assert not {name[1] for name in fold["train"]} & {name[1] for name in fold["val"]}
    code, _, err = in_process("dataset", "split", "data", "-o", "t.json", "--group-by", r"y(\d)")
    assert code == 3
    assert "finds no patient in x0" in err
    code, _, err = in_process("dataset", "split", "data", "-o", "t.json", "--group-by", "(")
    assert code == 2
    assert "is no regular expression" in err


def test_shares_make_one_split_with_test_cases(in_process: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "data", 20)
    in_process("dataset", "split", "data", "-o", "s.json", "--test", 0.15, "--validation", 0.1)
    (fold,) = json.loads((tmp_path / "s.json").read_text())
    assert [len(fold[part]) for part in ("train", "val", "test")] == [15, 2, 3]
    cases = read_cases(tmp_path / "data")
    split = read_splits(tmp_path / "s.json", cases)
    assert split == split_cases(cases, 0, 0.15, 0.1)
    in_process("dataset", "split", "data", "-o", "t.json", "--test", 0.2, "--folds", 4)
    folds = json.loads((tmp_path / "t.json").read_text())
    assert {tuple(fold["test"]) for fold in folds} == {tuple(folds[0]["test"])}
    assert [len(fold["val"]) for fold in folds] == [4, 4, 4, 4]
    code, _, err = in_process("dataset", "split", "data", "-o", "u.json", "--folds", 4, "--validation", 0.1)
    assert code == 2
    assert "--validation makes one split" in err


def test_too_few_patients_are_said(in_process: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "one", 1)
    code, _, err = in_process("dataset", "split", "one", "-o", "s.json")
    assert code == 3
    assert "5 folds need as many patients (or cases, where the dataset names none): there are 1" in err
    code, _, err = in_process("dataset", "split", "one", "-o", "s.json", "--test", 0.2, "--validation", 0.2)
    assert code == 3
    assert "1 case cannot be split" in err
    pictures(tmp_path / "four", 4)
    code, _, err = in_process("dataset", "split", "four", "-o", "s.json", "--test", 0.5, "--validation", 0.5)
    assert code == 3
    assert "leave none to train" in err
    assert not (tmp_path / "s.json").exists()


def test_what_the_dataset_uses_a_case_for_stays() -> None:
    cases = cases_of(list("abcdefgh"), ["train", "validation", "test", "", "", "", "", ""])
    split = split_cases(cases, 0)
    assert [case.id for case in split.validation] == ["c1"]
    assert [case.id for case in split.test] == ["c2"]
    assert len(split.train) == 6
    with pytest.raises(InputError, match="a is listed for test and for train"):
        split_cases(cases_of(["a", "a", "b", "c"], ["train", "test", "", ""]), 0)


@given(st.lists(st.sampled_from("abcdefghij"), min_size=6, max_size=30), st.integers(0, 99), st.integers(2, 4))
@settings(max_examples=60)
def test_no_patient_is_ever_on_two_sides(patients: list[str], seed: int, count: int) -> None:
    cases = cases_of(patients)
    if len(set(patients)) < max(count, 3):
        return
    splits = [*folds_of(cases, count, seed), *folds_of(cases, 2, seed, 0.2)[:1], split_cases(cases, seed)]
    for split in splits:
        sides = [{case.group for case in part} for part in (split.train, split.validation, split.test)]
        assert sum(map(len, sides)) == len(set().union(*sides)) == len(set(patients))
        assert len(split.train) + len(split.validation) + len(split.test) == len(cases)
        assert sides[0]
        assert sides[1]


@pytest.mark.parametrize(
    ("text", "fold", "words"),
    [
        ('[{"train": ["c0"], "val": ["c1"]}]', 1, "has 1 folds, there is no fold 1"),
        ('[{"train": ["c0"], "val": ["c9"]}]', 0, "names c9, which is no case"),
        ('[{"train": ["c0", "c1"], "val": ["c1"]}]', 0, "b is on two sides"),
        ('[{"train": ["c0"], "val": ["c3"]}]', 0, "a is on two sides"),
        ('[{"train": [], "val": ["c1"]}]', 0, "names no training case"),
        ('[{"train": ["c0"], "val": []}]', 0, "names no validation case"),
        ('[{"train": "c0", "val": ["c1"]}]', 0, "train is no list"),
        ('{"validation": []}', 0, "is no file of splits"),
        ('{"train": ["c0"], "validation": ["c1"]}', 2, "leave --fold out"),
        ("[", 0, "cannot be read"),
    ],
)
def test_files_of_splits_that_do_not_fit_are_said(tmp_path: Path, text: str, fold: int, words: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read_splits(tmp_path / "s.json", cases_of(["a", "b", "c", "a"]), fold)
    assert words in f"{caught.value.message}; {caught.value.hint}"


def test_the_split_of_a_run_is_read_as_well(tmp_path: Path) -> None:
    cases = cases_of(list("abc"))
    facts = {"preset": "x", "train": ["c0"], "validation": ["c1"], "test": ["c2"]}
    (tmp_path / "split.json").write_text(json.dumps(facts))
    split = read_splits(tmp_path / "split.json", cases)
    assert (split.train, split.validation, split.test) == (cases[:1], cases[1:2], cases[2:])


def test_test_cases_of_the_dataset_stay_so_where_nnunets_file_names_none(tmp_path: Path) -> None:
    cases = cases_of(list("abc"), ["", "", "test"])
    (tmp_path / "s.json").write_text('[{"train": ["c0"], "val": ["c1"]}]')
    assert read_splits(tmp_path / "s.json", cases).test == cases[2:]
