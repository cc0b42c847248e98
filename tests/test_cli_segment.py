"""`medseg segment` through its real door, with a pipeline whose answer is known beforehand (`region_growing`)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import region_growing
from PIL import Image

from medseg_cli import pipelines

AFFINE = np.array([[-1.0, 0, 0, 40.0], [0, 0, 1.5, -20.0], [0, 1.0, 0, -10.0], [0, 0, 0, 1.0]])
"""First axis to the left, second up, third forward."""

Medseg = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Noise round 100, a box of 8 x 6 x 4 voxels at 200 and one of 5 x 5 x 5 at 300."""
    voxels = np.random.default_rng(0).normal(100, 2, (40, 30, 20)).astype(np.float32)
    voxels[10:18, 10:16, 8:12] = 200
    voxels[25:30, 10:15, 0:5] = 300
    path = tmp_path / "brain.nii.gz"
    nib.save(nib.Nifti1Image(voxels, AFFINE), path)
    return path


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    return region_growing.write_preset(tmp_path)


@pytest.fixture
def medseg(monkeypatch: pytest.MonkeyPatch, in_process: Medseg) -> Medseg:
    """`medseg("segment", ...)` in this process: (exit code, stdout, stderr). The fifth pipeline is registered."""
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    region_growing.register()
    return in_process


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_mask_report_and_picture_lie_beside_each_other(medseg: Medseg, scan: Path, preset: Path) -> None:
    code, out, err = medseg("segment", scan, "-o", "m.nii.gz", "--preset", preset, "--point", "12,12,10")
    assert code == 0, err
    assert out == "", "stdout is for data"
    assert read(Path("m.nii.gz")).sum() == 8 * 6 * 4
    assert nib.load("m.nii.gz").affine.tolist() == AFFINE.tolist()
    assert Image.open("m.png").size[0] > 400
    report = json.loads(Path("m.json").read_text())
    (label,) = report["labels"]
    assert label["voxels"] == 192
    assert label["volume_mm3"] == pytest.approx(288)
    assert label["volume_ml"] == pytest.approx(0.288)
    assert label["centroid_ijk"] == [13.5, 12.5, 9.5]
    assert label["centroid_ras_mm"] == [26.5, -5.75, 2.5]
    assert label["bounding_box_ijk_inclusive"] == [[10, 10, 8], [17, 15, 11]]
    assert label["touches_border"] is False
    assert report["status"] == "ok"
    assert report["input"]["sha256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
    assert report["input"]["orientation"] == "LSA"
    assert report["output"]["mask_sha256"] == hashlib.sha256(Path("m.nii.gz").read_bytes()).hexdigest()
    assert report["preset"]["sha256"] == hashlib.sha256(preset.read_bytes()).hexdigest()
    assert report["run"]["command"][:2] == ["medseg", "segment"]
    assert {"start", "model", "read", "segment", "segment/object 1", "write"} == {
        stage["stage"] for stage in report["stages"]
    }
    assert all(stage["peak_rss_mib"] > 50 for stage in report["stages"])
    assert "0.288 mL" in err
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "words",
    [
        ["brain.nii.gz", "m.nii.gz"],
        ["-i", "brain.nii.gz", "-o", "m.nii.gz"],
        ["-i", "brain.nii.gz", "m.nii.gz"],
        ["-o", "m.nii.gz", "brain.nii.gz"],
    ],
    ids=" ".join,
)
def test_paths_by_position_or_by_name(medseg: Medseg, scan: Path, preset: Path, words: list[str]) -> None:
    assert medseg("segment", *words, "-p", preset, "--point", "12,12,10", "--no-preview", "-q") == (0, "", "")
    assert sorted(path.name for path in Path().glob("m.*")) == ["m.json", "m.nii.gz"]


@pytest.mark.parametrize("folder", ["out/", "deep/er/", "."])
def test_a_folder_gets_files_named_after_the_case(medseg: Medseg, scan: Path, preset: Path, folder: str) -> None:
    assert medseg("segment", scan, "-o", folder, "-p", preset, "--point", "12,12,10", "-q")[0] == 0
    assert {"brain_seg.nii.gz", "brain_seg.json", "brain_seg.png"} <= {path.name for path in Path(folder).iterdir()}


