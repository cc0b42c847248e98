"""The examples are run as a reader would run them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import medseg_env
from PIL import Image

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


@pytest.mark.parametrize("name", ["demo.py", "segment_mr.py"])
def test_examples_are_short(root: Path, name: str) -> None:
    assert len((root / "examples" / name).read_text().splitlines()) <= 40
