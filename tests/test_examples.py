"""The examples are run as a reader would run them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import medseg_env
from PIL import Image

import medseg_cli

pytest.importorskip("nilearn", reason="the demo's brain is inside nilearn (extra 'demo')")


def run(root: Path, home: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=medseg_env(home, {}), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_demo_finds_two_hippocampi_of_plausible_size(root: Path, medseg_home: Path, tmp_path: Path) -> None:
    done = run(root, medseg_home, tmp_path, str(root / "examples/demo.py"))
    report = json.loads((tmp_path / "out/demo/hippocampi.json").read_text())
    with (root / "examples/prompts.csv").open(newline="") as file:
        assert [label["name"] for label in report["labels"]] == [row["label"] for row in csv.DictReader(file)]
    for label in report["labels"]:
        assert 3.0 <= label["volume_ml"] <= 4.5, f"{label['name']}: {label['volume_ml']} mL"
        assert f"{label['name']}: {label['volume_ml']:.2f} mL" in done.stdout
    left, right = report["labels"]
    assert left["centroid_ras_mm"][0] < -15
    assert right["centroid_ras_mm"][0] > 15
    assert Image.open(tmp_path / "out/demo/hippocampi.png").size[0] > 1000
    assert report["random_weights"] is False


def test_the_python_example_agrees_with_the_demo(root: Path, medseg_home: Path, tmp_path: Path) -> None:
    sys.path.insert(0, os.fspath(root / "examples"))
    try:
        import demo
    finally:
        sys.path.pop(0)
    words = (str(root / "examples/segment_mr.py"), str(demo.brain()), "left.nii.gz", "-26,-22,-14")
    done = run(root, medseg_home, tmp_path, *words)
    name, volume, unit = done.stdout.split()
    assert (name, unit) == ("hippocampus:", "mL")
    assert 3.0 <= float(volume) <= 4.5
    assert (tmp_path / "left.nii.gz").exists()


def shell(root: Path, home: Path, cwd: Path, script: str, *words: str) -> str:
    """Run a shell script of the examples with `medseg` and `python` on the path; its stderr."""
    tools = cwd / "bin"
    tools.mkdir(exist_ok=True)
    for name, call in (("medseg", "-m medseg_cli"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {call} "$@"\n')
        (tools / name).chmod(0o755)
    env = medseg_env(home, {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"})
    done = subprocess.run(
        ["sh", str(root / "examples" / script), *words], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    assert mask.shape == truth.shape
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


def test_the_xray_example_finds_the_drawn_lungs(root: Path, medseg_home: Path, tmp_path: Path) -> None:
    shell(root, medseg_home, tmp_path, "xray.sh")
    mask = np.asarray(Image.open(tmp_path / "out/xray/lungs.png"))
    assert set(np.unique(mask)) == {0, 255}
    assert dice(mask > 0, np.asarray(Image.open(tmp_path / "out/scans/truth_lungs.png")) > 0) > 0.85
    assert (tmp_path / "out/xray/lungs_preview.png").is_file()


TINY = """\
name: tiny
title: A network of a few thousand random weights
pipeline: sam-unet
modality: [any]
dims: 2
model: {embed_dim: 48, num_heads: 4, decoder_mlp_dim: 256, stem: 8, backbone: res34}
weights: {file: tiny.safetensors}
preprocessing: {intensity: {method: percentile, low: 0, high: 100}}
prompts: {kinds: [box]}
labels: [{value: 1, name: object, color: "#f4d03f"}]
licence: Apache-2.0
source: tests/test_examples.py
"""


def test_a_box_through_a_ct_is_the_same_from_the_shell_and_from_python(
    root: Path, medseg_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    network = medseg_cli.load_model(
        "sam-unet", embed_dim=48, num_heads=4, decoder_mlp_dim=256, stem=8, backbone="res34"
    )
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.setenv("PRESET", "tiny.yaml")
    stderr = shell(root, medseg_home, tmp_path, "ct_box.sh")
    image, scan = (nib.load(tmp_path / "out" / name) for name in ("ct/organ.nii.gz", "scans/abdomen.nii.gz"))
    assert image.shape == scan.shape
    assert np.array_equal(image.affine, scan.affine)
    facts = json.loads((tmp_path / "out/ct/organ.json").read_text())["pipeline"]
    slices = facts["slices"]
    assert facts["objects"][0]["slices_prompted"] == [30]
    assert 1 < slices["encoded"] == slices["prompted"] <= slices["count"] == 60
    assert f"{slices['encoded']} of 60 axial slices encoded" in stderr
    words = ("out/scans/abdomen.nii.gz", "python.nii.gz", "77,59,98,77", "30", "tiny.yaml")
    done = run(root, medseg_home, tmp_path, str(root / "examples/ct_box.py"), *words)
    assert f"{slices['encoded']} of 60 axial slices encoded" in done.stdout
    whole, largest = (
        np.asarray(nib.load(tmp_path / name).dataobj) > 0 for name in ("python.nii.gz", "out/ct/organ.nii.gz")
    )
    assert largest.any()
    assert not (largest & ~whole).any(), "ct_box.sh keeps the largest part only"


@pytest.mark.parametrize("name", ["demo.py", "segment_mr.py", "xray.sh", "ct_box.sh", "ct_box.py", "flag_rates.py"])
def test_examples_are_short(root: Path, name: str) -> None:
    assert len((root / "examples" / name).read_text().splitlines()) <= 40