@pytest.mark.parametrize(
    ("coords", "point"), [("ijk", "12,12,10"), ("ras", "28,-5,2"), ("lps", "-28,5,2")], ids=["ijk", "ras", "lps"]
)
def test_one_place_in_three_frames(medseg: Medseg, scan: Path, preset: Path, coords: str, point: str) -> None:
    code, out, _ = medseg(
        "segment", scan, "m.nii.gz", "-p", preset, "--point", point, "--coords", coords, "--json", "-q", "--no-preview"
    )
    assert code == 0
    report = json.loads(out)
    (click,) = report["prompts"][0]["clicks"]
    assert click["ijk"] == [12, 12, 10]
    assert click["ras_mm"] == [28, -5, 2]
    assert click["typed"] == [float(number) for number in point.split(",")]
    assert report["labels"][0]["voxels"] == 192
    assert report == json.loads(Path("m.json").read_text())


def test_several_clicks_are_one_object_and_minus_takes_away(medseg: Medseg, scan: Path, preset: Path) -> None:
    base = ("segment", scan, "m.nii.gz", "-p", preset, "--overwrite", "-q", "--no-preview", "--label", "thing")
    assert medseg(*base, "--point", "12,12,10", "--point", "27,12,2:+")[0] == 0
    assert np.unique(read(Path("m.nii.gz")), return_counts=True)[1].tolist() == [40 * 30 * 20 - 317, 317]
    assert medseg(*base, "--point", "12,12,10", "--point", "27,12,2", "--point", "12,13,10:-")[0] == 0
    assert read(Path("m.nii.gz")).sum() == 125
    assert json.loads(Path("m.json").read_text())["labels"][0]["name"] == "thing"


def test_a_table_of_objects(medseg: Medseg, scan: Path, preset: Path) -> None:
    Path("prompts.csv").write_text("id,label,x,y,z,coords\nb,big,28,-5,2,ras\ns,small,27,12,2,ijk\n")
    code, out, err = medseg("segment", scan, "o/", "-p", preset, "--prompts", "prompts.csv", "--json")
    assert code == 0, err
    labels = {label["name"]: label for label in json.loads(out)["labels"]}
    assert {name: (label["value"], label["voxels"]) for name, label in labels.items()} == {
        "big": (1, 192),
        "small": (2, 125),
    }
    assert labels["small"]["touches_border"] is True
    assert labels["big"]["color"] != labels["small"]["color"]
    assert "small: 0.188 mL, 125 voxels" in err
    assert "touches the edge of the scan" in err
    picture = np.asarray(Image.open("o/brain_seg.png"))
    for label in labels.values():
        assert (picture == list(bytes.fromhex(label["color"][1:]))).all(axis=2).any()


