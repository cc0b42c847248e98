"""Grounding DINO from a local folder: its boxes beside words, in files for training, and what becomes of bad ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_cc_sam
import tiny_dino
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from medseg_cli.datasets.boxes import cached_boxes, classes_of
from medseg_cli.errors import InputError, ModelError, UsageError
from medseg_cli.frame import Frame
from medseg_cli.models import grounding
from medseg_cli.models.cc_sam.bank import read_bank
from medseg_cli.models.cc_sam.checkpoint import random_network
from medseg_cli.models.cc_sam.config import config_of
from medseg_cli.models.grounding import Detection, caption, load_detector

Run = Callable[..., tuple[int, str, str]]
BANK = {
    "fetal_head": {"phrase": "fetal head", "descriptions": ["The head."]},
    "breast_lesion": {"phrase": "breast lesion", "descriptions": ["A lesion."]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_dino.save(tmp_path_factory.mktemp("detectors") / "tiny-dino")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    grey = np.random.default_rng(5).integers(0, 256, (90, 120), np.uint8)
    Image.fromarray(grey).save(tmp_path / "us.png")
    return tmp_path / "us.png"


def expected(folder: Path, picture: Path, words: str) -> tuple[np.ndarray, float]:
    """Edges x0 y0 x1 y1 in pixels and score of the best box, as transformers' own code has them."""
    from transformers import AutoProcessor, GroundingDinoForObjectDetection

    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model = GroundingDinoForObjectDetection.from_pretrained(folder, local_files_only=True).eval()
    image = Image.open(picture).convert("RGB")
    inputs = processor(images=image, text=words, return_tensors="pt")
    with torch.inference_mode():
        found = model(**inputs)
    (best,) = processor.post_process_grounded_object_detection(
        found, threshold=0.0, target_sizes=[(image.height, image.width)]
    )
    order = best["scores"].argmax()
    return best["boxes"][order].numpy(), float(best["scores"][order])


def test_the_box_is_the_one_that_transformers_scores_highest(folder: Path, picture: Path) -> None:
    """Not square, so that a width taken for a height would show."""
    detector = load_detector(folder)
    found = detector.find(np.asarray(Image.open(picture).convert("RGB")), " Fetal  HEAD ")
    box, score = expected(folder, picture, "fetal head.")
    assert found.score == pytest.approx(score, abs=1e-5)
    inside = np.clip(box, 0, [120, 90, 120, 90])
    assert np.array(found.box) * [120, 90, 120, 90] == pytest.approx(inside, abs=1e-3)
    assert found.pixels(120, 90) == pytest.approx(inside - [0, 0, 1, 1], abs=1e-3)


@pytest.mark.parametrize(
    ("words", "asked"),
    [("Fetal Head", "fetal head."), ("fetal head .", "fetal head."), ("a\n cyst...", "a cyst.")],
)
def test_captions(words: str, asked: str) -> None:
    assert caption(words) == asked


def test_empty_and_endless_phrases_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="names nothing"):
        caption(" . ")
    with pytest.raises(UsageError, match="the detector takes 32"):
        load_detector(folder).find(np.zeros((64, 64, 3), np.uint8), "the head " * 40)


@pytest.mark.parametrize(
    ("box", "score", "why"),
    [
        ((0.2, 0.2, 0.6, 0.6), 0.15, None),
        ((0.2, 0.2, 0.6, 0.6), 0.149, "score 0.15 is below"),
        ((0.2, 0.2, 0.6, 0.6), float("nan"), "score nan"),
        ((0.0, 0.0, 0.95, 0.95), 0.9, "covers 90.2%"),
        ((0.0, 0.0, 0.9, 1.0), 0.9, None),
        ((0.5, 0.5, 0.54, 0.54), 0.9, "covers 0.2%"),
        ((0.5, 0.5, 0.55, 0.54), 0.9, None),
        ((0.5, 0.5, 0.5, 0.9), 0.9, "covers 0.0%"),
    ],
)
def test_which_boxes_are_prompts(box: tuple[float, float, float, float], score: float, why: str | None) -> None:
    """Section 8.4 of the specification: score below 0.15, area above 90 % or below 0.2 %."""
    refused = Detection(box, score).refused
    assert refused is None if why is None else why in str(refused)


def test_broken_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no detector"):
        load_detector(tmp_path)
    other = Path(shutil.copytree(folder, tmp_path / "bert"))
    (other / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelError, match="of the kind bert"):
        load_detector(other)
    less = Path(shutil.copytree(folder, tmp_path / "less"))
    state = load_file(less / "model.safetensors")
    state.pop("model.query_position_embeddings.weight")
    save_file(state, less / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="query_position_embeddings"):
        load_detector(less)
    (less / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="safetensors is neither a torch nor a safetensors file"):
        load_detector(less)


