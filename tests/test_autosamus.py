"""AutoSAMUS through the command line: begun with a SAMUS, trained in its own parts alone, and run without a prompt."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import drawn_ellipses
import nibabel
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_samus import SMALL

import medseg_cli
from medseg_cli import app, preset
from medseg_cli.datasets import read_cases
from medseg_cli.errors import ModelError, UsageError
from medseg_cli.frame import Frame
from medseg_cli.models.samus.auto import TRAINED, AutoSamus
from medseg_cli.models.samus.auto_start import begin
from medseg_cli.models.samus.checkpoint import random_network
from medseg_cli.models.samus.config import config_of
from medseg_cli.pipelines.autosamus_recipe import AutosamusRecipe
from medseg_cli.pipelines.choices import Choices

Run = Callable[..., tuple[int, str, str]]
SHORT = ["--steps", 2, "--batch-size", 2, "--workers", 0, "--device", "cpu", "--learning-rate", 0.01]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures 72x48 of a bright ellipse on dark noise."""
    return drawn_ellipses.save(tmp_path_factory.mktemp("Ellipses"), 5)


@pytest.fixture(scope="module")
def samus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SAMUS, as the official code saves one."""
    path = tmp_path_factory.mktemp("weights") / "samus.pth"
    torch.save(random_network(config_of(SMALL), 3).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def trained(pictures: Path, samus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps."""
    run = tmp_path_factory.mktemp("runs") / "auto"
    words = ["finetune", pictures, "-o", run, "--preset", "autosamus", "--weights", samus, *SHORT]
    assert app.main([str(word) for word in words]) == 0
    return run


def test_only_the_generator_and_the_feature_adapter_learn(trained: Path, samus: Path) -> None:
    with safe_open(trained / "weights.safetensors", "pt") as file:
        stored = set(file.keys())
    assert stored
    assert all(name.startswith(TRAINED) for name in stored), stored
    made = medseg_cli.load_model("autosamus", checkpoint=trained / "weights.safetensors")
    before = torch.load(samus, weights_only=True)
    state = made.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items())
    fresh, _ = begin({}, 0, [samus])
    moved = [name for name, value in fresh.state_dict().items() if not torch.equal(value, state[name])]
    assert "prompt_generator.object_token" in moved
    assert "feature_adapter.0.weight" in moved
    assert all(name.startswith(TRAINED) for name in moved)


def test_a_picture_needs_no_prompt(in_process: Run, trained: Path, pictures: Path, tmp_path: Path) -> None:
    """The mask is what the network says of the squashed picture, put back onto the picture's own pixels."""
    image = pictures / "images" / "e0.png"
    code, _, said = in_process("segment", image, "-o", tmp_path / "m.png", "--preset", trained, "--device", "cpu")
    assert code == 0, said
    network = medseg_cli.load_model("autosamus", checkpoint=trained / "weights.safetensors")
    frame = Frame(48, 72, 256, fit="stretch", scale="byte")
    pixels = np.repeat(np.asarray(Image.open(image))[..., None], 3, 2)
    with torch.inference_mode():
        expected = frame.restore(network(frame.image(pixels)[None])["low_res_logits"][0])[0] > 0
    mask = np.asarray(Image.open(tmp_path / "m.png")) > 0
    assert mask.shape == (48, 72)
    assert np.mean(mask == expected.numpy()) > 0.999
    report = json.loads((tmp_path / "m.json").read_text())
    assert report["prompts"][0]["whole_image"] is True