def test_an_empty_mask_is_written_and_flagged(medseg: Medseg, scan: Path, tmp_path: Path) -> None:
    preset = region_growing.write_preset(tmp_path, tolerance=-1.0)
    code, out, err = medseg("segment", scan, "m.nii.gz", "-p", preset, "--point", "12,12,10", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["status"] == "empty"
    (label,) = report["labels"]
    assert label["empty"] is True
    assert label["centroid_ijk"] is None
    assert label["reasons"]["centroid_ijk"] == "the object is empty"
    assert err.strip().splitlines()[-1] == "EMPTY: nothing was segmented for blob"
    assert read(Path("m.nii.gz")).max() == 0


def test_random_weights_stamp_every_output(medseg: Medseg, scan: Path, preset: Path) -> None:
    code, out, err = medseg("segment", scan, "m.nii.gz", "-p", preset, "--point", "1,1,1", "--random-weights", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["random_weights"] is True
    assert any("means nothing" in note for note in report["notes"])
    assert "RANDOM WEIGHTS" in err
    assert np.asarray(Image.open("m.png"))[1, 1].tolist() == [255, 196, 0]


def test_two_runs_write_the_same_bytes(medseg: Medseg, scan: Path, preset: Path) -> None:
    for name in ("a", "b"):
        medseg("segment", scan, f"{name}.nii.gz", "-p", preset, "--point", "12,12,10", "--deterministic", "-q")
    assert Path("a.nii.gz").read_bytes() == Path("b.nii.gz").read_bytes()
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    first, second = (json.loads(Path(f"{name}.json").read_text()) for name in "ab")
    changing = {"created", "stages", "seconds", "run", "output"}
    assert {key: first[key] for key in first.keys() - changing} == {
        key: second[key] for key in second.keys() - changing
    }


def test_logs_are_json_lines(medseg: Medseg, scan: Path, preset: Path) -> None:
    base = ("segment", scan, "-p", preset, "--point", "12,12,10", "--no-preview")
    assert medseg(*base, "-o", "m.nii.gz", "--log-json", "log.jsonl", "-q")[0] == 0
    assert medseg(*base, "-o", "m.nii.gz", "--log-json", "log.jsonl", "-q")[0] == 3
    lines = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines if "stage" in line][-1] == "write"
    finished = next(line for line in lines if "case" in line)
    assert finished["case"] == "brain.nii.gz"
    assert finished["labels"][0]["voxels"] == 192
    failed = lines[-1]
    assert failed["level"] == "error"
    assert "Traceback" in failed["traceback"], "the log has the traceback that the terminal is spared"


def test_logs_on_stderr_take_the_place_of_messages(medseg: Medseg, scan: Path, preset: Path) -> None:
    base = ("segment", scan, "m.nii.gz", "-p", preset, "--no-preview", "--log-json", "-")
    code, out, err = medseg(*base, "--point", "12,12,10", "--json")
    assert code == 0
    assert json.loads(out)["status"] == "ok"
    assert "segment" in [json.loads(line).get("stage") for line in err.splitlines()]
    code, _, err = medseg(*base, "--point", "99,0,0", "--overwrite")
    assert code == 3
    assert json.loads(err.splitlines()[-1])["hint"].startswith("valid range")


def test_a_link_to_the_input_is_the_input(medseg: Medseg, scan: Path, preset: Path) -> None:
    Path("link.nii.gz").hardlink_to(scan)
    before = scan.read_bytes()
    code, _, err = medseg("segment", scan, "link.nii.gz", "-p", preset, "--point", "12,12,10", "--overwrite")
    assert code == 3
    assert "is an input of this run" in err
    assert scan.read_bytes() == before


def test_a_traceback_appears_under_debug_only(medseg: Medseg, scan: Path, tmp_path: Path) -> None:
    preset = region_growing.write_preset(tmp_path, trouble="crash")
    base = ("segment", scan, "m.nii.gz", "-p", preset, "--point", "1,1,1")
    code, _, err = medseg(*base)
    assert code == 1
    assert "error: unexpected RuntimeError: the region outgrew the test" in err
    assert "Traceback" not in err
    assert "Traceback" in medseg(*base, "--debug")[2]


@pytest.mark.parametrize("trouble", ["memory", "torch memory"])
def test_running_out_of_memory_is_5(medseg: Medseg, scan: Path, tmp_path: Path, trouble: str) -> None:
    preset = region_growing.write_preset(tmp_path, trouble=trouble)
    code, _, err = medseg("segment", scan, "m.nii.gz", "-p", preset, "--point", "1,1,1")
    assert code == 5
    assert "error: out of memory: " in err
    assert not Path("m.nii.gz").exists()


def test_an_operation_that_cannot_be_deterministic_is_5(medseg: Medseg, scan: Path, tmp_path: Path) -> None:
    preset = region_growing.write_preset(tmp_path, trouble="not deterministic")
    base = ("segment", scan, "m.nii.gz", "-p", preset, "--point", "1,1,1")
    code, _, err = medseg(*base, "--deterministic")
    assert code == 5
    assert "error: --deterministic: put_ of this device cannot" in err
    assert medseg(*base)[0] == 0


@pytest.mark.skipif(os.name != "posix", reason="os.kill ends the process at once on Windows")
def test_sigterm_is_an_interrupt(medseg: Medseg, scan: Path, tmp_path: Path) -> None:
    preset = region_growing.write_preset(tmp_path, trouble="sigterm")
    code, _, err = medseg("segment", scan, "m.nii.gz", "-p", preset, "--point", "1,1,1")
    assert code == 130
    assert err.splitlines()[-1] == "error: interrupted: no output is half-written"
    assert not Path("m.nii.gz").exists()


def test_quiet_says_only_what_went_wrong(medseg: Medseg, scan: Path, preset: Path) -> None:
    code, out, err = medseg("segment", scan, "m.nii.gz", "-p", preset, "--point", "99,0,0", "-q")
    assert (code, out) == (3, "")
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]


