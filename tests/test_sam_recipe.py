"""How SAM is trained: prompts that are simulated, corrections, losses, kept features; and that it learns."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sam import SMALL, save, upstream
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from medseg_cli import preset
from medseg_cli.datasets import read_cases
from medseg_cli.errors import UsageError
from medseg_cli.pipelines import slice_samples
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.sam_recipe import Prompted, SamRecipe


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures 72x48 of a bright ellipse on dark noise."""
    folder = tmp_path_factory.mktemp("Ellipses")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :72]
    for number in range(6):
        a, b = rng.uniform(9, 14, size=2)
        mask = ((x - rng.uniform(20, 50)) / a) ** 2 + ((y - rng.uniform(18, 30)) / b) ** 2 < 1
        image = np.clip(rng.normal(60, 12, mask.shape) + 110 * mask, 0, 255).astype(np.uint8)
        for kind, pixels in (("images", image), ("masks", (mask * 255).astype(np.uint8))):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"e{number}.png")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(upstream(**SMALL), tmp_path_factory.mktemp("weights") / "sam.pth")


def recipe(name: str, weights: Path, **choices: Any) -> SamRecipe:
    base = preset.find(name).model_copy(update={"model": {}})
    return SamRecipe(base, weights, Choices(**choices))


def batch(of: SamRecipe, dataset: Path, count: int, seed: int = 0) -> list[Prompted]:
    studies = [of.load(case) for case in read_cases(dataset)[:count]]
    rng = np.random.default_rng(seed)
    return [of.sample(study, rng) for study in studies]


def test_prompts_are_boxes_and_clicks_where_clicks_are_understood(dataset: Path, weights: Path) -> None:
    for name, mixed in (("sam-vit-b", True), ("medsam", False)):
        chosen = recipe(name, weights)
        study = chosen.load(read_cases(dataset)[0])
        boxed = torch.cat([chosen.sample(study, np.random.default_rng(seed)).boxed for seed in range(40)])
        assert bool(boxed.all()) != mixed
        assert boxed.any()


class Watcher:
    """A network that answers with fixed masks and writes down what it is asked."""

    def __init__(self, answers: list[torch.Tensor]) -> None:
        self.answers, self.asked, self.size = answers, [], 64  # type: ignore[var-annotated]

    def candidates(self, embedding: Any, boxes: Any, points: Any, labels: Any, masks: Any) -> Any:
        logits = self.answers[len(self.asked)]
        self.asked.append({"boxes": boxes, "points": points, "labels": labels, "masks": masks})
        doubt = None if boxes is not None or masks is not None else torch.ones(1, dtype=torch.bool)
        return logits, torch.full(logits.shape[:2], 0.25), doubt


def test_answers_are_corrected_where_they_are_wrong(weights: Path) -> None:
    """A click on the object; three masks, of which the best counts; then its miss, then its surplus."""
    chosen = recipe("sam-vit-b", weights)
    truth = torch.zeros(1, 64, 64)
    truth[:, 16:48, 16:48] = 1
    half, large, whole = (torch.full((16, 16), -20.0) for _ in range(3))
    half[4:12, 4:8], large[4:12, 4:15], whole[4:12, 4:12] = 20, 20, 20
    nothing = torch.full((16, 16), -20.0)
    answers = [torch.stack([whole, nothing, half, nothing])[None], torch.stack([large, *[nothing] * 3])[None]]
    answers.append(torch.stack([whole, *[nothing] * 3])[None])
    watcher: Any = Watcher(answers)
    loss = chosen._rounds(watcher, {}, truth, None, torch.tensor([[0.5, 0.5, 0.999]]))
    first, second, third = watcher.asked
    x, y = first["points"][0, 0].long().tolist()
    assert truth[0, y, x] == 1
    assert first["masks"] is None
    assert first["labels"].tolist() == [[1]]
    x, y = second["points"][0, 1].long().tolist()
    assert 30 <= x < 48, "the right half was missing"
    assert second["labels"].tolist() == [[1, 1]]
    assert torch.equal(second["masks"][0, 0], half)
    x, y = third["points"][0, 2].long().tolist()
    assert 46 <= x < 62, "what is right of the object is too much"
    assert third["labels"].tolist() == [[1, 1, 0]]
    assert torch.equal(third["masks"][0, 0], large)
    expected = []
    for mask in (half, large, whole):
        logits = F.interpolate(mask[None, None], (64, 64), mode="bilinear", align_corners=False)[0]
        p, found = logits.sigmoid(), logits > 0
        dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
        iou = (found * truth).sum() / ((found + truth) > 0).sum()
        focal = sigmoid_focal_loss(logits, truth, alpha=0.25, gamma=2, reduction="mean")
        expected.append(float(20 * focal + dice + (0.25 - iou) ** 2))
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-4)


def test_medsam_is_asked_once_and_its_loss_is_dice_and_cross_entropy(weights: Path) -> None:
    chosen = recipe("medsam", weights)
    logits = torch.tensor([[2.0, -1.0], [0.5, -3.0]])[None, None]
    truth = torch.tensor([[1.0, 0.0], [0.0, 0.0]])[None]
    p = 1 / (1 + np.exp(-logits[0, 0].numpy().astype(np.float64)))
    y = truth[0].numpy()
    cross = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    dice = 1 - (2 * (p * y).sum() + 1) / ((p + y).sum() + 1)
    assert float(chosen._loss(logits, torch.ones(1, 1), truth)) == pytest.approx(cross + dice, abs=1e-5)
    watcher: Any = Watcher([torch.zeros(2, 4, 16, 16)])
    chosen._rounds(watcher, {}, torch.ones(2, 64, 64), torch.zeros(2, 4), torch.zeros(2, 3))
    assert len(watcher.asked) == 1


