"""Training through the command line on synthetic data: runs, resumes bit-equal, and gives a usable preset."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from balls import write_balls, write_tiny
from safetensors.torch import load_file

from medseg_cli import preset
from medseg_cli.datasets import read_cases, split_cases
from medseg_cli.errors import InputError, ModelError
from medseg_cli.pipelines.choices import Choices
from medseg_cli.training import run as training_run
from medseg_cli.training.plan import Plan
from medseg_cli.training.recipe import recipe_of

PLAN = Plan(steps=4, batch_size=1, validate_every=2, learning_rate=1e-3, seed=5)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six 20³ volumes with one bright ball each."""
    return write_balls(tmp_path_factory.mktemp("Balls"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A preset like hippocampus-mr with a very small network."""
    return write_tiny(tmp_path / "tiny.yaml")


def test_a_run_is_a_preset_that_segments(run_medseg, dataset: Path, tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [
        "--preset",
        str(tiny),
        "--start",
        "scratch",
        "--steps",
        "4",
        "--batch-size",
        "1",
        "--validate-every",
        "2",
    ]
    done = run_medseg("finetune", dataset, "-o", run, *arguments, "--device", "cpu")
    assert done.rc == 0, done.stderr
    assert "step 4: loss" in done.stderr
    assert preset.find(run).name == "run"
    assert {path.name for path in run.iterdir()} == {
        ".lock",
        "card.md",
        "command.txt",
        "curves.png",
        "last.pt",
        "log.csv",
        "preset.yaml",
        "previous.pt",
        "run.json",
        "split.json",
        "tensorboard",
        "weights.safetensors",
    }
    assert len((run / "log.csv").read_text().splitlines()) == 3

    names = json.loads((run / "split.json").read_text())["train"]
    balls = [np.count_nonzero(nib.load(dataset / "labelsTr" / f"{name}.nii.gz").dataobj) / 1000 for name in names]
    quality = preset.find(run).quality
    assert quality is not None, "limits of the flags come from the training cases"
    assert quality.cases == len(names)
    assert quality.labels[1].volume_ml == pytest.approx((min(balls) / 1.25, max(balls) * 1.25), rel=0.01)
    assert quality.source == f"training cases of {dataset.name}, medseg finetune"

    scan = dataset / "imagesTr" / "ball_0.nii.gz"
    done = run_medseg("segment", scan, "-o", tmp_path / "mask.nii.gz", "--preset", run, "--point", "10,10,10", "--json")
    assert done.rc == 0, done.stderr
    weights = json.loads(done.stdout)["weights"]
    assert weights["sha256"] == hashlib.sha256((run / "weights.safetensors").read_bytes()).hexdigest()

    done = run_medseg("evaluate", dataset, "--preset", run, "--json", "-o", tmp_path / "scores.json")
    assert done.rc == 0, done.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["cases"] == len(json.loads((run / "split.json").read_text())["test"]) == 1
    assert 0 <= scores["dice_mean"] <= 1
    assert json.loads(done.stdout) == scores


class StopError(Exception):
    """Ends a run from its callback, as a crash would."""


def test_a_resumed_run_equals_an_uninterrupted_one(dataset: Path, tiny: Path, tmp_path: Path) -> None:
    base = preset.find(tiny)
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    training_run.train(dataset, base, None, PLAN, straight, lambda line: None)

    def stop(line):
        raise StopError

    with pytest.raises(StopError):
        training_run.train(dataset, base, None, PLAN, broken, stop)
    assert not (broken / "weights.safetensors").exists()
    seen = []
    training_run.train(dataset, base, None, PLAN, broken, seen.append)
    assert [line.step for line in seen] == [4]
    one, two = (load_file(folder / "weights.safetensors") for folder in (straight, broken))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.slow
def test_training_learns(dataset: Path, tiny: Path, tmp_path: Path) -> None:
    lines = []
    plan = Plan(steps=160, batch_size=4, validate_every=40, learning_rate=4e-3, ema=0.8, seed=1)
    training_run.train(dataset, preset.find(tiny), None, plan, tmp_path / "run", lines.append)
    assert lines[-1].loss < 0.7 * lines[0].loss, lines
    assert max(line.dice for line in lines) > 0.5, lines


def test_a_run_of_another_plan_is_refused(dataset: Path, tiny: Path, tmp_path: Path) -> None:
    base = preset.find(tiny)
    short = Plan(steps=1, batch_size=1, validate_every=1)
    training_run.train(dataset, base, None, short, tmp_path, lambda line: None)
    with pytest.raises(ModelError, match=r"another plan.*batch_size"):
        training_run.train(
            dataset, base, None, Plan(steps=1, batch_size=2, validate_every=1), tmp_path, lambda line: None
        )


def test_a_corrupt_checkpoint_falls_back_to_the_previous_one(
    dataset: Path, tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training_run.train(dataset, preset.find(tiny), None, PLAN, tmp_path, lambda line: None)
    straight = (tmp_path / "weights.safetensors").read_bytes()
    last = (tmp_path / "last.pt").read_bytes()
    # One bit of a tensor: only the checksum can tell.
    middle = len(last) // 2
    (tmp_path / "last.pt").write_bytes(last[:middle] + bytes([last[middle] ^ 1]) + last[middle + 1 :])
    seen = []
    training_run.train(dataset, preset.find(tiny), None, PLAN, tmp_path, seen.append)
    assert [line.step for line in seen] == [4]
    assert "last.pt is damaged" in caplog.text
    assert "going on from previous.pt, step 2" in caplog.text
    assert (tmp_path / "weights.safetensors").read_bytes() == straight

    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match=r"last\.pt"):
        training_run.train(dataset, preset.find(tiny), None, PLAN, tmp_path, lambda line: None)


def test_the_split_is_the_same_everywhere_and_disjoint(dataset: Path) -> None:
    cases = read_cases(dataset)
    one, two = split_cases(cases, 0), split_cases(tuple(reversed(cases)), 0)
    assert one == two
    ids = [case.id for part in (one.train, one.validation, one.test) for case in part]
    assert sorted(ids) == [case.id for case in cases]
    assert split_cases(cases, 1) != one


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        (None, "no dataset.json"),
        ("{", "not a readable listing"),
        ('{"training": []}', "lists no training case"),
        ('{"training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]}', "does not exist"),
        ('{"training": ["a.nii.gz"]}', "names no label"),
    ],
)
def test_bad_datasets_are_said(tmp_path: Path, listing: str | None, words: str) -> None:
    if listing is not None:
        (tmp_path / "dataset.json").write_text(listing)
    with pytest.raises(InputError, match=words):
        read_cases(tmp_path)


def test_too_few_cases_are_said(dataset: Path) -> None:
    with pytest.raises(InputError, match="2 cases cannot be split"):
        split_cases(read_cases(dataset)[:2], 0)


def test_labels_off_the_grid_and_empty_labels_are_said(dataset: Path, tiny: Path, tmp_path: Path) -> None:
    from medseg_cli.datasets import Case

    recipe = recipe_of(preset.find(tiny), None, Choices())
    image = read_cases(dataset)[0].image
    for name, data, affine, words in (
        ("empty", np.zeros((20, 20, 20), np.uint8), np.eye(4), "labels nothing"),
        ("shape", np.ones((20, 20, 19), np.uint8), np.eye(4), "does not lie on the grid"),
        ("shift", np.ones((20, 20, 20), np.uint8), np.diag([1, 1, 1.2, 1]), "differ by up to 0.2 mm"),
    ):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / f"{name}.nii.gz")
        with pytest.raises(InputError, match=words):
            recipe.load(Case(name, image, tmp_path / f"{name}.nii.gz"))


def test_a_run_of_another_preset_or_split_is_refused(dataset: Path, tiny: Path, tmp_path: Path) -> None:
    base = preset.find(tiny)
    short = Plan(steps=1, batch_size=1, validate_every=1)
    training_run.train(dataset, base, None, short, tmp_path, lambda line: None)
    before = (tmp_path / "split.json").read_bytes()
    for other, plan in (
        (base.model_copy(update={"name": "other"}), short),
        (base, Plan(1, 1, validate_every=1, seed=9)),
    ):
        with pytest.raises(ModelError, match="holds a run with another"):
            training_run.train(dataset, other, None, plan, tmp_path, lambda line: None)
    assert (tmp_path / "split.json").read_bytes() == before


def test_evaluate_uses_the_runs_own_split(dataset: Path, tiny: Path, tmp_path: Path) -> None:
    plan = Plan(steps=1, batch_size=1, validate_every=1, seed=3)
    training_run.train(dataset, preset.find(tiny), None, plan, tmp_path / "run", lambda line: None)
    cases = read_cases(dataset)
    assert training_run.split_of(cases, preset.find(tmp_path / "run"), seed=0) == split_cases(cases, 3)
    assert training_run.split_of(cases, preset.find(tiny), seed=0) == split_cases(cases, 0)
    with pytest.raises(ModelError, match=r"split\.json does not fit"):
        training_run.split_of(cases[1:], preset.find(tmp_path / "run"), seed=0)
