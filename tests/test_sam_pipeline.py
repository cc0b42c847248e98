"""Presets of pipeline `sam`: one encoder pass per slice for all prompts, embeddings kept, upstream's own answers."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from phantom import affine, write_volume
from PIL import Image
from segment_anything import SamPredictor, sam_model_registry
from tiny_sam import LARGER, SMALL, save, upstream

from medseg_cli import app, device, pipelines, preset
from medseg_cli.errors import InputError, UsageError
from medseg_cli.models.sam.config import config_of
from medseg_cli.models.sam.network import Sam
from medseg_cli.pipelines.by_slice import Options, SlicePipeline
from medseg_cli.preset import Preset
from medseg_cli.prompt import Box, Click, Prompt, Target
from medseg_cli.readers import load_scan
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.stages import Stages
from medseg_cli.weights.choice import override

SHAPE = (24, 20, 9)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save(upstream(**SMALL), tmp_path / "tiny.pth")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    values = np.random.default_rng(7).integers(-200, 300, SHAPE).astype(np.int16)
    return write_volume(tmp_path / "scan.nii.gz", values, affine("RAS", (1.0, 1.0, 2.0)))


def changed(found: Preset, **options: Any) -> Preset:
    return found.model_copy(update={"options": {**found.options, **options}})


def build(found: Preset, precision: str = "fp32") -> SlicePipeline:
    made = pipelines.build(found, device.select("cpu", precision, 0, False))
    assert isinstance(made, SlicePipeline)
    return made


def boxed(first: tuple[float, ...], second: tuple[float, ...]) -> Prompt:
    return Prompt((Target("1", "", boxes=(Box(first, second),)),))


def segment(pipeline: SlicePipeline, scan: Scan, prompt: Prompt) -> tuple[Segmentation, tuple[int, int, int]]:
    """The result, and how many slices were prompted, encoded, and taken from the cache."""
    found = pipeline.segment(scan, prompt, Stages())
    facts = found.provenance["slices"]
    return found, (facts["prompted"], facts["encoded"], facts["from_cache"])


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """All batches that went through an image encoder."""
    batches: list[torch.Tensor] = []
    encode = Sam.encode

    def watched(self: Sam, images: torch.Tensor) -> dict[str, torch.Tensor]:
        batches.append(images.clone())
        return encode(self, images)

    monkeypatch.setattr(Sam, "encode", watched)
    return batches


@pytest.fixture
def medseg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """The command line in this process, started in `tmp_path`; gives the exit code."""
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["medseg", *map(str, words)])
        return app.main([str(word) for word in words])

    yield run
    signal.signal(signal.SIGTERM, before)


def test_a_second_run_with_another_prompt_encodes_nothing(
    medseg: Callable[..., int], tmp_path: Path, tiny: Path, volume: Path
) -> None:
    assert medseg("weights", "import", tiny, "--name", "tiny-sam") == 0

    def run(name: str, box: str) -> dict[str, Any]:
        options = ("--preset", "sam-vit-b", "--weights", "tiny-sam", "--no-preview", "--embedding-cache", "kept")
        assert medseg("segment", volume, "-o", f"{name}.nii.gz", "--box", box, *options) == 0
        return json.loads((tmp_path / f"{name}.json").read_text())

    first, second = run("first", "2,3,2,15,14,6"), run("second", "4,5,3,20,18,6")
    counts = [
        {key: report["pipeline"]["slices"][key] for key in ("prompted", "encoded", "from_cache")}
        for report in (first, second)
    ]
    assert counts[0] == {"prompted": 5, "encoded": 5, "from_cache": 0}
    assert counts[1] == {"prompted": 4, "encoded": 0, "from_cache": 4}
    assert second["weights"]["name"] == "tiny-sam"
    assert len(list((tmp_path / "kept").glob("*/*.safetensors"))) == 5
    assert not any("made for" in note for note in first["notes"]), "SAM is for any modality"
    fresh, counted = segment(
        build(override(preset.find("sam-vit-b"), str(tiny))), load_scan(volume), boxed((4, 5, 3), (20, 18, 6))
    )
    assert counted == (4, 4, 0)
    assert np.array_equal(load_scan(tmp_path / "second.nii.gz").voxels[0], fresh.mask)


def test_missing_weights_say_how_to_get_them(
    medseg: Callable[..., int], volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("sam-vit-b", "sam-vit-l", "sam-vit-h", "medsam"):
        assert medseg("segment", volume, "-o", "m.nii.gz", "--preset", name, "--box", "1,1,1,5,5,1") == 4
        assert f"medseg weights pull {name}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "variant"), [("sam-vit-b", "vit_b"), ("sam-vit-l", "vit_l"), ("sam-vit-h", "vit_h"), ("medsam", "vit_b")]
)
def test_presets_fit_their_pipeline(name: str, variant: str) -> None:
    found = preset.find(name)
    with torch.device("meta"):
        official, random = sam_model_registry[variant](), Sam(config_of(found.model))
    assert random.state_dict().keys() == official.state_dict().keys()
    assert set(found.prompts.kinds) <= pipelines.find("sam").prompts
    options = Options.model_validate(found.options)
    boxes_only = name == "medsam"
    assert (options.fit == "stretch", options.scale == "unit", options.dense) == (
        boxes_only,
        boxes_only,
        not boxes_only,
    )


def test_objects_in_one_slice_share_its_encoding(tiny: Path, volume: Path, encoded: list[torch.Tensor]) -> None:
    pipeline = build(override(changed(preset.find("sam-vit-b"), batch=2), str(tiny)))
    targets = tuple(
        Target(str(index), "", boxes=(Box((2.0 + index, 3.0, 2.0), (12.0 + index, 14.0, 6.0)),)) for index in range(3)
    )
    scan = load_scan(volume)
    _, counts = segment(pipeline, scan, Prompt(targets))
    assert counts == (5, 5, 0)
    assert [len(batch) for batch in encoded] == [2, 2, 1]
    _, counts = segment(pipeline, scan, Prompt((Target("1", "", clicks=(Click((9.0, 9.0, 4.0)),)),)))
    assert counts[1] <= SHAPE[2] - 5, "slices 2 to 6 are known; propagation may reach others"
    assert counts[2] >= 1


def test_what_changes_the_embedding_is_encoded_again(tmp_path: Path, volume: Path) -> None:
    first, second = (save(upstream(**SMALL, seed=seed), tmp_path / f"{seed}.pth") for seed in (0, 1))
    base = changed(preset.find("sam-vit-b"), embedding_cache=str(tmp_path / "kept"))
    scan, prompt = load_scan(volume), boxed((2, 3, 4), (15, 14, 6))

    def count(found: Preset, precision: str = "fp32", what: Scan = scan) -> int:
        return segment(build(found, precision), what, prompt)[1][1]

    start = override(base, str(first))
    assert count(start) == 3
    assert count(start) == 0
    assert count(override(base, str(second))) == 3, "other weights"
    assert count(changed(start, fit="stretch")) == 3, "another frame"
    assert count(start, "bf16") == 3, "another precision"
    brighter = start.preprocessing.model_copy(
        update={"intensity": preset.find("sam-vit-b").preprocessing.by_modality["CT"]}
    )
    assert count(start.model_copy(update={"preprocessing": brighter})) == 3, "other grey values"
    assert count(start.model_copy(update={"model": {"window_size": 3, "num_heads": 2}})) == 3, "another configuration"
    assert count(start) == 0, "and the first is still there"


def test_channels_of_one_file_are_different_pictures(tmp_path: Path, tiny: Path) -> None:
    values = np.random.default_rng(1).integers(0, 1000, (*SHAPE, 2)).astype(np.int16)
    path = write_volume(tmp_path / "two.nii.gz", values, affine("RAS"))
    pipeline = build(override(preset.find("sam-vit-b"), str(tiny)))
    prompt = boxed((2, 3, 4), (15, 14, 4))
    for channel in (0, 1):
        found = segment(pipeline, load_scan(path, ReadOptions(channel=channel)), prompt)
        assert found[1][2] == 0


def test_a_damaged_embedding_is_computed_again_and_noted(tmp_path: Path, tiny: Path, volume: Path) -> None:
    found = override(changed(preset.find("sam-vit-b"), embedding_cache=str(tmp_path / "kept")), str(tiny))
    scan, prompt = load_scan(volume), boxed((2, 3, 4), (15, 14, 6))
    clean, _ = segment(build(found), scan, prompt)
    file = sorted((tmp_path / "kept").glob("*/*"))[1]
    content = bytearray(file.read_bytes())
    content[-40] ^= 64
    file.write_bytes(content)
    pipeline = build(found)
    again, counts = segment(pipeline, scan, prompt)
    assert counts == (3, 1, 2)
    assert np.array_equal(again.mask, clean.mask)
    assert [note for note in again.notes if str(file) in note]
    later, counts = segment(pipeline, scan, prompt)
    assert counts == (3, 0, 3)
    assert not [note for note in later.notes if str(file) in note], "a note belongs to the run that met the file"


def test_an_unusable_folder_ends_the_run_before_the_scan_is_read(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot keep embeddings"):
        build(override(changed(preset.find("sam-vit-b"), embedding_cache=str(tmp_path / "file")), str(tiny)))


@pytest.mark.parametrize("kind", ["box", "click", "clicks"])
def test_a_picture_gets_upstreams_own_answer(tmp_path: Path, kind: str) -> None:
    """`SamPredictor` on the same PNG: its coordinates have their origin in a corner, ours in a pixel's centre."""
    generator = np.random.default_rng(3)
    picture = np.kron(generator.integers(0, 256, (9, 14, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    picture[0, 0], picture[0, 1] = 0, 255
    height, width = picture.shape[:2]
    Image.fromarray(picture).save(tmp_path / "picture.png")
    sam = upstream(**LARGER)
    pipeline = build(override(preset.find("sam-vit-b"), str(save(sam, tmp_path / "tiny.pth"))))
    predictor = SamPredictor(sam)
    predictor.set_image(picture)
    ratio = np.array(predictor.input_size[::-1]) / np.array([width, height])
    places = np.array([[20.0, 11.0], [40.0, 30.0]])[: 2 if kind == "clicks" else 1]
    if kind == "box":
        prompt = boxed((10, 5, 0), (43, 29, 0))
        masks, _, _ = predictor.predict(box=np.array([10, 5, 44, 30]), multimask_output=False)
    else:
        clicks = tuple(Click((x, y, 0.0), positive=index == 0) for index, (x, y) in enumerate(places))
        prompt = Prompt((Target("1", "", clicks=clicks),))
        masks, quality, _ = predictor.predict(
            point_coords=places + 0.5 - 0.5 / ratio,
            point_labels=np.array([1, 0])[: len(places)],
            multimask_output=kind == "click",
        )
        masks = masks[[int(quality.argmax())]]
    found, _ = segment(pipeline, load_scan(tmp_path / "picture.png"), prompt)
    assert 0 < masks[0].mean() < 1
    assert np.array_equal(found.mask[:, :, 0].T == 1, masks[0])


def test_medsam_sees_a_stretched_picture_between_0_and_1(
    tmp_path: Path, tiny: Path, encoded: list[torch.Tensor]
) -> None:
    """The official preprocessing: to the square whatever the shape, then the slice's own minimum and maximum."""
    values = np.linspace(-1000, 1000, 24 * 20).reshape(24, 20, 1).astype(np.int16)
    path = write_volume(tmp_path / "ct.nii.gz", values, affine("RAS", (1.0, 3.0, 5.0)))
    pipeline = build(override(preset.find("medsam"), str(tiny)))
    scan = load_scan(path)
    scan = Scan(scan.voxels, scan.affine, scan.provenance, modality="CT")
    found, _ = segment(pipeline, scan, boxed((2, 3, 0), (15, 14, 0)))
    (image,) = encoded
    assert image.shape == (1, 3, 64, 64)
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)
    assert (found.provenance["display"]["low"], found.provenance["display"]["high"]) == (-160.0, 240.0)
    # Stretched: no row or column is padding. Values rise along i, which is the picture's x from its right edge.
    assert image[0, 0].std(0).max() > 0.05
    assert float(image[0, 0, :, -1].mean()) != pytest.approx(float(image[0, 0, :, 0].mean()))
    with pytest.raises(UsageError, match="medsam takes no point prompts"):
        segment(pipeline, scan, Prompt((Target("1", "", clicks=(Click((9.0, 9.0, 0.0)),)),)))
