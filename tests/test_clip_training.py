"""Training of image-text networks: losses, retrieval, what the run leaves behind, and a run that is killed."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import medseg_env
from PIL import Image
from torch import Tensor

from medseg_cli import preset
from medseg_cli.datasets import read_dataset
from medseg_cli.datasets.captions import without_short
from medseg_cli.errors import InputError, UsageError
from medseg_cli.models.clip.losses import dhn_nce
from medseg_cli.models.clip.network import Clip
from medseg_cli.models.clip.words import learn_words
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.clip_plan import plan
from medseg_cli.pipelines.clip_recipe import ClipRecipe, retrieved
from medseg_cli.pipelines.text_words import words_beside
from medseg_cli.preset import Preset
from medseg_cli.writers.tensor_file import save_tensors

SAID = {"disc": ["a bright disc", "one round spot"], "bar": ["a long bar", "a line across"], "none": ["nothing here"]}
SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "width": 24,
    "depth": 3,
    "heads": 2,
    "context": 12,
    "positions": 16,
    "text_width": 24,
    "text_depth": 1,
    "text_heads": 2,
    "embed": 16,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
RUNS = ("straight", "broken")
SHORT = ("--batch-size", "6", "--device", "cpu", "--tracker", "none")


def write_pictures(folder: Path, count: int = 24) -> Path:
    """Pictures of 32 x 32 with a disc, a bar or nothing, and their captions."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, lines = np.random.default_rng(0), []
    y, x = np.mgrid[:32, :32]
    for number in range(count):
        kind = list(SAID)[number % 3]
        row, column = rng.integers(8, 24, size=2)
        inside = {"disc": (y - row) ** 2 + (x - column) ** 2 < 30, "bar": abs(y - row) < 3, "none": y < 0}[kind]
        picture = (rng.normal(60, 10, (32, 32)) + 120 * inside).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{kind}{number:02d}.png")
        lines.append(json.dumps({"image": f"{kind}{number:02d}.png", "captions": SAID[kind]}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder / "captions.jsonl"


def write_preset(folder: Path, **changes: Any) -> Path:
    """A very small network without words and weights; `changes` are keys of the preset."""
    values = {
        "name": "tiny-text",
        "title": "tiny",
        "pipeline": "medclip-sam",
        "modality": ["any"],
        "dims": 2,
        "model": SIZES,
        "weights": None,
        "preprocessing": {"intensity": {"method": "eight-bit"}},
        "prompts": {"kinds": ["text"]},
        "labels": [{"value": 1, "name": "object", "color": "#f4d03f"}],
        "options": {"saliency": {"layer": 1}},
        "licence": "none",
        "source": "test",
        **changes,
    }
    path = folder / "tiny-text.yaml"
    path.write_text(json.dumps(values))
    return path


def logged(run: str) -> list[dict[str, str]]:
    with Path(run, "log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("captions") / "shapes")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_preset(tmp_path)


def recipe(listing: Path, tiny: Path, **choices: Any) -> ClipRecipe:
    found = read_dataset(listing)
    planned: Preset = plan(preset.find(tiny), {}, found.cases)
    return ClipRecipe(planned, None, Choices(**choices))


def samples(of: ClipRecipe, listing: Path, count: int) -> list[Any]:
    rng = np.random.default_rng(0)
    return [of.sample(of.load(case), rng) for case in read_dataset(listing).cases[:count]]


def test_the_loss_is_the_papers_unless_the_released_one_is_asked_for(listing: Path, tiny: Path) -> None:
    paper, released = recipe(listing, tiny), recipe(listing, tiny, released_loss=True)
    network = paper.model(0).eval()
    batch = samples(paper, listing, 24)[::5]  # bar, disc, none: some share their phrasings, some do not
    images, texts = paper._features(network, batch)
    shared = torch.tensor([[bool(a.phrasings & b.phrasings) for b in batch] for a in batch])
    assert shared.any(dim=1).all()
    assert not shared.all()

    assert paper.loss(network, batch).item() == pytest.approx(dhn_nce(images, texts, same=shared).item(), abs=1e-6)
    expected = dhn_nce(images, texts, released_code=True).item()
    assert released.loss(network, batch).item() == pytest.approx(expected, abs=1e-6)
    assert expected != pytest.approx(dhn_nce(images, texts).item(), abs=1e-2)
    with pytest.raises(UsageError, match="compares the pairs of a batch"):
        paper.loss(network, batch[:1])


def test_retrieval_counts_the_nearest_and_the_two_nearest() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.1, 0.8, 0.35]])
    own = torch.eye(3, dtype=torch.bool)

    assert retrieved(scores, own) == ([1.0, 0.0, 0.0], [1.0, 1.0, 1.0])
    assert retrieved(scores.T, own) == ([1.0, 0.0, 1.0], [1.0, 1.0, 1.0])
    # The caption of the first is also one of the second picture's.
    own[1, 0] = True
    assert retrieved(scores, own) == ([1.0, 1.0, 0.0], [1.0, 1.0, 1.0])
    assert retrieved(torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool)) == ([1.0], [1.0])