def test_clicked_pixels_are_spread_over_a_region() -> None:
    region = torch.zeros(1, 8, 8, dtype=torch.bool)
    region[0, 2, 3:6] = region[0, 7, 7] = True
    seen = {
        tuple(slice_samples.clicks_in(region, torch.tensor([draw]))[0].int().tolist()) for draw in (0, 0.3, 0.6, 0.9999)
    }
    assert seen == {(3, 2), (4, 2), (5, 2), (7, 7)}


@pytest.mark.parametrize("name", ["sam-vit-b", "medsam"])
def test_it_learns(name: str, dataset: Path, weights: Path) -> None:
    chosen = recipe(name, weights, peft="full")
    network = chosen.model(0)
    samples = batch(chosen, dataset, 2)
    with torch.no_grad():
        before = float(chosen.loss(network, samples))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    for _ in range(12):
        optimizer.zero_grad()
        loss = chosen.loss(network, samples)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.8 * before
    held = chosen.fixed_sample(chosen.load(read_cases(dataset)[0]), np.random.default_rng(0))
    with torch.inference_mode():
        assert 0 <= chosen.score(network, [held])[0] <= 1


def test_volumes_give_slices(tmp_path: Path, weights: Path) -> None:
    voxels = np.random.default_rng(0).normal(size=(20, 18, 6)).astype(np.float32)
    mask = np.zeros(voxels.shape, np.uint8)
    mask[5:14, 4:12, 2:5] = 1
    for kind, values in (("imagesTr", voxels), ("labelsTr", mask)):
        (tmp_path / kind).mkdir()
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / kind / "a.nii.gz")
    (tmp_path / "dataset.json").write_text(
        '{"name": "x", "modality": {"0": "MR"}, "labels": {"0": "background", "1": "object"}, '
        '"training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]}'
    )
    chosen = recipe("sam-vit-b", weights)
    study = chosen.load(read_cases(tmp_path)[0])
    assert [len(slices) for slices in study.slices] == [3, 8, 9]
    loss = chosen.loss(chosen.model(0), [chosen.sample(study, np.random.default_rng(1))])
    assert torch.isfinite(loss)


def test_kept_features_change_nothing_but_time(dataset: Path, weights: Path, tmp_path: Path) -> None:
    kept = recipe("sam-vit-b", weights, peft="decoder", features=tmp_path / "features")
    network = kept.model(0)
    samples = batch(kept, dataset, 3)
    losses = [float(kept.loss(network, samples)) for _ in range(2)]
    assert losses[0] == losses[1]
    assert kept._features.computed == 3
    assert len(list((tmp_path / "features").rglob("*.safetensors"))) == 3
    again = recipe("sam-vit-b", weights, peft="decoder", features=tmp_path / "features")
    assert float(again.loss(network, samples)) == losses[0]
    assert again._features.computed == 0, "they are read from the folder"
    off = recipe("sam-vit-b", weights, peft="decoder", feature_cache="off")
    assert float(off.loss(network, samples)) == pytest.approx(losses[0], abs=1e-5)

    # Few pictures, however many samples; boxes still differ.
    study = kept.load(read_cases(dataset)[0])
    drawn = [kept.sample(study, np.random.default_rng(seed)) for seed in range(60)]
    assert len({each.view.image.numpy().tobytes() for each in drawn}) == 8
    assert len({each.view.boxes.numpy().tobytes() for each in drawn}) > 20
    drawn = [off.sample(study, np.random.default_rng(seed)) for seed in range(20)]
    assert len({each.view.image.numpy().tobytes() for each in drawn}) == 20

    twin = pickle.loads(pickle.dumps(kept))
    assert np.array_equal(
        twin.sample(study, np.random.default_rng(5)).view.boxes, kept.sample(study, np.random.default_rng(5)).view.boxes
    )


def test_features_leave_the_disk_to_checkpoints(
    dataset: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("medseg_cli.pipelines.features.SPARE", 2**62)
    kept = recipe("sam-vit-b", weights, peft="decoder", features=tmp_path / "features")
    network, samples = kept.model(0), batch(kept, dataset, 3)
    assert float(kept.loss(network, samples)) == float(kept.loss(network, samples))
    assert kept._features.computed == 3, "they are kept in memory"
    assert list((tmp_path / "features").rglob("*.safetensors")) == []
    assert caplog.text.count("further features are kept in memory alone") == 1


def test_features_of_an_encoder_that_learns_are_not_kept(dataset: Path, weights: Path) -> None:
    for kind in ("method", "lora", "adapter", "full"):
        assert recipe("sam-vit-b", weights, peft=kind)._samples.views == 0
        with pytest.raises(UsageError, match="needs an image encoder that is not trained"):
            batch(recipe("sam-vit-b", weights, peft=kind, feature_cache="on"), dataset, 1)