def test_every_slice_of_a_volume(in_process: Run, trained: Path, pictures: Path, tmp_path: Path) -> None:
    """Each slice has the mask that it has as a picture."""
    slices = [np.asarray(Image.open(pictures / "images" / f"e{number}.png")) for number in range(3)]
    stack = np.stack([each.T for each in slices], axis=2)
    nibabel.save(nibabel.Nifti1Image(stack, np.diag([-1, -1, 4, 1])), tmp_path / "v.nii.gz")
    code, _, said = in_process(
        "segment", tmp_path / "v.nii.gz", "-o", tmp_path / "m.nii.gz", "--preset", trained,
        "--slices", "axial", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, said
    mask = np.asarray(nibabel.load(tmp_path / "m.nii.gz").dataobj) > 0
    network = medseg_cli.load_model("autosamus", checkpoint=trained / "weights.safetensors")
    frame = Frame(48, 72, 256, fit="stretch", scale="byte")
    for number, each in enumerate(slices):
        with torch.inference_mode():
            found = network(frame.image(np.repeat(each[..., None], 3, 2))[None])["low_res_logits"][0]
        expected = (frame.restore(found)[0] > 0).numpy()
        assert np.mean(expected == mask[:, :, number].T) > 0.999


@pytest.mark.parametrize(("extra", "why"), [
    (("--point", "30,20"), "takes no prompt: it segments by itself"),
    (("--box", "5,5,50,30"), "takes no prompt: it segments by itself"),
])  # fmt: skip
def test_prompts_are_refused(
    extra: tuple[str, str], why: str, in_process: Run, trained: Path, pictures: Path, tmp_path: Path
) -> None:
    image = pictures / "images" / "e0.png"
    code, _, said = in_process("segment", image, "-o", tmp_path / "m.png", "--preset", trained, *extra)
    assert code == 2
    assert why in said
    assert not (tmp_path / "m.png").exists()


def test_evaluate_asks_nothing(in_process: Run, trained: Path, pictures: Path, tmp_path: Path) -> None:
    code, _, said = in_process("evaluate", pictures, "--preset", trained, "-o", tmp_path / "e", "--device", "cpu")
    assert code == 0, said
    rows = list(csv.DictReader((tmp_path / "e" / "cases.csv").open()))
    assert len(rows) == 1  # the one that training held back
    assert rows[0]["status"] == "scored"
    code, _, said = in_process("evaluate", pictures, "--preset", trained, "-o", tmp_path / "f", "--prompt", "click")
    assert code == 2
    assert "it takes --prompt none" in said


def test_it_begins_with_a_run_of_samus(in_process: Run, pictures: Path, samus: Path, tmp_path: Path) -> None:
    """Whose file holds only what SAMUS's training changed; the result belongs to the same base."""
    facts = preset.find("samus").model_dump(mode="json") | {"name": "small", "model": {}}
    save_file(torch.load(samus, weights_only=True), tmp_path / "base.safetensors")
    facts["weights"] = {"file": "base.safetensors"}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(facts))
    code, _, said = in_process(
        "finetune",
        pictures,
        "-o",
        tmp_path / "clicked",
        "--preset",
        tmp_path / "small.yaml",
        "--peft",
        "adapter",
        *SHORT,
    )
    assert code == 0, said
    code, _, said = in_process(
        "finetune",
        pictures,
        "-o",
        tmp_path / "auto",
        "--preset",
        "autosamus",
        "--weights",
        tmp_path / "clicked",
        *SHORT,
    )
    assert code == 0, said
    clicked = medseg_cli.load_model("samus", checkpoint=tmp_path / "clicked" / "weights.safetensors").state_dict()
    made = medseg_cli.load_model("autosamus", checkpoint=tmp_path / "auto" / "weights.safetensors").state_dict()
    assert all(torch.equal(made[name], value) for name, value in clicked.items())
    assert json.loads((tmp_path / "auto" / "run.json").read_text())["weights"] == str(tmp_path / "clicked")
    code, _, said = in_process("finetune", "--resume", tmp_path / "auto", "--device", "cpu")
    assert code == 0, said


def test_a_sam_leaves_the_rest_of_samus_to_be_trained(tmp_path: Path) -> None:
    """From SAM, frozen SAMUS parts would be random: they learn too."""
    from medseg_cli.models.samus.network import TRAINED as OF_SAMUS

    state = random_network(config_of(SMALL), 3).state_dict()
    sam = {name: value for name, value in state.items() if not any(part in name for part in OF_SAMUS)}
    for axis in "hw":  # the tables of SAM's 64 x 64 tokens
        sam[f"image_encoder.blocks.1.attn.rel_pos_{axis}"] = torch.randn(127, 16)
    save_file(sam, tmp_path / "sam.safetensors")
    base = preset.find("autosamus").model_copy(update={"model": SMALL})
    network = AutosamusRecipe(base, tmp_path / "sam.safetensors").model(0)
    learning = {name for name, value in network.named_parameters() if value.requires_grad}
    assert any("cnn_embed" in name for name in learning)
    assert any(name.startswith("prompt_generator") for name in learning)
    assert not any(name.endswith("qkv.weight") for name in learning)