def answer(picture: Path, **prompts: Any) -> np.ndarray:
    """(90, 120) bool: what a CC-SAM of random weights says to a text, with a box (4,) in picture pixels or without."""
    network = random_network(config_of(tiny_cc_sam.SIZES), 0).eval()
    frame = Frame(90, 120, 256, fit="stretch", scale="byte")
    image = frame.image(np.asarray(Image.open(picture).convert("RGB")))[None]
    boxes = {} if "box" not in prompts else {"boxes": frame.boxes(prompts["box"][None])}
    with torch.inference_mode():
        logits, _ = network.decode(network.encode(image), text=tiny_cc_sam.vectors()["head"][:1], **boxes)
    return (frame.restore(logits)[0] > 0).numpy()


def test_segment_gives_the_box_beside_the_words(in_process: Run, folder: Path, picture: Path, tmp_path: Path) -> None:
    wanted = tiny_cc_sam.preset(tmp_path / "p")
    how = [
        "segment",
        picture,
        "--preset",
        wanted,
        "--random-weights",
        "--device",
        "cpu",
        "--text",
        "skull of the fetus",
    ]
    code, _, said = in_process(*how, "-o", tmp_path / "box.png", "--detector", folder)
    assert code == 0, said
    box, score = expected(folder, picture, "fetal head.")
    found = np.asarray(Image.open(tmp_path / "box.png")) > 0
    boxed = answer(picture, box=np.clip(box, 0, [120, 90, 120, 90]) - [0, 0, 1, 1])
    assert np.mean(found == boxed) > 0.999
    assert np.mean(found != answer(picture)) > 0.01, "the box changes something"
    (told,) = json.loads((tmp_path / "box.json").read_text())["pipeline"]["objects"]
    assert told["detected"]["phrase"] == "fetal head"
    assert told["detected"]["slices"][0]["score"] == pytest.approx(score, abs=1e-4)


def test_a_bad_box_leaves_the_words(
    in_process: Run, folder: Path, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grounding, "LEAST_SCORE", 1.1)
    wanted = tiny_cc_sam.preset(tmp_path / "p")
    how = ["segment", picture, "--preset", wanted, "--random-weights", "--device", "cpu"]
    code, _, said = in_process(*how, "-o", tmp_path / "m.png", "--text", "fetal head", "--detector", folder)
    assert code == 0, said
    assert "the detector's box for 'fetal head' was no prompt: score" in said
    assert np.mean((np.asarray(Image.open(tmp_path / "m.png")) > 0) == answer(picture)) > 0.999
    code, _, said = in_process(*how, "-o", tmp_path / "c.png", "--point", "40,40", "--detector", folder)
    assert code == 0, said
    assert "the detector was not asked about object '1': nothing was said about it" in said
    code, _, said = in_process(*how, "-o", tmp_path / "n.png", "--detector", folder)
    assert code == 0, said
    assert "the detector was not asked: nothing was said" in said


