"""SAMUS trained through the command line on small drawn pictures: what learns, what comes back, how it is scored."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import drawn_ellipses
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_samus import SMALL

import medseg_cli
from medseg_cli import preset
from medseg_cli.datasets import read_cases
from medseg_cli.errors import UsageError
from medseg_cli.models.samus.checkpoint import random_network
from medseg_cli.models.samus.config import config_of
from medseg_cli.models.samus.network import TRAINED
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.samus_recipe import SamusRecipe, middle_pixel
from medseg_cli.weights.store import sha256_of

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures 72x48 of a bright ellipse on dark noise."""
    return drawn_ellipses.save(tmp_path_factory.mktemp("Ellipses"), 5)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The shipped preset with a tiny network."""
    save_file(random_network(config_of(SMALL), 3).state_dict(), tmp_path / "base.safetensors")
    weights = {"file": "base.safetensors", "sha256": sha256_of(tmp_path / "base.safetensors")}
    facts = preset.find("samus").model_dump(mode="json") | {"name": "tiny", "model": {}, "weights": weights}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(facts))
    return tmp_path / "tiny.yaml"


@pytest.mark.parametrize("kind", ["adapter", pytest.param("lora", marks=pytest.mark.slow), "decoder"])
def test_a_run_holds_what_it_changed_and_segments(
    kind: str, in_process: Run, pictures: Path, base: Path, tmp_path: Path
) -> None:
    short = ["--steps", 1, "--batch-size", 1, "--workers", 0, "--device", "cpu", "--learning-rate", 0.01]
    code, _, said = in_process("finetune", pictures, "-o", tmp_path / "run", "--preset", base, "--peft", kind, *short)
    assert code == 0, said
    with safe_open(next((tmp_path / "run").glob("*.safetensors")), "pt") as file:
        names = set(file.keys())
    marks = {
        "adapter": ("cnn_embed", "post_pos_embed", "Adapter", "blocks.1.attn.rel_pos"),
        "lora": ("lora", "mask_decoder"),
        "decoder": ("mask_decoder",),
    }
    assert names
    assert all(any(mark in name for mark in marks[kind]) for name in names), names
    image = pictures / "images" / "e0.png"
    code, _, said = in_process(
        "segment", image, "-o", tmp_path / "m.png", "--preset", tmp_path / "run", "--point", "36,24", "--device", "cpu"
    )
    assert code == 0, said
    assert Image.open(tmp_path / "m.png").size == (72, 48)


@pytest.mark.slow
def test_it_learns(in_process: Run, pictures: Path, base: Path, tmp_path: Path) -> None:
    """From random weights: the loss goes down. The CNN branch has its published width, which takes its time."""
    base.write_text(yaml.safe_dump(yaml.safe_load(base.read_text()) | {"model": SMALL}))
    code, _, said = in_process(
        "finetune", pictures, "-o", tmp_path / "run", "--preset", base, "--start", "scratch", "--steps", 30,
        "--batch-size", 2, "--validate-every", 15, "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    assert code == 0, said
    lines = (tmp_path / "run" / "log.csv").read_text().splitlines()
    column = lines[0].split(",").index("loss")
    losses = [float(line.split(",")[column]) for line in lines[1:]]
    assert losses[-1] < losses[0]
    weights = load_file(next((tmp_path / "run").glob("*.safetensors")))
    assert sum(value.numel() for value in weights.values()) == sum(
        value.numel() for value in medseg_cli.load_model("samus", **SMALL).state_dict().values()
    )


def test_boxes_are_shown_only_where_the_preset_takes_them(pictures: Path) -> None:
    shipped = preset.find("samus")
    clicks = shipped.model_copy(update={"prompts": shipped.prompts.model_copy(update={"kinds": ("point",)})})
    case = read_cases(pictures)[0]
    for chosen, expected in ((shipped, {True, False}), (clicks, {False})):
        recipe = SamusRecipe(chosen, None)
        study = recipe.load(case)
        drawn = [recipe.sample(study, np.random.default_rng(seed)) for seed in range(24)]
        assert {bool(each) for sample in drawn for each in sample.boxed} == expected


def test_a_decoder_that_begins_with_sam_has_an_encoder_to_train(pictures: Path, tmp_path: Path) -> None:
    """What SAM lacks is trained besides, so that no features can be kept."""
    state = random_network(config_of(SMALL), 3).state_dict()
    sam = {name: value for name, value in state.items() if not any(part in name for part in TRAINED)}
    for axis in "hw":  # the tables of SAM's 64 x 64 tokens
        sam[f"image_encoder.blocks.1.attn.rel_pos_{axis}"] = torch.randn(127, 16)
    save_file(sam, tmp_path / "sam.safetensors")
    base = preset.find("samus").model_copy(update={"model": SMALL})
    recipe = SamusRecipe(base, tmp_path / "sam.safetensors", Choices(peft="decoder"))
    network = recipe.model(0)
    learning = [name for name, value in network.named_parameters() if value.requires_grad]
    assert any("cnn_embed" in name for name in learning)
    assert any("mask_decoder" in name for name in learning)
    assert not any(name.endswith("qkv.weight") for name in learning)
    study = recipe.load(read_cases(pictures)[0])
    assert torch.isfinite(recipe.loss(network, [recipe.sample(study, np.random.default_rng(0))]))
    with pytest.raises(UsageError, match="its weights lack parts of the encoder"):
        SamusRecipe(base, recipe.start, Choices(peft="decoder", feature_cache="on")).load(read_cases(pictures)[0])


def test_the_middle_pixel_is_the_middle_row_by_row() -> None:
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 1:4] = mask[3, 0] = mask[2, 4] = True
    assert middle_pixel(mask).tolist() == [3, 1]


@pytest.mark.parametrize("name", ["samus-vit-b", "sam-unet-vit-b"])
def test_presets_that_only_begin_a_training_say_so(name: str, in_process: Run, pictures: Path, tmp_path: Path) -> None:
    image = pictures / "images" / "e0.png"
    code, _, said = in_process("segment", image, "-o", tmp_path / "m.png", "--preset", name, "--box", "9,9,40,40")
    assert code == 4
    assert "segments nothing yet" in said
    assert f"medseg finetune DATASET -o RUN --preset {name}" in said
    code, _, said = in_process("finetune", pictures, "-o", tmp_path / "run", "--preset", name, "--device", "cpu")
    assert code == 4
    assert "medseg weights pull sam-vit-b" in said


def test_a_recipe_travels_without_what_it_keeps() -> None:
    """To the processes that draw samples: views that were kept would cost each of them their memory."""
    recipe = SamusRecipe(preset.find("samus"), None)
    assert recipe._samples is recipe._samples
    assert "_samples" not in pickle.loads(pickle.dumps(recipe)).__dict__