def test_kept_features_give_the_same_loss(pictures: Path, samus: Path) -> None:
    """The encoder rests, so that what it makes of a picture is kept; nothing else changes by it."""
    base = preset.find("autosamus")
    kept, anew = (AutosamusRecipe(base, samus, Choices(feature_cache=how)) for how in ("on", "off"))
    study = kept.load(read_cases(pictures)[0])
    samples = [kept.sample(study, np.random.default_rng(seed)) for seed in range(2)]
    network = kept.model(0)
    losses = [each.loss(network, samples) for each in (kept, kept, anew)]
    assert kept._features.computed <= 2
    assert losses[0].item() == losses[1].item() == pytest.approx(losses[2].item(), abs=1e-6)
    losses[0].backward()
    silent = {name for name, value in network.named_parameters() if value.requires_grad and value.grad is None}
    # What the official code computes and drops: the second half of the first transformer's last layer.
    last = "prompt_generator.cross_token_token.layers.1."
    assert {name[: len(last) + 1] for name in silent} == {f"{last}1", f"{last}3"}


def test_objects_cannot_be_told_apart(in_process: Run, pictures: Path, samus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--objects apart"):
        AutosamusRecipe(preset.find("autosamus"), samus, Choices(objects="apart"))
    code, _, said = in_process(
        "finetune", pictures, "-o", tmp_path / "r", "--preset", "autosamus", "--weights", samus, "--objects", "apart"
    )
    assert code == 2, said


def test_the_preset_by_itself_segments_nothing(in_process: Run, pictures: Path, tmp_path: Path) -> None:
    image = pictures / "images" / "e0.png"
    code, _, said = in_process("segment", image, "-o", tmp_path / "m.png", "--preset", "autosamus")
    assert code == 4
    assert "medseg finetune DATASET -o RUN --preset autosamus" in said
    (tmp_path / "small.yaml").write_text(
        yaml.safe_dump(preset.find("autosamus").model_dump(mode="json") | {"model": SMALL})
    )
    code, _, said = in_process(
        "segment", image, "-o", tmp_path / "m.png", "--preset", tmp_path / "small.yaml", "--random-weights",
        "--device", "cpu",
    )  # fmt: skip
    assert code == 0, said
    assert "RANDOM WEIGHTS" in said


def test_an_official_checkpoint_is_imported_and_runs(
    in_process: Run, pictures: Path, samus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSEG_HOME", str(tmp_path / "home"))
    network, _ = begin({}, 5, [samus])
    torch.save({f"module.{name}": value for name, value in network.state_dict().items()}, tmp_path / "auto.pth")
    code, _, said = in_process("weights", "import", tmp_path / "auto.pth", "--name", "my-auto")
    assert code == 0, said
    image = pictures / "images" / "e0.png"
    code, _, said = in_process(
        "segment", image, "-o", tmp_path / "m.png", "--preset", "autosamus", "--weights", "my-auto", "--device", "cpu"
    )
    assert code == 0, said
    del (state := dict(network.state_dict()))["prompt_generator.token_proj.bias"]
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(ModelError, match="token_proj"):
        medseg_cli.load_model("autosamus", checkpoint=tmp_path / "less.pth")


def test_a_prompt_is_no_argument_of_the_network(samus: Path) -> None:
    network, _ = begin({}, 0, [samus])
    assert isinstance(network, AutoSamus)
    embedding = {"image": torch.zeros(1, 32, 32, 32)}
    with pytest.raises(ModelError, match="takes no points"):
        network.decode(embedding, points=torch.zeros(1, 1, 2), labels=None)


@pytest.mark.parametrize("name", ["autosamus", "samus", "sam-vit-b"])
def test_presets_are_checked_with_their_options(name: str, in_process: Run) -> None:
    code, _, said = in_process("presets", "check", preset.find(name).path)
    assert code in (0, 4), said  # 4: no weights here
    assert "unexpected" not in said


def test_it_learns(pictures: Path, samus: Path) -> None:
    """The same two pictures again and again; beside a frozen decoder of random weights there is not much to learn."""
    recipe = AutosamusRecipe(preset.find("autosamus"), samus)
    network, rng = recipe.model(0).train(), np.random.default_rng(0)
    batch = [recipe.sample(recipe.load(case), rng) for case in read_cases(pictures)[:2]]
    optimizer = torch.optim.Adam([each for each in network.parameters() if each.requires_grad], lr=3e-3)
    losses = []
    for _ in range(12):
        loss = recipe.loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.01