def test_a_point_outside_the_scan_gets_the_valid_range(medseg: Medseg, scan: Path, preset: Path) -> None:
    code, _, err = medseg("segment", scan, "m.nii.gz", "-p", preset, "--point", "50,0,0", "--coords", "ras")
    assert code == 3
    assert "x 1..40, y -20..8.5, z -10..19" in err
    assert list(Path().glob("m.*")) == []


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["m.nii.gz", "--point", "1"], 2, "--point '1' is not x,y,z"),
        (["m.nii.gz", "--point", "1,1"], 2, "prompts need three coordinates"),
        (["m.nii.gz", "--point", "1,1,1", "--slice", "3"], 2, "--slice does not apply"),
        (["m.nii.gz", "--box", "1,1,9,9"], 2, "takes no boxes"),
        (["m.nii.gz", "--mask-prompt", "old.nii.gz"], 2, "takes no masks"),
        (["m.nii.gz", "--point", "1,1,1", "--slices", "axial"], 2, "takes no --slices"),
        (["m.nii.gz", "--point", "1,1,1", "--window", "brain", "--no-propagate"], 2, "no --window and no --propagate"),
        (["m.nii.gz", "--point", "1,1,1", "--keep", "some"], 2, "'some'"),
        (["m.nii.gz", "--point", "1,1,1", "--min-mm3", "nan"], 2, "--min-mm3"),
        (["m.nii.gz", "--point", "1,1,1", "--modality", "MRI"], 2, "--modality 'MRI'"),
        (["m.nii.gz", "--point", "1,1,1", "--weights", "none"], 4, "none"),
        (["m.nii.gz"], 2, "needs clicks"),
        (["m.nii.gz", "--point", "1,1,1", "--prompts", "p.csv"], 2, "--prompts does not go with --point"),
        (["m.nii.gz", "--prompts", "none.csv"], 3, "cannot read the prompt table"),
        (["m.jpg", "--point", "1,1,1"], 2, "m.jpg"),
        ([".nii.gz", "--point", "1,1,1"], 2, "no name before its suffix"),
        (["m.nii.gz", "extra", "--point", "1,1,1"], 2, "extra"),
        ([], 2, "no output given"),
        (["brain.nii.gz", "--overwrite", "--point", "1,1,1"], 3, "is an input of this run"),
        (["brain.nii", "--point", "1,1,1"], 3, "brain.json exists"),
        (["old.nii.gz", "--point", "1,1,1"], 3, "old.nii.gz exists"),
        (["none/m.nii.gz", "--point", "1,1,1"], 3, "there is no folder none"),
        (["old.nii.gz/m.nii.gz", "--point", "1,1,1"], 3, "cannot write"),
        (["dir.nii.gz", "--point", "1,1,1"], 3, "brain_seg.json exists"),
        (["m.nii.gz", "--point", "1,1,1", "--quiet", "--verbose"], 2, "--quiet contradicts"),
        (["m.nii.gz", "--point", "1,1,1", "--spacing", "1,-1"], 2, "--spacing '1,-1'"),
        (["m.nii.gz", "--point", "1,1,1", "--coords", "mni"], 2, "mni"),
        (["m.nii.gz", "--point", "1,1,1", "--device", "abacus"], 2, "unknown device 'abacus'"),
        (["m.nii.gz", "--point", "1,1,1", "--device", "cuda:63"], 5, "cuda:63"),
        (["m.nii.gz", "--point", "1,1,1", "--log-json", "none/log"], 3, "cannot write the log"),
        (["m.nii.gz", "--point", "1,1,1", "--channel", "-1"], 2, "--channel"),
        (["m.nii.gz", "--point", "1,1,1", "--precison", "fp32"], 2, "No such option"),
    ],
)
def test_mistakes_cost_no_time_and_leave_no_file(
    medseg: Medseg, scan: Path, preset: Path, words: list[str], code: int, text: str
) -> None:
    for name in ("old.nii.gz", "brain.json", "dir.nii.gz/brain_seg.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("precious")
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    found, out, err = medseg("segment", scan, *words, "-p", preset)
    assert (found, out) == (code, "")
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert text in lines[0]
    assert len(lines) == 1 or lines[1].startswith("hint: ")
    assert len(lines) <= 2
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_a_preset_that_knows_no_minus_refuses_it(medseg: Medseg, scan: Path, tmp_path: Path) -> None:
    preset = region_growing.write_preset(tmp_path, minus=False)
    code, _, err = medseg("segment", scan, "m.nii.gz", "-p", preset, "--point", "1,1,1", "--point", "2,2,2:-")
    assert code == 2
    assert "minus" in err


def test_overwrite_replaces_all_three(medseg: Medseg, scan: Path, preset: Path) -> None:
    base = ("segment", scan, "m.nii.gz", "-p", preset, "--point", "12,12,10", "-q")
    assert medseg(*base)[0] == 0
    picture = Path("m.png").read_bytes()
    Path("m.png").write_bytes(picture + b"old")
    for name in ("m.nii.gz", "m.json"):
        Path(name).write_text("old")
    assert medseg(*base)[0] == 3
    assert Path("m.json").read_text() == "old"
    assert medseg(*base, "--overwrite")[0] == 0
    assert read(Path("m.nii.gz")).sum() == 192
    assert json.loads(Path("m.json").read_text())["status"] == "ok"
    assert Path("m.png").read_bytes() == picture
    Path("m.png").write_text("a file of the user's")
    assert medseg(*base, "--overwrite")[0] == 3
    assert Path("m.png").read_text() == "a file of the user's"
    assert medseg(*base, "--overwrite", "--no-preview")[0] == 0


def test_underscores_are_accepted(medseg: Medseg, scan: Path, preset: Path) -> None:
    words = ("--log_json", "a_b.jsonl", "--no_preview", "--on_gap", "resample", "--label", "a_b")
    code, _, err = medseg("segment", scan, "m.nii.gz", "-p", preset, "--point", "12,12,10", *words)
    assert code == 0, err
    assert Path("a_b.jsonl").exists()
    assert json.loads(Path("m.json").read_text())["labels"][0]["name"] == "a_b"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(medseg: Medseg, scan: Path, preset: Path) -> None:
    Path("locked").mkdir(mode=0o500)
    code, _, err = medseg("segment", scan, "locked/m.nii.gz", "-p", preset, "--point", "1,1,1")
    assert code == 3
    assert "ermission denied" in err


@pytest.mark.parametrize("bad", ["constant", "mask"])
def test_what_is_no_scan_is_refused(medseg: Medseg, scan: Path, preset: Path, bad: str) -> None:
    voxels: Any = np.zeros((20, 20, 20), np.uint8)
    if bad == "mask":
        voxels[5:10, 5:10, 5:10] = 1
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), "bad.nii.gz")
    code, _, err = medseg("segment", "bad.nii.gz", "m.nii.gz", "-p", preset, "--point", "7,7,7")
    assert code == 3
    assert "bad.nii.gz" in err
    assert not Path("m.nii.gz").exists()
