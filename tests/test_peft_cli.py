"""Every pipeline that can be tuned, in every way, through the command line: train, use, move, lose the base."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import drawn_ellipses
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from test_tuning import BEGIN, SAM3D, SAM_UNET, trained_by_hand
from tiny_sam import SMALL, save, upstream

import medseg_cli
from medseg_cli import preset
from medseg_cli.weights.importer import import_file
from medseg_cli.weights.store import sha256_of

Run = Callable[..., tuple[int, str, str]]
MODEL: dict[str, dict[str, Any]] = {"sam": {}, "sam-unet": SAM_UNET, "3dsam-adapter": SAM3D}
LIKE = {"sam": "sam-vit-b", "sam-unet": "sam-unet", "3dsam-adapter": "hippocampus-mr"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures 72x48 of a bright ellipse on dark noise."""
    return drawn_ellipses.save(tmp_path_factory.mktemp("Ellipses"), 4)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four volumes 20x20x18 of a bright ball, in the layout of the Medical Segmentation Decathlon."""
    folder = tmp_path_factory.mktemp("Balls")
    rng = np.random.default_rng(0)
    place = np.stack(np.mgrid[:20, :20, :18])
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir()
    for number in range(4):
        mask = ((place - rng.uniform(8, 11, size=(3, 1, 1, 1))) ** 2).sum(0) < 25
        voxels = (rng.normal(size=mask.shape) + 4 * mask).astype(np.float32)
        for kind, values in (("imagesTr", voxels), ("labelsTr", mask.astype(np.uint8))):
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / kind / f"b{number}.nii.gz")
    pairs = [{"image": f"./imagesTr/b{n}.nii.gz", "label": f"./labelsTr/b{n}.nii.gz"} for n in range(4)]
    facts = {"name": "Balls", "modality": {"0": "MR"}, "labels": {"0": "background", "1": "ball"}, "training": pairs}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


def base_preset(name: str, folder: Path, weights: dict[str, str] | None = None) -> Path:
    """A preset with a tiny network and its weights beside it."""
    folder.mkdir(exist_ok=True)
    if weights is None:
        file = folder / "weights.safetensors"
        if name == "sam":
            save_file(upstream(**SMALL).state_dict(), file)
        else:
            save_file(BEGIN[name](MODEL[name], 3)[0].state_dict(), file)
        weights = {"file": file.name, "sha256": sha256_of(file)}
    facts = preset.find(LIKE[name]).model_dump(mode="json")
    facts |= {"name": "tiny", "model": MODEL[name], "weights": weights, "accuracy": [], "options": {}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(facts))
    return folder / "tiny.yaml"


def finetune(run: Run, dataset: Path, chosen: Path, folder: Path, *more: object) -> tuple[int, str, str]:
    short = ["--steps", 3, "--batch-size", 2, "--validate-every", 3, "--workers", 0, "--device", "cpu"]
    return run("finetune", dataset, "-o", folder, "--preset", chosen, "--learning-rate", 0.02, *short, *more)


def segment(run: Run, name: str, dataset: Path, used: Path, out: Path) -> tuple[int, str, str]:
    if name == "3dsam-adapter":
        scan, prompt, out = dataset / "imagesTr" / "b0.nii.gz", ["--point", "10,10,9"], out.with_suffix(".nii.gz")
    else:
        scan, prompt, out = dataset / "images" / "e0.png", ["--box", "14,10,60,44"], out.with_suffix(".png")
    return run("segment", scan, "-o", out, "--preset", used, *prompt, "--device", "cpu", "--overwrite")


@pytest.mark.parametrize("name", BEGIN)
@pytest.mark.parametrize("kind", ["method", "adapter", "lora", "decoder", "full"])
def test_a_run_is_a_small_file_that_segments(
    name: str, kind: Any, in_process: Run, pictures: Path, volumes: Path, tmp_path: Path
) -> None:
    dataset = volumes if name == "3dsam-adapter" else pictures
    chosen, run = base_preset(name, tmp_path / "base"), tmp_path / "run"
    code, _, err = finetune(in_process, dataset, chosen, run, "--peft", kind, "--rank", 2)
    assert code == 0, err
    told = re.search(r"([\d,]+) of ([\d,]+) parameters learn", err)
    assert told is not None, err
    learns, every = (int(number.replace(",", "")) for number in told.groups())
    assert 0 < learns <= every
    # These networks are narrower than SAM's: what their papers freeze was never SAM's.
    whole = kind == "full" or (kind == "method" and name != "sam")
    assert (learns == every) == (whole and name != "3dsam-adapter"), "all but that network's constants"
    tuned = preset.load(run / "preset.yaml")
    with safe_open(run / "weights.safetensors", "pt") as file:
        facts, stored = file.metadata(), set(file.keys())
    base = tmp_path / "base" / "weights.safetensors"
    assert tuned.weights is not None
    if whole:
        assert tuned.weights.base is None
        assert "medseg.base" not in facts
    else:
        assert tuned.weights.base is not None
        assert tuned.weights.base.file == str(base)
        assert json.loads(facts["medseg.base"])["sha256"] == tuned.weights.base.sha256
        assert json.loads(facts["medseg.tuned"])["kind"] == kind
        assert all(trained_by_hand(name, kind, key) for key in stored)
        assert (run / "weights.safetensors").stat().st_size < base.stat().st_size
    assert facts["medseg"] == medseg_cli.__version__

    code, _, err = segment(in_process, name, dataset, run, tmp_path / "mask")
    assert code == 0, err
    report = json.loads(next(tmp_path.glob("mask*.json")).read_text())
    assert report["weights"]["sha256"] == tuned.weights.sha256
    assert ("base" in report["weights"]) != whole
    code, out, _ = in_process("presets", "show", run)
    assert code == 0
    assert "# weights embedded" in out


def test_a_run_may_move_and_says_when_its_base_is_gone(
    in_process: Run, pictures: Path, tmp_path: Path, medseg_home: Path
) -> None:
    file = save(upstream(**SMALL), tmp_path / "sam.pth")
    import_file(file, "small-sam")
    chosen = base_preset("sam", tmp_path / "base", {"name": "small-sam"})
    run = tmp_path / "run"
    code, _, err = finetune(in_process, pictures, chosen, run, "--peft", "lora", "--rank", 2)
    assert code == 0, err
    tuned = preset.load(run / "preset.yaml")
    assert tuned.weights is not None
    assert tuned.weights.base is not None
    assert (tuned.weights.base.name, tuned.weights.base.file) == ("small-sam", None)

    code, _, err = segment(in_process, "sam", pictures, run, tmp_path / "before")
    assert code == 0, err
    moved = tmp_path / "elsewhere" / "mine"
    shutil.copytree(run, moved)
    shutil.rmtree(run)
    code, _, err = segment(in_process, "sam", pictures, moved, tmp_path / "after")
    assert code == 0, err
    assert (tmp_path / "after.png").read_bytes() == (tmp_path / "before.png").read_bytes()

    code, _, err = finetune(in_process, pictures, moved, tmp_path / "second", "--peft", "decoder")
    assert code == 0, err
    second = preset.load(tmp_path / "second" / "preset.yaml")
    assert second.weights is not None
    assert second.weights.base == tuned.weights.base, "it stands without the first run"

    for path in (medseg_home / "weights").glob("small-sam*"):
        path.unlink()
    code, _, err = segment(in_process, "sam", pictures, moved, tmp_path / "lost")
    assert code == 4
    assert "small-sam" in err
    code, out, _ = in_process("presets", "show", moved)
    assert "# weights missing" in out
    import_file(file, "small-sam")
    code, _, err = segment(in_process, "sam", pictures, moved, tmp_path / "found")
    assert code == 0, err


def test_a_moved_base_file_is_found_in_the_store(in_process: Run, pictures: Path, tmp_path: Path) -> None:
    chosen, run = base_preset("sam", tmp_path / "base"), tmp_path / "run"
    code, _, err = finetune(in_process, pictures, chosen, run, "--peft", "decoder")
    assert code == 0, err
    base = tmp_path / "base" / "weights.safetensors"
    base.rename(tmp_path / "moved.safetensors")
    code, _, err = segment(in_process, "sam", pictures, run, tmp_path / "lost")
    assert code == 4
    assert "medseg weights import" in err
    code, _, err = in_process("weights", "import", run / "weights.safetensors", "--name", "part")
    assert code == 4
    assert "only what a training changed" in err
    import_file(tmp_path / "moved.safetensors", "mine")
    code, _, err = segment(in_process, "sam", pictures, run, tmp_path / "found")
    assert code == 0, err


def test_sam3d_vit_b_needs_sams_weights_and_training(in_process: Run, volumes: Path, tmp_path: Path) -> None:
    code, _, err = finetune(in_process, volumes, Path("sam3d-vit-b"), tmp_path / "run")
    assert code == 4
    assert "medseg weights pull sam-vit-b" in err
    code, _, err = segment(in_process, "3dsam-adapter", volumes, Path("sam3d-vit-b"), tmp_path / "mask")
    assert code == 4
    assert "segments nothing yet" in err
    assert "medseg finetune DATASET -o RUN --preset sam3d-vit-b" in err


def test_a_small_sam_becomes_a_3dsam_adapter(in_process: Run, volumes: Path, tmp_path: Path) -> None:
    """The way of preset sam3d-vit-b, with a SAM that fits into a test."""
    save(upstream(**SMALL | {"depth": 4}), tmp_path / "sam.pth")
    import_file(tmp_path / "sam.pth", "small-sam")
    chosen, run = base_preset("3dsam-adapter", tmp_path / "base", {"name": "small-sam"}), tmp_path / "run"
    code, _, err = finetune(in_process, volumes, chosen, run, "--peft", "adapter")
    assert code == 0, err
    with safe_open(run / "weights.safetensors", "pt") as file:
        assert not any("qkv" in key or "mlp.lin1" in key for key in file.keys() if key.startswith("encoder."))  # noqa: SIM118
    code, _, err = segment(in_process, "3dsam-adapter", volumes, run, tmp_path / "mask")
    assert code == 0, err


def test_frozen_random_weights_are_refused(in_process: Run, pictures: Path, tmp_path: Path) -> None:
    chosen = base_preset("sam", tmp_path / "base")
    for more, told in (
        (("--peft", "lora", "--start", "scratch"), "random ones are not worth keeping"),
        (("--peft", "lora", "--feature-cache", "on"), "needs an image encoder that is not trained"),
    ):
        code, _, err = finetune(in_process, pictures, chosen, tmp_path / "run", *more)
        assert code == 2, err
        assert told in err


def test_kept_features_give_the_same_weights(in_process: Run, pictures: Path, tmp_path: Path) -> None:
    """A run that computes them, and one that finds them, end alike."""
    chosen = base_preset("sam-unet", tmp_path / "base")
    results = []
    for name in ("one", "two"):
        if results:
            shutil.copytree(tmp_path / "one" / "features", tmp_path / name / "features")
        code, _, err = finetune(in_process, pictures, chosen, tmp_path / name, "--peft", "decoder")
        assert code == 0, err
        network = medseg_cli.load_model("sam-unet", checkpoint=tmp_path / name / "weights.safetensors", **SAM_UNET)
        results.append(network.state_dict())
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())
