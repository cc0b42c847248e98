"""The DynUNet baseline: planned from data, trained and used through the command line, exact on the scan's own grid."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import DynUNet
from phantom import ORIENTATIONS, affine, scan, voxels
from scipy import ndimage
from torch import nn

from medseg_cli import pipelines, preset
from medseg_cli.datasets import read_dataset
from medseg_cli.device import select
from medseg_cli.errors import InputError, ModelError, UsageError
from medseg_cli.geometry import Grid, nearest_labels, resample_labels
from medseg_cli.models.dynunet import DynunetConfig, config_of, random_network
from medseg_cli.pipelines import dynunet
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.dynunet_plan import plan, resolutions, window
from medseg_cli.pipelines.dynunet_recipe import DynunetRecipe, Sample, dice_cross_entropy
from medseg_cli.preset import Preset
from medseg_cli.prompt import Click, Prompt, Target
from medseg_cli.scan import Provenance, Scan
from medseg_cli.stages import Stages

SMALL = {"patch_voxels": 4096, "base_filters": 4}
OBLIQUE = affine("LPS", (1.0, 1.0, 2.0), (5.0, -8.0, 11.0), (0.2, -0.1, 0.3))
SHAPE = (24, 20, 12)


def volume(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy volume with a bright ball (value 1) on one side and a brighter block (value 3) on the other."""
    rng = np.random.default_rng(number)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    ball = (((index - (7 + rng.uniform(-1, 1), 10, 6)) * (1, 1, 2)) ** 2).sum(-1) < 5**2
    block = (np.abs(index - (18, 10 + rng.uniform(-1, 1), 6)) <= (3, 4, 2)).all(-1)
    labels = np.where(block, 3, ball).astype(np.uint8)
    return (rng.normal(0, 8, SHAPE) + 100 * ball + 200 * block).astype(np.float32), labels


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five oblique, anisotropic volumes with the labels 1 and 3."""
    folder = tmp_path_factory.mktemp("Shapes")
    entries = []
    for number in range(5):
        for kind, data in zip(("imagesTr", "labelsTr"), volume(number), strict=True):
            (folder / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(data, OBLIQUE), folder / kind / f"shape_{number}.nii.gz")
        entries.append({kind: f"./{kind}sTr/shape_{number}.nii.gz" for kind in ("image", "label")})
    labels = {"0": "background", "1": "ball", "3": "block"}
    facts = {"name": "Shapes", "modality": {"0": "MRI"}, "labels": labels, "training": entries}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """dynunet-baseline with a small window and few channels."""
    path = tmp_path / "small.yaml"
    path.write_text(preset.dump(base()))
    return path


def base(**options: object) -> Preset:
    return preset.find("dynunet-baseline").model_copy(update={"name": "small", "options": SMALL | options})


def planned(dataset: Path) -> Preset:
    found = read_dataset(dataset)
    return plan(base(), found.labels, found.cases)


def test_the_network_is_monais() -> None:
    config = DynunetConfig(
        3, (4, 8, 16, 16), ((3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)), ((1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    )
    ours = random_network(config, 0).eval()
    kernels, strides = [list(each) for each in config.kernels], [list(each) for each in config.strides]
    theirs = DynUNet(3, 1, 3, kernels, strides, strides[1:], filters=list(config.filters)).eval()
    fit = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert all(key.startswith("skip_layers.") for key in fit.missing_keys)
    assert all(key.startswith("heads.") for key in fit.unexpected_keys)
    image = torch.randn(2, 1, 32, 16, 12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(image), theirs(image))
    assert [tuple(each.shape[2:]) for each in ours.train()(image)] == [(32, 16, 12), (16, 8, 12)]
    assert config.multiple == (8, 8, 4)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "lacks classes, filters, kernels, strides"),
        ({"classes": 1}, "background and one label are two"),
        ({"filters": [4, 8]}, "of one length, 3 or more"),
        ({"strides": [[2, 2, 2]] * 3}, "those of the first resolution 1"),
        ({"kernels": [[2, 3, 3]] * 3}, "edges of 1, 3, 5 or 7"),
        ({"kernels": [[3, 3]] * 3}, "not enough values"),
        ({"depth": 3}, "unknown depth"),
    ],
)
def test_wrong_configurations_are_said(values: dict, words: str) -> None:
    good = {"classes": 2, "filters": [4, 8, 8], "kernels": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], *[[2, 2, 2]] * 2]}
    assert config_of(good).classes == 2
    with pytest.raises(ModelError, match=words):
        config_of(good | values if values else {})


def test_resolutions_follow_the_rule() -> None:
    # 64 -> 32 -> 16 -> 8 -> 4 voxels, the most that 4 voxels allow
    assert resolutions((64, 64, 64), (1.0, 1.0, 1.0)) == (((3, 3, 3),) * 5, ((1, 1, 1), *((2, 2, 2),) * 4))
    # 5 mm slices: neither convolved nor halved along them until the plane's voxels are 4 mm
    kernels, strides = resolutions((64, 64, 16), (1.0, 1.0, 5.0))
    assert kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))


@pytest.mark.parametrize("most", [4096, 2**17, 2**21])
@pytest.mark.parametrize(
    ("extent", "spacing"),
    [((36, 50, 35), (1, 1, 1)), ((128, 128, 128), (4.5, 4.5, 2.5)), ((320, 320, 18), (0.6, 0.6, 6)), ((9, 7, 5),) * 2],
)
def test_windows_fit_the_budget_and_the_network(extent, spacing, most: int) -> None:
    size, kernels, strides = window(np.array(extent, float), spacing, most)
    multiple = np.prod(strides, axis=0)
    assert np.prod(size) <= most
    assert not np.any(np.array(size) % multiple)
    assert len(kernels) == len(strides) >= 3
    assert np.all(np.array(size) < np.maximum(np.array(extent), 16) + multiple), "no more than the case, padded"


def test_planning_reads_the_dataset(dataset: Path) -> None:
    found = planned(dataset)
    assert [(label.value, label.name) for label in found.labels] == [(1, "ball"), (3, "block")]
    assert found.preprocessing.spacing == pytest.approx((1.0, 1.0, 2.0), abs=1e-3)
    assert found.preprocessing.intensity.method == "zscore"
    assert found.modality == ("MR",)
    assert found.model["classes"] == 3
    assert found.options["mirror"] is True
    assert plan(found, {1: "other"}, ()) == found, "a preset that has its network is complete"


def test_sided_labels_are_never_mirrored_and_unnamed_values_are_said(dataset: Path) -> None:
    cases = read_dataset(dataset).cases
    assert plan(base(), {1: "Left ball", 3: "block"}, cases).options["mirror"] is False
    assert [label.name for label in plan(base(), {}, cases).labels] == ["label 1", "label 3"]
    with pytest.raises(InputError, match=r"shape_4 has label value 3, and the dataset names only 1 ball"):
        plan(base(), {1: "ball"}, cases)


def test_a_class_without_voxels_is_said(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    cases = read_dataset(dataset).cases
    plan(base(), {1: "ball", 3: "block", 4: "cone"}, cases)
    assert caplog.messages == ["no training case holds label 4 cone: the network will not learn it"]


def test_ct_is_clipped_to_what_the_labels_hold(tmp_path: Path) -> None:
    image, labels = volume(0)
    image[labels == 0] = -1000
    for name, data in (("image", image), ("label", labels)):
        nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / f"{name}.nii.gz")
    facts = {"modality": {"0": "CT"}, "training": [{"image": "image.nii.gz", "label": "label.nii.gz"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    how = plan(base(), {}, read_dataset(tmp_path).cases).preprocessing.intensity
    inside = image[labels > 0]
    assert how.method == "clip-zscore"
    assert (how.low, how.high) == pytest.approx(tuple(np.percentile(inside, (0.5, 99.5))), abs=5)
    assert (how.mean, how.std) == pytest.approx((inside.mean(), inside.std()), rel=0.05)


def test_a_run_segments_and_is_measured(in_process, dataset: Path, small: Path, tmp_path: Path) -> None:
    run, mask = tmp_path / "run", tmp_path / "mask.nii.gz"
    code, _, err = in_process("finetune", dataset, "-o", run, "--preset", small, "--steps", 4, "--device", "cpu")
    assert code == 0, err
    assert "has no weights: training starts from random ones" in err
    made = preset.find(run)
    assert [(label.value, label.name) for label in made.labels] == [(1, "ball"), (3, "block")]
    source = dataset / "imagesTr" / "shape_0.nii.gz"
    code, out, err = in_process("segment", source, "-o", mask, "--preset", run, "--json", "--quiet")
    assert code == 0, err
    written = nib.load(mask)
    assert written.shape == SHAPE
    np.testing.assert_allclose(written.affine, OBLIQUE, atol=1e-5)
    assert set(np.unique(np.asarray(written.dataobj)).tolist()) <= {0, 1, 3}
    assert [label["name"] for label in json.loads(out)["labels"]] == ["ball", "block"]
    code, out, err = in_process("evaluate", dataset, "--preset", run, "--json", "--quiet")
    assert code == 0, err
    scores = json.loads(out)
    assert (scores["prompt"], scores["objects_are"], scores["objects"]) == ("none", "apart", 2)
    assert scores["labels"] == {"1": "ball", "3": "block"}
    code, _, err = in_process("finetune", dataset, "-o", tmp_path / "on", "--preset", run, "--steps", 1, "--quiet")
    assert code == 0, err
    again = preset.find(tmp_path / "on")
    assert (again.model, again.labels, again.options) == (made.model, made.labels, made.options), "the plan is kept"


@pytest.mark.slow
def test_training_learns_both_labels(dataset: Path) -> None:
    from medseg_cli.datasets import load_pair

    cases = read_dataset(dataset).cases
    made = planned(dataset)
    recipe = DynunetRecipe(made, None, Choices())
    network = recipe.model(0)
    loaded = [recipe.load(case) for case in cases[:4]]
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    for step in range(80):
        rng = np.random.default_rng([0, step])
        loss = recipe.loss(network.train(), [recipe.sample(loaded[step % 4], rng), recipe.sample(loaded[0], rng)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pipeline = dynunet.DynunetPipeline(
        made, dynunet.options_of(made, dynunet.Options), select("cpu"), network.eval(), {}
    )
    taken, labels = load_pair(cases[4])
    mask = pipeline.segment(taken, Prompt(), Stages()).mask
    for value in (1, 3):
        assert 2 * np.sum((mask == value) & (labels == value)) / np.sum((mask == value) + 1.0 * (labels == value)) > 0.8


def test_a_preset_without_weights_names_the_command(in_process, dataset: Path, tmp_path: Path) -> None:
    source = dataset / "imagesTr" / "shape_0.nii.gz"
    words = ("segment", source, "-o", tmp_path / "mask.nii.gz", "--preset", "dynunet-baseline")
    code, _, err = in_process(*words)
    assert code == 4
    assert "medseg finetune DATASET -o RUN --preset dynunet-baseline" in err
    code, _, err = in_process(*words, "--random-weights")
    assert code == 4
    assert "medseg finetune DATASET -o RUN --preset dynunet-baseline" in err
    code, _, err = in_process(*words, "--point", "1,2,3")
    assert code == 2
    assert "takes no prompt" in err
    assert not (tmp_path / "mask.nii.gz").exists()


class Threshold(nn.Module):
    """Calls everything brighter than `at`, normalised, the second of two labels."""

    config = SimpleNamespace(classes=3)

    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(image), torch.full_like(image, -50.0), 40 * (image - self.at)], 1)


def thresholding(made: Preset, threshold: float = 0.0) -> dynunet.DynunetPipeline:
    """The pipeline with a network whose answer is known."""
    pipeline = dynunet.DynunetPipeline.from_preset(made, select("cpu"), random_weights=True)
    return replace(pipeline, model=Threshold(threshold))


def test_the_mask_lies_on_the_scans_own_grid_in_every_orientation(dataset: Path) -> None:
    """At the scan's own spacing nothing may be interpolated: the mask is the threshold, voxel by voxel."""
    made = planned(dataset)
    made = made.model_copy(update={"preprocessing": made.preprocessing.model_copy(update={"spacing": None})})
    pipeline = thresholding(made)
    for codes in ORIENTATIONS:
        taken = scan(codes, angles=(0.1, -0.2, 0.3))
        values = voxels().astype(np.float64)
        low, high = np.percentile(values, (0.5, 99.5))
        values = values.clip(low, high)
        found = pipeline.segment(taken, Prompt(), Stages())
        assert np.array_equal(found.mask, np.where(values > values.mean(), 3, 0)), codes


