"""`--objects`: what is one object in training with clicks: all label values of a case, or each of them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg_cli import preset
from medseg_cli.datasets import Case
from medseg_cli.errors import InputError
from medseg_cli.pipelines import sam3d_recipe
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.sam3d_recipe import Sam3dRecipe


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """A dark 60³ volume, half of it with label 2 (brightness 100), and a slab with label 7 (brightness 200)."""
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[:30] = 2
    labels[45:] = 7
    image = np.where(labels == 2, 100, np.where(labels == 7, 200, 0)).astype(np.float32)
    for name, data in (("image", image), ("label", labels)):
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / f"{name}.nii.gz")
    return Case("one", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")


def recipe(objects: str) -> Sam3dRecipe:
    return Sam3dRecipe(preset.find("hippocampus-mr"), None, Choices(objects=objects))


def test_together_is_one_object_of_all_values(case: Case) -> None:
    volume = recipe("together").load(case)
    assert [len(voxels) for voxels in volume.foreground] == [45 * 60 * 60]
    assert int(volume.objects.sum()) == 45 * 60 * 60
    assert len(recipe("together").fixed_sample(volume, np.random.default_rng(0))) == 1


def test_apart_is_one_object_per_value(case: Case) -> None:
    volume = recipe("apart").load(case)
    assert [len(voxels) for voxels in volume.foreground] == [30 * 60 * 60, 15 * 60 * 60]
    low, high = recipe("apart").fixed_sample(volume, np.random.default_rng(0))
    for sample in (low, high):
        d, w, h = np.rint(sample.points[0].numpy()).astype(int)
        assert sample.label[0, d, h, w] == 1, "the click lies in its own object"
    # 100 and 200 are told apart by the normalised brightness of what is labelled; nothing else is labelled with it.
    assert len(torch.unique((low.image[low.label > 0]).round(decimals=3))) == 1
    assert len(torch.unique((high.image[high.label > 0]).round(decimals=3))) == 1


def test_a_training_sample_holds_one_object(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without random intensities, surroundings and angles, all that is labelled in a sample has one brightness."""
    monkeypatch.setattr(sam3d_recipe, "random_axes", lambda axes, rng: axes)
    monkeypatch.setattr(sam3d_recipe, "random_intensity", lambda image, rng: image)
    monkeypatch.setattr(sam3d_recipe, "random_surroundings", lambda image, rng: image)
    counts = {"apart": set(), "together": set()}
    for objects, found in counts.items():
        one = recipe(objects)
        volume = one.load(case)
        for number in range(40):
            sample = one.sample(volume, np.random.default_rng(number))
            found.add(len(torch.unique(sample.image[sample.label > 0.5].round(decimals=3))))
    assert counts == {"apart": {1}, "together": {1, 2}}


def test_the_score_is_the_mean_over_objects(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    one = recipe("apart")
    samples = one.fixed_sample(one.load(case), np.random.default_rng(0))

    def perfect_or_nothing(model, given):
        (sample,) = given
        label = sample.label if sample is samples[0] else torch.zeros_like(sample.label)
        return torch.stack([1 - label[0], label[0]])[None]

    monkeypatch.setattr(sam3d_recipe, "predict", perfect_or_nothing)
    assert one.score(torch.nn.Identity(), [samples]) == [0.5]


def test_too_many_objects_are_said(case: Case, tmp_path: Path) -> None:
    labels = np.arange(60**3).reshape(60, 60, 60) % 300
    nib.save(nib.Nifti1Image(labels.astype(np.int16), np.eye(4)), tmp_path / "label.nii.gz")
    with pytest.raises(InputError, match="299 label values"):
        recipe("apart").load(case)
    recipe("together").load(case)