def test_presets_without_words_and_boxes_refuse_a_detector(in_process: Run, folder: Path, picture: Path) -> None:
    how = ["segment", picture, "-o", "m.png", "--detector", folder, "--preset"]
    for name, prompt in (("samus", ("--point", "9,9")), ("text-demo", ("--text", "x"))):
        code, _, said = in_process(*how, name, *prompt)
        assert code == 2
        assert "leave --detector out" in said


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three pictures of noise: of the first the mask is where the detector looks, of the second elsewhere, of the third
    empty."""
    rng = np.random.default_rng(1)
    for kind in ("images", "masks"):
        (tmp_path / "us" / kind).mkdir(parents=True)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 256, (90, 120), np.uint8)).save(tmp_path / "us" / "images" / f"{name}.png")
        Image.fromarray(np.zeros((90, 120), np.uint8)).save(tmp_path / "us" / "masks" / f"{name}.png")
    return tmp_path / "us"


def test_boxes_of_a_dataset(in_process: Run, folder: Path, dataset: Path, tmp_path: Path) -> None:
    places = {name: expected(folder, dataset / "images" / f"{name}.png", "fetal head.")[0] for name in "abc"}
    for name, moved in (("a", 0), ("b", 40)):
        mask = np.zeros((90, 120), np.uint8)
        x0, y0, x1, y1 = np.rint(places[name]).astype(int)
        mask[max(y0, 0) : y1, max((x0 + moved) % 110, 0) : (x0 + moved) % 110 + x1 - x0] = 255
        Image.fromarray(mask).save(dataset / "masks" / f"{name}.png")
    (tmp_path / "bank.json").write_text(json.dumps(BANK))
    how = ["dataset", "boxes", dataset, "--detector", folder, "--bank", tmp_path / "bank.json", "--device", "cpu"]
    code, _, said = in_process(*how, "-o", tmp_path / "boxes.json", "--class", "fetal_head")
    assert code == 0, said
    assert (
        "fetal_head: in 2 pictures, 2 boxes, 1 right (50.0%), that is with IoU > 0.5; 1 boxes where it is not" in said
    )
    made = cached_boxes(tmp_path / "boxes.json")
    assert set(made) == {(f"{name}.png", "fetal_head") for name in "abc"}
    for name, box in places.items():
        found = made[f"{name}.png", "fetal_head"]
        assert found is not None
        assert np.array(found) * [120, 90, 120, 90] == pytest.approx(np.clip(box, 0, [120, 90, 120, 90]), abs=1e-3)
    code, _, said = in_process(*how, "-o", tmp_path / "boxes.json", "--class", "fetal_head")
    assert code == 3
    code, _, said = in_process(*how, "-o", tmp_path / "other.json")
    assert code == 2
    assert "--class fetal_head or breast_lesion" in said
    assert not (tmp_path / "other.json").exists()


def test_a_file_of_boxes_is_read_with_care(tmp_path: Path) -> None:
    one = {"box": [0.1, 0.2, 0.3, 0.4], "score": 0.1, "refused": "score 0.10 is below 0.15", "iou": None}
    made = {
        "version": 1, "detector": "d", "sha256": "0" * 64, "captions": {"head": "head."}, "rules": {},
        "pictures": {"a.png": {"head": one, "lesion": one | {"refused": None}}},
    }  # fmt: skip
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(made))
    assert cached_boxes(path) == {("a.png", "head"): None, ("a.png", "lesion"): (0.1, 0.2, 0.3, 0.4)}
    for broken in ({**made, "version": 2}, {**made, "pictures": {"a.png": {"head": {"box": [1]}}}}, []):
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"boxes\.json is"):
            cached_boxes(path)
    with pytest.raises(InputError, match="cannot read"):
        cached_boxes(tmp_path / "none.json")
    path.write_text(json.dumps(made).replace('"lesion"', '"head"'))
    with pytest.raises(InputError, match="'head' is there twice"):
        cached_boxes(path)


@pytest.mark.parametrize(
    "box",
    [(10, 20, 200, 300), (-0.1, 0, 0.5, 0.5), (0.5, 0.1, 0.2, 0.4), (0.1, 0.1, 0.1, 0.4), (float("nan"), 0, 1, 1)],
)
def test_a_prompt_that_is_no_place_in_its_picture_is_refused(tmp_path: Path, box: tuple[float, ...]) -> None:
    """Pixels for shares, beyond the edge, corners swapped, a line, no number; a refused one may be any of them."""
    one = {"box": box, "score": 0.5, "refused": None, "iou": None}
    made = {"version": 1, "detector": "d", "sha256": "0", "captions": {}, "rules": {}, "pictures": {"a": {"head": one}}}
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(made))
    with pytest.raises(InputError, match=r"pictures\.a\.head: .* is no box in a picture"):
        cached_boxes(path)
    one["refused"] = "score nan is below 0.15"
    path.write_text(json.dumps(made))
    assert cached_boxes(path) == {("a", "head"): None}


def test_which_classes_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "bank.json").write_text(json.dumps(BANK))
    bank = read_bank(str(tmp_path / "bank.json"))
    assert classes_of(bank, {1: "Breast lesion", 2: "rib"}, ()) == {"breast_lesion": 1}
    assert classes_of(bank, {}, ["fetal_head"]) == {"fetal_head": None}
    assert classes_of(bank, {1: "fetal_head", 3: "breast lesion"}, ["breast_lesion"]) == {"breast_lesion": 3}
    for labels, chosen, why in (
        ({}, [], "names no class of the bank"),
        ({}, ["liver"], "no class 'liver'"),
        ({1: "fetal head"}, ["fetal_head", "breast_lesion"], "no label that means 'breast_lesion'"),
    ):
        with pytest.raises(UsageError, match=why):
            classes_of(bank, labels, chosen)


def test_evaluate_asks_with_words_and_a_detector(in_process: Run, folder: Path, dataset: Path, tmp_path: Path) -> None:
    """The masks that are measured are those of the text with the box."""
    picture = dataset / "images" / "a.png"
    box, _ = expected(folder, picture, "fetal head.")
    mask = answer(picture, box=np.clip(box, 0, [120, 90, 120, 90]) - [0, 0, 1, 1])
    Image.fromarray((mask * 255).astype(np.uint8)).save(dataset / "masks" / "a.png")
    for name in "bc":
        (dataset / "images" / f"{name}.png").unlink()
        (dataset / "masks" / f"{name}.png").unlink()
    save_file(random_network(config_of(tiny_cc_sam.SIZES), 0).state_dict(), tmp_path / "w.safetensors")
    wanted = tiny_cc_sam.preset(tmp_path / "p", weights={"file": str(tmp_path / "w.safetensors")})
    how = ["evaluate", dataset, "--preset", wanted, "--cases", "all", "--device", "cpu", "--text", "fetal head"]
    code, _, said = in_process(*how, "--prompt", "text", "--detector", folder, "-o", tmp_path / "e")
    assert code == 0, said
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert summary["detector"] == "tiny-dino"
    assert "a: Dice 1.0000" in said or "a: Dice 0.999" in said
    code, _, said = in_process(*how[:-2], "--prompt", "click", "--detector", folder)
    assert code == 2
    assert "--detector finds what --text says" in said