@pytest.mark.parametrize("parts", [1, 12])
def test_another_spacing_comes_back_in_place(dataset: Path, monkeypatch, parts: int) -> None:
    """A ball of known centre and radius, at a spacing that divides no axis, whole and in parts."""
    matrix = affine("ASR", (0.8, 1.7, 1.1), angles=(0.3, 0.2, -0.4))
    shape = (60, 28, 44)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    ball = (((index - (31, 13, 20)) * (0.8, 1.7, 1.1)) ** 2).sum(-1) < 13**2
    taken = Scan((100.0 * ball).astype(np.float32)[None], matrix, Provenance(Path("ball"), "nifti", "0" * 64))
    made = planned(dataset)
    # Half way between the two values of the normalised ball
    share = ball.mean()
    pipeline = thresholding(made, (0.5 - share) / np.sqrt(share * (1 - share)))
    lattice = dynunet.lattice_of(Grid(matrix, shape), made)
    monkeypatch.setattr(dynunet, "SCORES", 3 * (np.prod(lattice.shape) // parts + 1))
    found = pipeline.segment(taken, Prompt(), Stages())
    mask = found.mask == 3
    assert 2 * np.sum(mask & ball) / (mask.sum() + ball.sum()) > 0.95
    assert ndimage.center_of_mass(mask) == pytest.approx((31, 13, 20), abs=0.1)


def test_nothing_found_is_an_empty_mask_that_says_so(dataset: Path) -> None:
    found = thresholding(planned(dataset), threshold=1e6).segment(scan(), Prompt(), Stages())
    assert not found.mask.any()
    assert found.notes == ("no ball was found", "no block was found")


def test_what_is_no_grey_volume_or_prompted_is_refused(dataset: Path) -> None:
    pipeline = thresholding(planned(dataset))
    taken = scan()
    colours = Scan(np.repeat(taken.voxels, 3, axis=0), taken.affine, taken.provenance)
    picture = Scan(taken.voxels[..., :1], taken.affine, Provenance(Path("x.png"), "image", "0" * 64))
    with pytest.raises(InputError, match="3 channels"):
        pipeline.segment(colours, Prompt(), Stages())
    with pytest.raises(InputError, match="is a picture"):
        pipeline.segment(picture, Prompt(), Stages())
    with pytest.raises(UsageError, match="takes no prompt"):
        pipeline.segment(taken, Prompt((Target("1", "", (Click((1, 1, 1)),)),)), Stages())


def test_broken_voxels_do_not_spread(in_process, dataset: Path, tmp_path: Path) -> None:
    """NaN in a corner: the object elsewhere is still where it was."""
    made = planned(dataset)
    path = tmp_path / "planned.yaml"
    path.write_text(preset.dump(made))
    image, _ = volume(0)
    image[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(image, OBLIQUE), tmp_path / "nan.nii.gz")
    words = ("segment", "nan.nii.gz", "-o", "mask.nii.gz", "--preset", path, "--random-weights", "--json")
    code, out, err = in_process(*words)
    assert code == 0, err
    assert any("NaN" in note or "finite" in note for note in json.loads(out)["notes"])


def test_a_label_that_the_preset_does_not_know_is_said(dataset: Path) -> None:
    made = planned(dataset)
    one = made.model_copy(update={"labels": made.labels[:1], "model": made.model | {"classes": 2}})
    with pytest.raises(InputError, match=r"shape_0 has label value 3, and preset small knows only 1 ball"):
        DynunetRecipe(one, None, Choices()).load(read_dataset(dataset).cases[0])
    with pytest.raises(ModelError, match="names 1 labels, its network has 3 classes"):
        dynunet.DynunetPipeline.from_preset(one.model_copy(update={"model": made.model}), select("cpu"), True)
    wrong = made.model_copy(update={"options": made.options | {"patch_size": [15, 16, 16]}})
    with pytest.raises(ModelError, match=r"patch_size is \(15, 16, 16\)"):
        dynunet.DynunetPipeline.from_preset(wrong, select("cpu"), True)


def test_only_the_whole_network_is_trained(dataset: Path) -> None:
    with pytest.raises(UsageError, match="--peft lora is for networks with a transformer"):
        DynunetRecipe(planned(dataset), None, Choices(peft="lora")).model(0)


def test_samples_show_what_was_loaded(dataset: Path) -> None:
    """Windows hold the label where the image is bright, whatever was turned, and are the same for the same draw."""
    recipe = DynunetRecipe(planned(dataset), None, Choices())
    loaded = recipe.load(read_dataset(dataset).cases[0])
    assert loaded.classes.max() == 2
    agree = []
    for number in range(20):
        one, two = (recipe.sample(loaded, np.random.default_rng(number)) for _ in range(2))
        assert torch.equal(one.image, two.image)
        assert torch.equal(one.classes, two.classes)
        block = one.classes == 2
        if block.any() and not block.all():
            agree.append(float(one.image[block].mean()) > float(one.image[~block].mean()) + 1)
    assert len(agree) > 10
    assert all(agree)


def test_the_score_is_the_mean_dice_of_the_labels_that_are_there(dataset: Path) -> None:
    recipe = DynunetRecipe(planned(dataset), None, Choices())
    truth = torch.zeros((1, 8, 8, 8), dtype=torch.int64)
    truth[0, :2], truth[0, 6:] = 1, 2
    found = truth.clone()
    found[0, :1] = 0  # half of label 1 is missed: Dice 2/3; label 2 is whole

    class Known(nn.Module):
        """Windows of a case's class numbers → these classes."""

        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(image[:, 0].long(), 3).movedim(-1, 1).float()

    (value,) = recipe.score(Known(), [Sample(found.float(), truth)])
    assert value == pytest.approx((2 / 3 + 1) / 2)


def test_the_loss_is_its_formula() -> None:
    """Dice over all voxels of a batch, without background, plus cross entropy; in float64."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, 4, generator=generator, dtype=torch.float64)
    truth = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=generator)
    chances = logits.softmax(1)
    wanted = torch.nn.functional.one_hot(truth[:, 0], 3).movedim(-1, 1).double()
    axes = (0, 2, 3, 4)
    dice = (2 * (chances * wanted).sum(axes) + 1e-5) / (chances.sum(axes) + wanted.sum(axes) + 1e-5)
    entropy = -(chances.log() * wanted).sum(1).mean()
    expected = (1 - dice[1:]).mean() + entropy
    assert float(dice_cross_entropy(logits, truth)) == pytest.approx(float(expected), rel=1e-6)


def test_labels_move_like_their_voxels() -> None:
    rng = np.random.default_rng(3)
    labels = ndimage.zoom(rng.integers(0, 4, (4, 4, 3)), 4, order=0)
    source = Grid(affine("RAS", (1.0, 1.2, 2.0)), labels.shape)
    target = Grid(affine("RAS", (0.7, 0.9, 1.1), angles=(0.1, 0.05, -0.1)), (17, 15, 14))
    index = np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"), -1).reshape(-1, 3).astype(float)
    places = source.index_of(index, target).T
    nearest = ndimage.map_coordinates(labels, places, order=0, mode="constant").reshape(target.shape)
    ours = nearest_labels(labels, source, target)
    deep = np.all((places > 0) & (places < np.array(labels.shape)[:, None] - 1), axis=0).reshape(target.shape)
    assert np.array_equal(ours[deep], nearest[deep])
    shares = np.stack(
        [
            ndimage.map_coordinates((labels == value) * 1.0, places, order=1, mode="constant").reshape(target.shape)
            for value in range(4)
        ]
    )
    clear = deep & (np.sort(shares, 0)[-1] - np.sort(shares, 0)[-2] > 1e-4)
    assert np.array_equal(resample_labels(labels, source, target)[clear], shares.argmax(0)[clear])


def test_the_pipeline_is_listed() -> None:
    entry = pipelines.find("dynunet")
    assert entry.prompts == frozenset()
    assert preset.find("dynunet-baseline").prompts.automatic
