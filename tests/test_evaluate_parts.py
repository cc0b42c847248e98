"""Parts of an evaluation that the command line shows only together: intervals, names of labels, matching, speed."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from medseg_cli.errors import InputError
from medseg_cli.evaluation import Measures, read_table
from medseg_cli.evaluation.matching import case_key
from medseg_cli.evaluation.scoring import score_values
from medseg_cli.evaluation.statistics import Row, compare, interval, spread


def rows(values: list[float | None], patients: list[str] | None = None) -> list[Row]:
    owners = patients or [f"p{number}" for number in range(len(values))]
    return [
        Row(f"c{n}", owner, "1", {"Dice": value}) for n, (value, owner) in enumerate(zip(values, owners, strict=True))
    ]


def test_the_interval_of_two_patients_is_all_there_is() -> None:
    # A quarter of the drawings takes one of them twice.
    assert interval(np.array([0.0, 1.0]), ["a", "b"], seed=0) == (0.0, 1.0)
    assert interval(np.array([0.3, 0.9]), ["a", "a"], seed=0) is None


def test_the_interval_of_many_is_that_of_the_central_limit() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.1, 400)
    low, high = interval(values, [str(n) for n in range(400)], seed=0)
    half = 1.96 * values.std() / 20
    assert (low, high) == (
        pytest.approx(values.mean() - half, abs=0.001),
        pytest.approx(values.mean() + half, abs=0.001),
    )


def test_patients_are_drawn_and_not_their_cases() -> None:
    """Ten copies of every patient's value say no more than one: the interval must not shrink."""
    values = np.random.default_rng(2).normal(0.8, 0.1, 30)
    patients = [str(n) for n in range(30)]
    alone = interval(values, patients, seed=5)
    copied = interval(np.repeat(values, 10), [name for name in patients for _ in range(10)], seed=5)
    as_if = interval(np.repeat(values, 10), [str(n) for n in range(300)], seed=5)
    assert copied == pytest.approx(alone)
    assert as_if[1] - as_if[0] < 0.4 * (alone[1] - alone[0])


def test_a_seed_gives_the_same_interval_again() -> None:
    values, patients = np.random.default_rng(3).random(9), [str(n) for n in range(9)]
    assert interval(values, patients, 3) == interval(values, patients, 3) != interval(values, patients, 4)


def test_what_is_undefined_is_left_out_and_counted() -> None:
    found = spread(rows([0.5, None, 0.7]), "Dice", 0)
    assert (found.n, found.undefined, found.mean) == (2, 1, pytest.approx(0.6))
    assert spread(rows([None, None]), "Dice", 0) is None


def test_the_signed_rank_test_sees_patients() -> None:
    better = rows([0.9, 0.9, 0.8, 0.8], ["a", "a", "b", "b"])
    worse = rows([0.7, 0.9, 0.7, 0.6], ["a", "a", "b", "b"])
    found = compare(better, worse, "Dice", "all", 0)
    # Two patients, both better: 2 of the 2^2 ways to give signs.
    assert (found.n, found.patients, found.p) == (4, 2, pytest.approx(0.5))
    assert (found.larger, found.smaller, found.equal) == (3, 0, 1)


def test_errors_are_compared_without_their_sign() -> None:
    mine = [Row("c", "p", "1", {"volume_error_relative": -0.3})]
    other = [Row("c", "p", "1", {"volume_error_relative": 0.1})]
    assert compare(mine, other, "volume_error_relative", "all", 0).difference == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dataset.json", '{"labels": {"background": 0, "liver": 1, "left kidney": 2}}'),
        ("dataset.json", '{"labels": {"0": "background", "1": "liver", "2": "left kidney"}}'),
        ("names.json", '{"liver": 1, "left kidney": 2}'),
        ("names.csv", "value,name,color\n1,liver,red\n2,left kidney,blue\n"),
        ("dseg.tsv", "index\tname\n0\tbackground\n1\tliver\n2\tleft kidney\n"),
        (
            "itk.txt",
            '# ITK-SnAP\n0 0 0 0 0 0 0 "Clear Label"\n1 255 0 0 1 1 1 "liver"\n2 0 255 0 1 1 1 "left kidney"\n',
        ),
        ("slicer.ctbl", "# Slicer\n0 Background 0 0 0 0\n1 liver 221 130 101 255\n2 left kidney 185 102 83 255\n"),
    ],
)
def test_names_of_labels_are_read_from_the_files_that_hold_them(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    found = read_table(path)
    assert found.names == {1: "liver", 2: "left kidney"}
    assert found.source == name


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", "[]"), ("a.json", "{"), ("a.csv", "name\nliver\n"), ("a.txt", "")]
)
def test_a_file_without_names_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError):
        read_table(tmp_path / name)


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("brain.nii.gz", "brain"),
        ("brain_seg.nii.gz", "brain"),
        ("brain_mask.nrrd", "brain"),
        ("sub-01_dseg.nii", "sub-01"),
        ("mask.png", "mask"),
        ("unmask.png", "unmask"),
        ("case_12_labels.nii.gz", "case_12"),
    ],
)
def test_endings_of_masks_are_no_part_of_a_name(file: str, key: str) -> None:
    assert case_key(Path(file)) == key


def test_many_labels_cost_little_more_than_few() -> None:
    """Each label is worked out in its own box: 60 small ones in a large volume take seconds, not minutes."""
    found = np.zeros((160, 160, 160), np.uint16)
    for label in range(60):
        i, j = divmod(label, 8)
        found[20 * i + 2 : 20 * i + 14, 20 * j + 2 : 20 * j + 14, 40:52] = label + 1
    truth = np.roll(found, 1, axis=0)
    before = time.process_time()
    scores = score_values(found, truth, range(1, 61), (1.0, 1.0, 1.0), Measures())
    # Sixty passes over the whole volume with a distance transform each would take a minute.
    assert time.process_time() - before < 10
    assert {round(score.dice, 6) for score in scores} == {round(11 / 12, 6)}
    assert {score.hd_mm for score in scores} == {1.0}
    assert all(score.tn == 160**3 - 12**3 - 144 for score in scores)