def test_computing_again_changes_no_gradient(listing: Path, tiny: Path) -> None:
    def gradients(checkpointing: str) -> dict[str, Tensor]:
        of = recipe(listing, tiny, checkpointing=checkpointing)
        network = of.model(3).train()
        torch.manual_seed(0)
        of.loss(network, samples(of, listing, 6)).backward()
        return {name: value.grad for name, value in network.named_parameters() if value.grad is not None}

    plain, again = gradients("off"), gradients("on")
    assert plain.keys() == again.keys()
    assert len(plain) > 50
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, msg=name)
    network = recipe(listing, tiny, checkpointing="on").model(0)
    assert isinstance(network, Clip)
    assert network.visual.trunk.grad_checkpointing
    assert any(getattr(each, "gradient_checkpointing", False) for each in network.text.modules())
    # Of a network as small as this nothing is computed again unasked.
    assert not recipe(listing, tiny).model(0).visual.trunk.grad_checkpointing  # type: ignore[union-attr]


def test_short_captions_are_left_out_only_when_asked(listing: Path, in_process: Any, tiny: Path) -> None:
    found = read_dataset(listing)

    kept = without_short(found, 13)

    # "nothing here" has 12 characters; "a long bar" 10.
    assert {case.phrasings for case in kept.cases} == {("a bright disc", "one round spot"), ("a line across",)}
    assert len(kept.cases) == 16
    assert "16 phrasings shorter than 13 characters are left out, and 8 images with no other" in kept.notes[-1]
    with pytest.raises(InputError, match="no caption has 99 characters"):
        without_short(found, 99)
    options = ("-o", "run", "--preset", tiny, "--steps", "1", "--shortest-caption", "13", *SHORT)
    code, _, err = in_process("finetune", listing, *options)
    assert code == 0, err
    assert "16 phrasings shorter than 13 characters" in " ".join(err.split())
    assert json.loads(Path("run/run.json").read_text())["choices"]["shortest_caption"] == 13
    assert not any("none" in name for name in json.loads(Path("run/split.json").read_text())["train"])


def test_the_run_folder_of_captions(listing: Path, tiny: Path, in_process: Any) -> None:
    options = ("-o", "run", "--preset", tiny, "--steps", "4", "--validate-every", "2", "--released-code", "--amp")
    code, _, err = in_process("finetune", listing, *options, *SHORT)
    assert code == 0, err

    assert err.rstrip().endswith('done: medseg segment SCAN -o MASK.png --preset run --text "..."')
    rows = logged("run")
    names = ["retrieval_top-1", "retrieval_top-2", "text_retrieval_top-1", "text_retrieval_top-2"]
    assert [row["step"] for row in rows] == ["2", "4"]
    for row in rows:
        one, two, text_one, text_two = (float(row[name]) for name in names)
        assert 0 <= one <= two <= 1
        assert 0 <= text_one <= text_two <= 1
    card = " ".join(Path("run/card.md").read_text().split())
    for words in ('--preset RUN --text "..."', "published code's form of DHN-NCE", "text retrieval top-2", "bf16"):
        assert words in card
    assert "objects" not in card
    assert "medseg evaluate" not in card
    facts = json.loads(Path("run/run.json").read_text())
    assert (facts["choices"]["released_loss"], facts["plan"]["precision"]) == (True, "bf16")
    # Another loss is another run.
    code, _, err = in_process("finetune", listing, *(each for each in options if each != "--released-code"), *SHORT)
    assert (code, "another released_loss" in " ".join(err.split())) == (4, True), err


