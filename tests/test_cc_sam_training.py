"""CC-SAM trained through the command line on small drawn pictures: every way of asking, the frozen CNN, the texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from medseg_cli import preset
from medseg_cli.datasets import read_cases
from medseg_cli.models.cc_sam.bank import bank_of
from medseg_cli.models.cc_sam.losses import BETA
from medseg_cli.models.cc_sam.table import Table
from medseg_cli.pipelines.cc_sam_recipe import CcSamRecipe
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.text_embedding import save_table
from medseg_cli.preset import Preset

Run = Callable[..., tuple[int, str, str]]
TINY: dict[str, Any] = {
    "embed_dim": 16,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "window_size": 8,
    "global_attn_indexes": [0, 1, 2, 3],
    "prompt_dim": 16,
    "mask_in_chans": 4,
    "decoder_heads": 2,
    "decoder_mlp_dim": 32,
    "iou_dim": 16,
    "cnn_block": "basic",
    "cnn_layers": [3, 4, 6, 3],
    "cnn_stem": 12,
    "fusion_dim": 8,
    "latent_dim": 8,
    "text_dim": 6,
}
TEXTS = {
    "disc": {
        "phrase": "bright disc",
        "names": ["plate"],
        "descriptions": ["A bright disc on a dark ground.", "A disc."],
    },
    "bar": {"phrase": "bright bar", "descriptions": ["A bright bar."]},
}
SHIPPED = Path(__file__).parents[1] / "presets" / "weights" / "chest-xray-lungs.safetensors"
SHORT = ("--steps", 2, "--batch-size", 1, "--workers", 0, "--device", "cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures 72x48 of a disc (1) and a bar (2) on dark noise."""
    folder = tmp_path_factory.mktemp("Shapes")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :72]
    for number in range(4):
        labels = np.zeros((48, 72), np.uint8)
        labels[(x - rng.uniform(15, 25)) ** 2 + (y - rng.uniform(18, 30)) ** 2 < 90] = 1
        labels[20:26, 45:65] = 2
        image = np.clip(rng.normal(60, 12, labels.shape) + 110 * (labels > 0), 0, 255).astype(np.uint8)
        for kind, pixels in (("images", image), ("masks", labels)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"e{number}.png")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The shipped preset of a training, with a tiny network, two classes and a table of their texts."""
    generator = torch.Generator().manual_seed(0)
    table = Table(
        bank_of(TEXTS), {"disc": torch.randn(3, 6, generator=generator), "bar": torch.randn(2, 6, generator=generator)}
    )
    save_table(table, tmp_path / "table.safetensors", overwrite=False)
    shipped = preset.find("cc-sam-vit-b").model_dump(mode="json")
    labels = [{"value": 1, "name": "disc", "color": "#f4d03f"}, {"value": 2, "name": "bar", "color": "#58d68d"}]
    facts = shipped | {"name": "tiny", "model": TINY, "weights": None, "labels": labels}
    facts["options"] = shipped["options"] | {"text_table": "table.safetensors"}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(facts))
    return tmp_path / "tiny.yaml"


def with_prompts(of: Preset, **changes: Any) -> Preset:
    return of.model_copy(update={"prompts": of.prompts.model_copy(update=changes)})


def test_one_run_answers_to_everything(in_process: Run, pictures: Path, base: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, said = in_process("finetune", pictures, "-o", run, "--preset", base, "--cnn-weights", SHIPPED, *SHORT)
    assert code == 0, said
    trained = load_file(run / "weights.safetensors")
    began = load_file(SHIPPED)
    assert torch.equal(trained["image_encoder.cnn.conv1.weight"], began["resnet.stage0.0.weight"])
    assert torch.equal(
        trained["image_encoder.cnn.layer3.5.bn2.running_mean"], began["resnet.stage3.5.bn2.running_mean"]
    )
    image, masks = pictures / "images" / "e0.png", {}
    asks: dict[str, tuple[str, ...]] = {
        "click": ("--point", "20,24"),
        "box": ("--box", "10,14,30,34"),
        "text": ("--text", "plate"),
        "none": (),
    }
    for name, ask in asks.items():
        code, _, said = in_process(
            "segment", image, "-o", tmp_path / f"{name}.png", "--preset", run, "--device", "cpu", *ask
        )
        assert code == 0, (name, said)
        masks[name] = Image.open(tmp_path / f"{name}.png").size
    assert set(masks.values()) == {(72, 48)}
    code, _, said = in_process(
        "segment", image, "-o", tmp_path / "odd.png", "--preset", run, "--device", "cpu", "--text", "a lung"
    )
    assert code == 2
    assert "bright disc" in said


def test_a_frozen_cnn_has_to_know_something(in_process: Run, pictures: Path, base: Path, tmp_path: Path) -> None:
    ask = ("finetune", pictures, "-o", tmp_path / "run", *SHORT)
    code, _, said = in_process(*ask, "--preset", base)
    assert code == 2
    assert "--cnn-weights" in said
    code, _, said = in_process(*ask, "--preset", "samus-vit-b", "--cnn-weights", SHIPPED)
    assert code == 2
    assert "frozen CNN" in said
    code, _, said = in_process(*ask, "--preset", base, "--cnn-weights", "nothing-of-that-name")
    assert code != 0
    assert "nothing-of-that-name" in said


def test_prompts_are_those_of_the_preset_and_fit_the_object(pictures: Path, base: Path) -> None:
    loaded = preset.find(str(base))
    case = read_cases(pictures)[0]
    for kinds, expected in (
        (("point", "box", "mask", "text"), {"point", "box", "mask", "none"}),
        (("box",), {"box", "none"}),
    ):
        recipe = CcSamRecipe(with_prompts(loaded, kinds=kinds), None, Choices(cnn="random"))
        study = recipe.load(case)
        drawn = [recipe.sample(study, np.random.default_rng(seed)) for seed in range(16)]
        told = [each for sample in drawn for each in sample.told]
        assert {each.place for each in told} == expected
        for sample in drawn:
            assert sample.image.shape == (3, 256, 256)
            assert float(sample.image.min()) >= 0
            assert float(sample.image.max()) <= 1
        for each in told:
            rows, columns = each.mask.nonzero(as_tuple=True)
            if each.place == "point":
                x, y = (each.points[0] / 2).long().tolist()
                assert each.labels[0] == 1
                assert each.mask[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].any()
            if each.place in ("box", "mask"):
                middle = torch.stack([columns.float().mean(), rows.float().mean()]) * 2
                assert (each.box[:2] < middle).all()
                assert (middle < each.box[2:]).all()


def test_several_classes_are_told_apart_by_texts(pictures: Path, base: Path) -> None:
    """A prompt without a place names its class; without texts, every prompt has a place."""
    apart = with_prompts(preset.find(str(base)), whole_image=False, objects="apart")
    case = read_cases(pictures)[0]
    recipe = CcSamRecipe(apart, None, Choices(cnn="random", objects="apart"))
    study = recipe.load(case)
    unplaced = [
        told
        for seed in range(24)
        for told in recipe.sample(study, np.random.default_rng(seed)).told
        if told.place == "none"
    ]
    assert {told.text[0] for told in unplaced if told.text} == {1, 2}
    assert all(told.text for told in unplaced)
    mute = apart.model_copy(update={"model": TINY | {"text": False}})
    recipe = CcSamRecipe(mute, None, Choices(cnn="random", objects="apart"))
    told = [each for seed in range(12) for each in recipe.sample(study, np.random.default_rng(seed)).told]
    assert all(each.place != "none" and each.text is None for each in told)


def test_a_detectors_boxes_follow_the_view(pictures: Path, base: Path, tmp_path: Path) -> None:
    """The detector's box is the disc's own: wherever a view looks, the box that is shown lies round the disc."""
    case = read_cases(pictures)[0]
    labels = np.asarray(Image.open(pictures / "masks" / "e0.png"))
    rows, columns = np.nonzero(labels == 1)
    share = [columns.min() / 72, rows.min() / 48, (columns.max() + 1) / 72, (rows.max() + 1) / 48]
    found = {"box": [float(each) for each in share], "score": 0.9, "refused": None, "iou": 1.0}
    facts = {"version": 1, "detector": "drawn", "sha256": "0" * 64, "captions": {}, "rules": {}}
    (tmp_path / "boxes.json").write_text(json.dumps(facts | {"pictures": {case.image.name: {"disc": found}}}))
    apart = with_prompts(preset.find(str(base)), whole_image=False, objects="apart", kinds=("box", "text"))
    recipe = CcSamRecipe(apart, None, Choices(cnn="random", objects="apart", boxes=str(tmp_path / "boxes.json")))
    study = recipe.load(case)
    without = CcSamRecipe(apart, None, Choices(cnn="random", objects="apart"))
    changed = 0
    for seed in range(40):
        for told, plain in zip(
            *(each.sample(study, np.random.default_rng(seed)).told for each in (recipe, without)), strict=False
        ):
            if told.place != "box" or told.text is None or told.text[0] != 1:
                continue
            rows, columns = (index.numpy() * 2 for index in told.mask.nonzero(as_tuple=True))
            edges = np.array([columns.min(), rows.min(), columns.max() + 2, rows.max() + 2])
            assert np.abs(told.box.numpy() - edges).max() < 0.08 * 256
            changed += not torch.equal(told.box, plain.box)
    assert changed


@pytest.mark.parametrize("beta", [None, 0.0, 0.01])
def test_the_divergence_comes_in_as_the_training_goes_on(pictures: Path, base: Path, beta: float | None) -> None:
    chosen = preset.find(str(base))
    if beta is not None:
        chosen = chosen.model_copy(update={"options": {**chosen.options, "beta": beta}})
    recipe = CcSamRecipe(chosen, None, Choices(cnn="random"))
    network = recipe.model(0).eval()
    sample = recipe.sample(recipe.load(read_cases(pictures)[0]), np.random.default_rng(0))
    with torch.inference_mode():
        first, last = (float(recipe.paced_loss(network, [sample], done)) for done in (0.0, 1.0))
        divergence = float(network.image_encoder(sample.image[None]).divergence)
    assert divergence > 1
    weight = BETA if beta is None else beta
    assert last - first == pytest.approx(weight * divergence, rel=1e-3, abs=1e-6)


def test_a_training_goes_on_from_its_own_result(in_process: Run, pictures: Path, base: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    code, _, said = in_process("finetune", pictures, "-o", first, "--preset", base, "--cnn-weights", "random", *SHORT)
    assert code == 0, said
    code, _, said = in_process("finetune", pictures, "-o", second, "--preset", first, *SHORT)
    assert code == 0, said
    one, two = (load_file(run / "weights.safetensors") for run in (first, second))
    assert one.keys() == two.keys()
    assert any(not torch.equal(one[key], two[key]) for key in one)
    frozen = [key for key in one if ".cnn." in key or key.startswith("text_rows.")]
    assert frozen
    assert all(torch.equal(one[key], two[key]) for key in frozen)
