"""Pictures and cines have pixels, volumes have voxels, wherever a person reads; and no text moves the terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from medseg_cli import report

Run = Callable[..., tuple[int, str, str]]
SEGMENT = ("segment", "--preset", "fetal-head-us", "--no-preview", "-o", "m.png")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(np.random.default_rng(7).integers(0, 200, (60, 80), np.uint8)).save(tmp_path / "us.png")
    return tmp_path / "us.png"


def test_the_report_of_a_picture_counts_pixels(
    in_process: Run, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = in_process(*SEGMENT, picture)
    assert code == 0, err
    assert "fetal head: size unknown, " in err
    assert " pixels" in err
    assert "voxel" not in err
    # The same on a terminal, where it is a table.
    shown = Console(file=io.StringIO(), force_terminal=True, width=160)
    monkeypatch.setattr(report, "stderr", lambda: shown)
    report.summary(json.loads((tmp_path / "m.json").read_text()), ["m.png"], "normal")
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "pixels" in text
    assert "voxel" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--point", "80,5"], 3, "valid range in ijk pixels: i 0..79, j 0..59"),
        (["--point", "999,5", "--coords", "ras"], 3, "pixel ("),
        (["--mask-prompt", "nothing.png"], 3, "all 4800 pixels are 0"),
        (["--spacing", "1e-9,1"], 3, "--spacing 1e-09,1,1 is no pixel size"),
        (["--point", "3,4", "--label", "he\x07ad"], 2, r"--label 'he\x07ad' holds characters that cannot be printed"),
    ],
)
def test_mistakes_about_a_picture_are_told_in_pixels(
    in_process: Run, picture: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    Image.fromarray(np.zeros((60, 80), np.uint8)).save(tmp_path / "nothing.png")
    found, _, err = in_process(*SEGMENT, picture, *arguments)
    assert (found, said in err) == (code, True), err
    assert "voxel" not in err


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.full((5, 7), 255, np.uint8), "is constant: every pixel is 255"),
        (np.arange(40, dtype=np.uint8)[None], "is a line of 40 x 1 x 1 pixels"),
    ],
)
def test_pictures_that_show_nothing_are_told_in_pixels(
    in_process: Run, tmp_path: Path, values: np.ndarray, said: str
) -> None:
    Image.fromarray(values).save(tmp_path / "bad.png")
    code, _, err = in_process(*SEGMENT, "bad.png")
    assert (code, said in err, "voxel" in err) == (3, True, False), err


def test_info_says_what_the_scan_has(in_process: Run, picture: Path, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)), tmp_path / "a.nii.gz")
    assert "first pixel (ras mm)" in in_process("info", picture)[1]
    assert "first voxel (ras mm)" in in_process("info", "a.nii.gz")[1]


def test_what_is_typed_does_not_command_the_terminal(in_process: Run, picture: Path) -> None:
    """ESC [31m turns text red, U+202E turns it round, and some codes do worse."""
    code, _, err = in_process(*SEGMENT, picture, "--text", "\x1b[31mhead\x07\u202e")
    assert (code, "[31mhead" in err) == (2, True), err
    assert all(each.isprintable() for each in err.replace("\n", ""))


def test_frames_that_are_lines_are_told_as_frames(in_process: Run, tmp_path: Path) -> None:
    """Nobody asked for slices here, so that no option about them can help."""
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(1, 20, 1, 3), np.eye(4)), tmp_path / "a.nii.gz")
    code, _, err = in_process("segment", "--preset", "fetal-head-us", "a.nii.gz", "-o", "m.nii.gz")
    assert (code, "the frames of a.nii.gz are lines of 1 x 20 pixels" in err, "--slices" in err) == (3, True, False), (
        err
    )


def test_datasets_of_pictures_have_pixels(in_process: Run, tmp_path: Path) -> None:
    for folder, values in (("images", np.arange(60, dtype=np.uint8)), ("masks", np.arange(60, dtype=np.uint8) // 30)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.fromarray(values.reshape(6, 10)).save(tmp_path / "set" / folder / "a.png")
    _, out, _ = in_process("dataset", "check", "set")
    assert "pixels   10 x 6" in out
    assert "voxel" not in out