def test_weights_with_a_vocabulary_keep_it(listing: Path, tmp_path: Path, in_process: Any) -> None:
    """As BiomedCLIP's: the words stand in a file beside the weights, and the run folder alone must do."""
    words = learn_words([text for texts in SAID.values() for text in texts], 400)
    model = {**SIZES, "vocabulary": len(words)}
    home = tmp_path / "published"
    home.mkdir()
    (home / "vocab.txt").write_text("\n".join(words))
    begun = ClipRecipe(preset.find(write_preset(home, model=model)), None).model(5)
    save_tensors(begun.state_dict(), home / "weights.safetensors", {})
    named = write_preset(home, model=model, weights={"file": "weights.safetensors"})
    assert ClipRecipe(preset.find(named), home / "weights.safetensors").defaults.learning_rate == 1e-6

    code, _, err = in_process("finetune", listing, "-o", "run", "--preset", named, "--steps", "1", *SHORT)

    assert code == 0, err
    assert "random" not in err
    shutil.rmtree(home)
    moved = (tmp_path / "run").rename(tmp_path / "elsewhere")
    base = preset.find(moved)
    assert base.weights_file is not None
    tokens, _ = words_beside(base, base.weights_file)(["a bright disc"])
    assert tokens.tolist() == [[words.index(word) for word in ("[CLS]", "a", "bright", "disc", "[SEP]")]]
    # One step at 1e-6 leaves the weights nearly where they were.
    trained = ClipRecipe(base, base.weights_file).model(0).state_dict()
    for name, value in begun.state_dict().items():
        torch.testing.assert_close(trained[name], value, atol=1e-5, rtol=0, msg=name)


def test_what_captions_cannot_be_trained_with(listing: Path, tiny: Path, in_process: Any) -> None:
    new = ("finetune", listing, "-o", "run", "--preset", tiny, "--steps", "1", *SHORT)
    for arguments, code, words in (
        ((*new, "--objects", "apart"), 2, "--objects apart: preset"),
        ((*new, "--peft", "lora"), 2, "--peft lora is not of image-text networks"),
        ((*new, "--feature-cache", "on"), 2, "both towers of an image-text network learn"),
        ((*new, "--batch-size", "1"), 2, "compares the pairs of a batch"),
        ((*new, "--preset", "hippocampus-mr", "--released-code"), 2, "nothing of preset hippocampus-mr's training"),
        ((*new, "--preset", "hippocampus-mr", "--gradient-checkpointing", "on"), 2, "is for image-text networks"),
    ):
        found, _, err = in_process(*arguments)
        assert (found, words in " ".join(err.split())) == (code, True), err


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(listing: Path, tiny: Path, in_process: Any, medseg_home: Path) -> None:
    options = ("--preset", tiny, "--steps", "24", "--validate-every", "3", "--seed", "4", *SHORT)
    code, _, err = in_process("finetune", listing, "-o", "straight", *options)
    assert code == 0, err
    command = [sys.executable, "-m", "medseg_cli", "finetune", listing, "-o", "broken", *options]
    process = subprocess.Popen(list(map(str, command)), env=medseg_env(medseg_home, {}), stderr=subprocess.PIPE)
    limit = time.monotonic() + 300
    while not Path("broken/log.csv").is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not Path("broken/weights.safetensors").exists()

    code, _, err = in_process("finetune", "--resume", "broken")

    assert code == 0, err
    assert "resumed after step" in err
    hashes = {hashlib.sha256(Path(run, "weights.safetensors").read_bytes()).hexdigest() for run in RUNS}
    assert len(hashes) == 1
    one, two = ([{**row, "seconds": ""} for row in logged(run)] for run in RUNS)
    assert one == two
