"""SAM-UNet trained on pictures: samples, losses, averaged statistics, and a run that is a preset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from evaluated import measured
from numpy.random import Generator
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medseg_cli import augment_picture, load_model, preset
from medseg_cli.datasets import Case, Split, read_cases
from medseg_cli.errors import InputError, UsageError
from medseg_cli.evaluation import check_kind, usual_kind
from medseg_cli.models.sam_unet.checkpoint import random_network
from medseg_cli.models.sam_unet.config import config_of
from medseg_cli.pipelines.defaults import Defaults
from medseg_cli.pipelines.sam_unet_recipe import SamUnetRecipe, dice_cross_entropy
from medseg_cli.pipelines.slice_study import Study
from medseg_cli.prompt import Prompt
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.stages import Stages
from medseg_cli.training import run as training_run
from medseg_cli.training.loop import fit
from medseg_cli.training.plan import Plan

TINY = {
    "image_size": 64, "patch_size": 16, "embed_dim": 16, "depth": 4, "num_heads": 2, "mlp_ratio": 2, "window_size": 2,
    "global_attn_indexes": [0, 1, 2, 3], "prompt_dim": 16, "mask_in_chans": 4, "decoder_heads": 2,
    "decoder_mlp_dim": 32, "stem": 8, "layers": [1, 1, 1, 1],
}  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures 90x60 of two bright ellipses on a dark, noisy ground."""
    folder = tmp_path_factory.mktemp("Ellipses")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :90]
    for number in range(10):
        mask = np.zeros((60, 90), dtype=bool)
        for centre in (25, 65):
            a, b = rng.uniform(9, 14, size=2)
            mask |= ((x - centre - rng.uniform(-4, 4)) / a) ** 2 + ((y - 30 - rng.uniform(-6, 6)) / b) ** 2 < 1
        image = np.clip(rng.normal(60, 12, mask.shape) + 110 * mask, 0, 255).astype(np.uint8)
        for kind, pixels in (("images", image), ("masks", (mask * 255).astype(np.uint8))):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"e{number}.png")
    return folder


def tiny_preset(whole_image: bool = True) -> preset.Preset:
    base = preset.find("chest-xray-lungs")
    prompts = base.prompts.model_copy(update={"whole_image": whole_image})
    return base.model_copy(update={"name": "tiny", "model": TINY, "prompts": prompts, "accuracy": ()})


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(preset.dump(tiny_preset()))
    return path


@pytest.fixture(scope="module")
def study(dataset: Path) -> Study:
    return SamUnetRecipe(tiny_preset(), None).load(read_cases(dataset)[0])


def test_a_run_is_a_preset_that_segments_without_a_prompt(
    run_medseg, dataset: Path, tiny: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--start", "scratch", "--steps", "40", "--batch-size", "4", "--learning-rate", "3e-3", "--device", "cpu"]
    done = run_medseg("finetune", dataset, "-o", run, "--preset", tiny, "--validate-every", "20", *options)
    assert done.rc == 0, done.stderr
    assert done.stderr.rstrip().endswith(f"medseg segment SCAN -o MASK.png --preset {run}")
    losses = [float(line.split(",")[1]) for line in (run / "log.csv").read_text().splitlines()[1:]]
    assert losses[1] < losses[0], losses

    done = run_medseg("segment", dataset / "images" / "e0.png", "-o", tmp_path / "mask.png", "--preset", run)
    assert done.rc == 0, done.stderr
    with Image.open(tmp_path / "mask.png") as mask:
        assert mask.size == (90, 60)
        assert set(np.unique(mask)) <= {0, 255}

    done = run_medseg("evaluate", dataset, "--preset", run, "--prompt", "box", "-o", tmp_path / "scores.json")
    assert done.rc == 0, done.stderr
    facts = json.loads((tmp_path / "scores.json").read_text())
    assert facts["prompt"] == "box"
    assert [row["id"] for row in facts["metric_per_case"]] == json.loads((run / "split.json").read_text())["test"]
    for row in facts["metric_per_case"]:
        with Image.open(dataset / "masks" / f"{row['id']}.png") as picture:
            mask = np.asarray(picture) > 0
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert row["prompts"]["1"]["box_ijk"] == [columns[0], rows[0], 0, columns[-1], rows[-1], 0]


def test_a_preset_is_measured_as_it_is_used() -> None:
    for name, usual, others in (("chest-xray-lungs", "none", {"box", "boxes"}), ("hippocampus-mr", "click", set())):
        chosen = preset.find(name)
        assert usual_kind(chosen) == usual
        for kind in ("click", "box", "boxes", "none"):
            if kind in {usual, *others}:
                check_kind(chosen, kind)
            else:
                with pytest.raises(UsageError, match=f"cannot be measured with --prompt {kind}"):
                    check_kind(chosen, kind)


class Recorder:
    """A pipeline that keeps the prompts it is given and answers with the boxes themselves."""

    def __init__(self) -> None:
        self.prompts: list[Prompt] = []

    def segment(self, scan: Scan, prompt: Prompt, stages: Stages) -> Segmentation:
        self.prompts.append(prompt)
        mask = np.zeros(scan.shape, np.uint8)
        for value, target in enumerate(prompt.targets, start=1):
            for box in target.boxes:
                low, high = np.rint(box.first).astype(int), np.rint(box.second).astype(int) + 1
                mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = value
        labels = tuple(Label(value, str(value), (1, 2, 3)) for value in range(1, len(prompt.targets) + 1))
        return Segmentation(mask, labels, scan, {}, ())


def test_boxes_in_every_slice_fit_each_value_by_itself(tmp_path: Path) -> None:
    labels = np.zeros((20, 24, 16), np.uint8)
    for k in range(4, 10):
        labels[6 : 8 + k, 8 : 20 - k, k] = 1
    labels[1, 1:5, 1:3] = 4
    for name, values in (("image", labels.astype(np.int16) * 100), ("label", labels)):
        nib.save(nib.Nifti1Image(values, np.diag([1, 1, 3, 1])), tmp_path / f"{name}.nii.gz")
    case = Case("v", tmp_path / "image.nii.gz", tmp_path / "label.nii.gz")
    recorder = Recorder()
    results = measured(recorder, [case], "boxes", "apart")
    # Every slice of both objects is a rectangle, so exact boxes in every slice are the objects.
    assert [(result.value, result.score.dice) for result in results] == [(1, 1.0), (4, 1.0)]
    assert [len(target.boxes) for target in recorder.prompts[0].targets] == [6, 2]
    whole = measured(recorder, [case], "box", "apart")
    assert whole[0].place == (6, 8, 4, 16, 15, 9)
    assert whole[0].score.dice == pytest.approx(2 * (labels == 1).sum() / ((labels == 1).sum() + 11 * 8 * 6))


@pytest.mark.slow
def test_it_learns(dataset: Path, tmp_path: Path) -> None:
    lines = []
    plan = Plan(steps=100, batch_size=4, validate_every=50, learning_rate=4e-3, ema=0.9)
    training_run.train(dataset, tiny_preset(), None, plan, tmp_path / "run", lines.append)
    assert lines[-1].dice > 0.7, lines


def test_samples_show_their_masks_inside_their_boxes(study: Study) -> None:
    recipe = SamUnetRecipe(tiny_preset(), None)
    contrasts, shapes = [], set()
    for seed in range(60):
        sample = recipe.sample(study, np.random.default_rng(seed))
        height, width = sample.image.shape[1:]
        shapes.add((height, width))
        assert max(height, width) == 64
        assert sample.image.min() >= 0
        assert sample.image.max() <= 255
        assert sample.masks.shape == (2, 64, 64)
        assert not sample.masks[:, height:].any()
        assert not sample.masks[:, :, width:].any()
        assert sample.boxes[0].tolist() == [0, 0, width, height]
        x0, y0, x1, y1 = sample.boxes[1].tolist()
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        # Sides move by a tenth of the box at most, so that most of the object stays inside.
        inside = sample.masks[1][round(y0) : round(y1), round(x0) : round(x1)].sum() / sample.masks[1].sum()
        assert inside > 0.75
        mask = sample.masks[0][:height, :width] > 0
        contrasts.append(float(sample.image[0][mask].mean() - sample.image[0][~mask].mean()))
    assert len(shapes) > 20
    # Bright objects are bright where the mask is; a tenth of the pictures are negatives.
    assert np.mean(np.array(contrasts) > 20) > 0.7
    assert np.mean(np.array(contrasts) < -20) > 0.01


def test_one_of_two_objects_is_prompted_by_itself(study: Study) -> None:
    recipe = SamUnetRecipe(tiny_preset(), None)
    samples = [recipe.sample(study, np.random.default_rng(seed)) for seed in range(60)]
    shares = np.array([float(sample.masks[1].sum() / sample.masks[0].sum()) for sample in samples])
    assert 0.2 < np.mean(shares < 0.9) < 0.6
    assert np.all((shares > 0.99) | (shares < 0.9))


def test_without_the_whole_image_every_box_is_an_objects(study: Study) -> None:
    recipe = SamUnetRecipe(tiny_preset(whole_image=False), None)
    for seed in range(20):
        sample = recipe.sample(study, np.random.default_rng(seed))
        assert sample.boxes[0].tolist() != [0, 0, sample.image.shape[2], sample.image.shape[1]]


def test_randomness_comes_from_the_generator_alone(study: Study) -> None:
    recipe = SamUnetRecipe(tiny_preset(), None)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = recipe.sample(study, np.random.default_rng(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.random.seed(7)
    two = recipe.sample(study, np.random.default_rng(3))
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.boxes, two.boxes)
    assert torch.equal(one.masks, two.masks)


class Still:
    """A generator whose every draw leaves the picture as it is."""

    def random(self) -> float:
        return 0.99


def test_a_view_of_everything_is_the_antialiased_picture() -> None:
    rng: Any = Still()
    source = torch.from_numpy(np.random.default_rng(0).random((1, 80, 120)).astype(np.float32))
    view = augment_picture.random_view(80, 120, 60, rng)
    assert (view.height, view.width) == (40, 60)
    # Two by two samples per pixel, at half the size: the mean of the 2x2 source pixels below.
    expected = source.reshape(1, 40, 2, 60, 2).mean((2, 4))
    assert torch.allclose(view.of(source), expected, atol=1e-5)


def test_a_veil_changes_the_organ_and_nothing_far_from_it() -> None:
    mask = torch.zeros(64, 96, dtype=torch.bool)
    mask[10:50, 10:30], mask[15:45, 60:80] = True, True
    picture = torch.full((1, 64, 96), 0.8) - 0.6 * mask
    near = torch.nn.functional.max_pool2d(mask[None].float(), 31, stride=1, padding=15)[0] > 0
    changed = []
    for seed in range(40):
        veiled = augment_picture.random_veil(picture, mask, np.random.default_rng(seed))
        assert torch.allclose(veiled[0][~near], picture[0][~near], atol=0.02)
        changed.append(float((veiled - picture)[0][mask].abs().mean()))
    assert np.mean(np.array(changed) > 0.02) > 0.7
    assert max(changed) > 0.2


def test_pixels_that_are_not_square_keep_the_shape_of_the_anatomy() -> None:
    rng: Any = Still()
    view = augment_picture.random_view(80 * 0.5, 80 * 1.0, 64, rng)
    assert (view.height, view.width) == (32, 64)


def test_objects_too_small_to_see_are_said(tmp_path: Path) -> None:
    mask = np.zeros((400, 300), np.uint8)
    mask[7, 9] = 255
    for name, pixels in (("image", mask // 2), ("mask", mask)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    recipe = SamUnetRecipe(tiny_preset(), None)
    study = recipe.load(Case("a", tmp_path / "image.png", tmp_path / "mask.png"))
    with pytest.raises(InputError, match="smaller than a pixel"):
        recipe.sample(study, np.random.default_rng(0))


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A 20x24x16 CT at 1x1x3 mm, of 0 HU with a box of 100 HU in it, and a small one of 500 HU."""
    folder = tmp_path_factory.mktemp("volume")
    labels = np.zeros((20, 24, 16), np.uint8)
    labels[6:14, 8:18, 5:11], labels[1:5, 1:5, 1:5] = 1, 2
    for name, values in (("image", np.array([0, 100, 500], np.int16)[labels]), ("label", labels)):
        nib.save(nib.Nifti1Image(values, np.diag([1, 1, 3, 1])), folder / f"{name}.nii.gz")
    case = Case("v", folder / "image.nii.gz", folder / "label.nii.gz", modality="CT")
    return SamUnetRecipe(box_preset(), None).load(case)


def box_preset() -> preset.Preset:
    base = tiny_preset(whole_image=False)
    ct = {"method": "window", "level": 100, "width": 400}
    preprocessing = {"intensity": {"method": "eight-bit"}, "by_modality": {"CT": ct}}
    return preset.Preset.model_validate({**base.model_dump(mode="json"), "preprocessing": preprocessing})


def test_volumes_are_seen_in_all_planes_and_through_many_windows(volume: Study) -> None:
    recipe = SamUnetRecipe(box_preset(), None)
    assert [plane.name for plane in volume.planes] == ["axial", "coronal", "sagittal"]
    assert (volume.display.low, volume.display.high) == (-100, 300)
    samples = [recipe.sample(volume, np.random.default_rng(seed)) for seed in range(80)]
    shares = np.array([float(s.masks[0].sum()) / (s.image.shape[1] * s.image.shape[2]) for s in samples])
    assert shares.min() < 0.05
    assert shares.max() > 0.3
    # A slice that shows 20x24 mm is nearly square, one with 16 slices of 3 mm is not.
    assert {s.image.shape[1] > s.image.shape[2] for s in samples} == {True, False}


def test_validation_sees_slices_as_they_are_with_exact_boxes(volume: Study) -> None:
    recipe = SamUnetRecipe(box_preset(), None)
    held = recipe.fixed_sample(volume, np.random.default_rng(0))
    assert len(held) == 10  # slices 1 to 10 along k
    for each in held:
        # Axial pictures lie left-right and anterior-posterior: RAS voxels are turned by 180 degrees.
        rows, columns = np.flatnonzero(each.mask[0].any(1)), np.flatnonzero(each.mask[0].any(0))
        scale = np.array([53 / 20, 64 / 24] * 2)  # 20 columns become 53.3, which is 53 pixels
        expected = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * scale
        assert np.allclose(each.box[0], expected, atol=1e-3)
        assert (len(rows), len(columns)) in {(10, 8), (4, 4)}


def test_only_a_transformer_of_sams_width_is_frozen(tmp_path: Path) -> None:
    """SAM's is left as it is (section 3 of the specification), unless it is random; a smaller one was never SAM's."""
    wide = {**TINY, "embed_dim": 768, "num_heads": 12, "mlp_ratio": 0.25, "stem": 4}
    for model, freezes in ((TINY, False), (wide, True)):
        base = tiny_preset().model_copy(update={"model": model})
        scratch = SamUnetRecipe(base, None).model(4)
        assert all(parameter.requires_grad for parameter in scratch.parameters())
        twin = random_network(config_of(model), 4).state_dict()
        assert all(torch.equal(value, twin[name]) for name, value in scratch.state_dict().items())
        save_file(scratch.state_dict(), tmp_path / "w.safetensors")
        tuned = SamUnetRecipe(base, tmp_path / "w.safetensors").model(0)
        frozen = {name for name, parameter in tuned.named_parameters() if not parameter.requires_grad}
        vit = {name for name, _ in tuned.named_parameters() if name.startswith("image_encoder.")}
        assert frozen == (vit if freezes else set())


def test_a_frozen_transformer_stays_as_it_was(dataset: Path, tmp_path: Path) -> None:
    wide = {**TINY, "embed_dim": 768, "num_heads": 12, "mlp_ratio": 0.25, "stem": 4}
    start = tmp_path / "start.safetensors"
    save_file(random_network(config_of(wide), 0).state_dict(), start)
    plan = Plan(steps=2, batch_size=2, validate_every=2)
    base = tiny_preset().model_copy(update={"model": wide})
    training_run.train(dataset, base, start, plan, tmp_path / "run", lambda line: None)
    trained = tmp_path / "run" / "weights.safetensors"
    before, after = load_file(start), load_model("sam-unet", checkpoint=trained, **wide).state_dict()
    assert not any(name.startswith("image_encoder.") for name in load_file(trained)), "only what changed is in the file"
    same = {name for name in before if torch.equal(before[name], after[name])}
    vit = {name for name in before if name.startswith("image_encoder.")}
    assert vit <= same
    # Box prompts never reach the embeddings of points and dense masks (section 9 of the specification).
    # Nor does a softmax over places see the bias of its keys.
    idle = {name for name in same - vit if name.startswith("prompt_encoder.") or name.endswith("k_proj.bias")}
    assert same - vit == idle


def test_dice_cross_entropy_against_its_formula() -> None:
    rng = np.random.default_rng(0)
    z, y = rng.normal(0, 2, (3, 1, 5, 4)), rng.integers(0, 2, (3, 1, 5, 4)).astype(float)
    p = 1 / (1 + np.exp(-z))
    entropy = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()
    dice = [1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, y, strict=True)]
    loss = dice_cross_entropy(torch.from_numpy(z), torch.from_numpy(y))
    assert float(loss) == pytest.approx(entropy + np.mean(dice), rel=1e-6)


class Norms:
    """A recipe whose network is one BatchNorm; it writes down its running mean after every step."""

    def __init__(self) -> None:
        self.means: list[Tensor] = []
        self.network = nn.BatchNorm1d(2)
        self.defaults = Defaults()

    def model(self, seed: int) -> nn.Module:
        return self.network

    def load(self, case: Case) -> None:
        return None

    def sample(self, volume: None, rng: Generator) -> Tensor:
        return torch.from_numpy(rng.normal(3, 1, size=2).astype(np.float32))

    fixed_sample = sample

    def loss(self, model: nn.Module, samples: list[Tensor]) -> Tensor:
        loss = model(torch.stack(samples)).square().mean()
        self.means.append(self.network.running_mean.clone())
        return loss

    def score(self, model: nn.Module, samples: list[Tensor]) -> list[float]:
        return [0.0]


def test_averaged_weights_come_with_averaged_statistics(tmp_path: Path) -> None:
    recipe = Norms()
    case = Case("a", Path("a"), Path("a"))
    plan = Plan(steps=6, batch_size=3, validate_every=6, ema=0.25)
    averaged = fit(recipe, Split((case,), (case,), (case,)), plan, tmp_path, lambda line: None).network
    expected = recipe.means[0]
    for step, mean in enumerate(recipe.means[1:], start=1):
        # Of a few steps the average is mostly of the last ones, else of as many as the decay says.
        keep = min(0.25, step / (step + 10))
        expected = keep * expected + (1 - keep) * mean
    assert torch.allclose(averaged.running_mean, expected, atol=1e-5)
    assert not torch.allclose(averaged.running_mean, recipe.means[-1], atol=1e-2)
