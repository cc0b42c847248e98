"""The area in each frame of a cine as a table, and cines in a batch: by flag, by manifest, in the dry run."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import bright_box
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg_cli import pipelines
from medseg_cli.batch import frame_tables
from medseg_cli.batch.record import Record
from medseg_cli.readers import ReadOptions
from medseg_cli.readers.files import read_file
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.writers import formats

Medseg = Callable[..., tuple[int, str, str]]
COUNT, RATE, PIXEL = 16, 20, (0.5, 0.25)
SPOILT = (6, 10, 11)


@pytest.fixture
def medseg(monkeypatch: pytest.MonkeyPatch, in_process: Medseg, tmp_path: Path) -> Medseg:
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    bright_box.register()
    bright_box.preset(tmp_path, size=48, whole_image=True)
    return in_process


def square(t: int) -> np.ndarray:
    """(48, 40): 20 x (10 + t) pixels that move."""
    found = np.zeros((48, 40), bool)
    found[5 + t : 25 + t, 8 : 18 + t] = True
    return found


def values(*, spoilt: bool) -> np.ndarray:
    """(48, 40, T): bright squares on dark noise; in some frames the probe was off."""
    found = np.random.default_rng(0).uniform(50, 60, (48, 40, COUNT)).astype(np.float32)
    for t in range(COUNT):
        found[square(t), t] = 50 if spoilt and t in SPOILT else 200
    return found


def timed(path: Path, *, spoilt: bool = False) -> Path:
    """(I, J, 1, T) with pixel size and seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values(spoilt=spoilt)[:, :, None], np.diag([-PIXEL[0], -PIXEL[1], 1.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((*PIXEL, 1.0, 1 / RATE))
    image.to_filename(path)
    return path


def untimed(path: Path) -> Path:
    """(I, J, T), which looks like a volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(values(spoilt=False), np.diag([-PIXEL[0], -PIXEL[1], 3.0, 1.0])).to_filename(path)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(medseg: Medseg, *words: object) -> str:
    code, out, err = medseg(*words, "--preset", "bright-box.yaml", "--device", "cpu")
    assert code == 0, err
    return out + err


def test_a_row_per_object_and_frame(medseg: Medseg, tmp_path: Path) -> None:
    timed(tmp_path / "loop.nii.gz")
    run(medseg, "segment", "loop.nii.gz", "-o", "out/", "--format", "nifti,areas-csv", "--smooth-time", 0)
    rows = rows_of(tmp_path / "out" / "loop_areas.csv")
    assert list(rows[0]) == ["case", "value", "label", "frame", "seconds", "area_mm2", "jump", "gap", "filled"]
    assert [(each["case"], each["value"], each["label"]) for each in rows] == [("loop", "1", "blob")] * COUNT
    assert [int(each["frame"]) for each in rows] == list(range(COUNT))
    assert [float(each["seconds"]) for each in rows] == pytest.approx([t / RATE for t in range(COUNT)])
    assert [float(each["area_mm2"]) for each in rows] == [20 * (10 + t) * PIXEL[0] * PIXEL[1] for t in range(COUNT)]
    assert {(each["jump"], each["gap"], each["filled"]) for each in rows} == {("0", "0", "0")}
    report = json.loads((tmp_path / "out" / "loop_seg.json").read_text())
    assert [each["path"] for each in report["output"]["files"]] == ["loop_seg.nii.gz", "loop_areas.csv"]


def test_frames_that_fit_no_neighbour_are_marked(medseg: Medseg, tmp_path: Path) -> None:
    timed(tmp_path / "loop.nii.gz", spoilt=True)
    run(medseg, "segment", "loop.nii.gz", "-o", "m.nii.gz", "--format", "areas-csv")
    rows = rows_of(tmp_path / "m_areas.csv")
    assert [each["case"] for each in rows] == ["m"] * COUNT
    lost = [int(each["frame"]) for each in rows if "1" in (each["jump"], each["gap"])]
    assert lost == list(SPOILT)
    assert [int(each["frame"]) for each in rows if each["filled"] == "1"] == lost
    mask = np.asarray(nib.load(tmp_path / "m.nii.gz").dataobj)[:, :, 0] == 1
    areas = mask.sum((0, 1)) * PIXEL[0] * PIXEL[1]
    assert [float(each["area_mm2"]) for each in rows] == pytest.approx(areas.tolist())
    assert areas[list(SPOILT)].min() > 0


def test_without_pixel_size_and_time_areas_are_pixels(medseg: Medseg, tmp_path: Path) -> None:
    """An archive of frames states neither."""
    np.savez(tmp_path / "x.npz", imgs=values(spoilt=False).transpose(2, 1, 0))
    run(medseg, "segment", "x.npz", "-o", "out/", "--cine", "--format", "nifti,areas-csv", "--smooth-time", 0)
    rows = rows_of(tmp_path / "out" / "x_areas.csv")
    assert [int(each["area_px2"]) for each in rows] == [20 * (10 + t) for t in range(COUNT)]
    assert {each["seconds"] for each in rows} == {""}


def test_random_weights_are_said_in_every_row(tmp_path: Path) -> None:
    scan = read_file(timed(tmp_path / "loop.nii.gz"), ReadOptions())
    mask = (scan.voxels[0] > 100).astype(np.uint8)
    found = Segmentation(mask, (Label(1, "=blob"), Label(2, "none")), scan, {"weights": {"random": True}})
    formats.write(formats.FORMATS["areas-csv"], found, tmp_path / "loop_areas.csv")
    rows = rows_of(tmp_path / "loop_areas.csv")
    assert len(rows) == 2 * COUNT
    assert all("RANDOM WEIGHTS" in each["note"] for each in rows)
    # Nobody compared frames, and no spreadsheet takes a name for a formula.
    assert {(each["label"], each["jump"], each["gap"], each["filled"]) for each in rows} == {
        ("'=blob", "", "", ""),
        ("none", "", "", ""),
    }
    assert {float(each["area_mm2"]) for each in rows if each["value"] == "2"} == {0}


def test_what_is_no_cine_has_no_curve(medseg: Medseg, tmp_path: Path) -> None:
    untimed(tmp_path / "v.nii.gz")
    words = ("segment", "v.nii.gz", "-o", "out/", "--format", "nifti,areas-csv", "--preset", "bright-box.yaml")
    code, _, err = medseg(*words)
    assert code == 2
    assert "areas-csv is a curve over the frames of a cine" in err
    assert "--cine" in err
    code, _, err = medseg("segment", "v.nii.gz", "-o", "areas.csv", "--preset", "bright-box.yaml")
    assert code == 2
    assert "--format areas-csv" in err


def test_a_batch_has_a_table_per_cine_and_one_of_all(medseg: Medseg, tmp_path: Path) -> None:
    for name in ("p1/loop", "p2/loop"):
        timed(tmp_path / "in" / f"{name}.nii.gz", spoilt=name == "p2/loop")
    Image.fromarray(values(spoilt=False)[..., 0].T.astype(np.uint8)).save(tmp_path / "in" / "still.png")
    words = ("batch", "in", "-o", "out", "--jobs", 0, "--format", "nifti,areas-csv")
    assert "out: cases.csv, cases.jsonl, areas.csv, report.html" in run(medseg, *words)
    rows = rows_of(tmp_path / "out" / "areas.csv")
    assert [each["case"] for each in rows] == ["p1/loop"] * COUNT + ["p2/loop"] * COUNT
    own = rows_of(tmp_path / "out" / "p2" / "loop_areas.csv")
    assert [{**each, "case": "p2/loop"} for each in own] == rows[COUNT:]
    told = {each["id"]: each for each in map(json.loads, (tmp_path / "out" / "cases.jsonl").read_text().splitlines())}
    assert any("areas-csv left out" in note for note in told["still"]["notes"])
    assert told["still"]["input"]["frames"] is None
    assert told["p1/loop"]["input"]["frames"]["count"] == COUNT
    # The same cases without curves: the table of the run before goes, a table of somebody else's would not.
    assert "cases.jsonl, report.html" in run(medseg, *words[:-1], "nifti")
    assert not (tmp_path / "out" / "areas.csv").exists()
    (tmp_path / "out" / "areas.csv").write_text("room,m2\nkitchen,12\n")
    run(medseg, *words[:-1], "nifti")
    assert (tmp_path / "out" / "areas.csv").read_text() == "room,m2\nkitchen,12\n"


def test_loops_with_and_without_pixel_size_share_a_table(tmp_path: Path) -> None:
    tables = {"a": "case,value,label,frame,seconds,area_px2,jump,gap,filled\na,1,x,0,,7,0,0,0\n"}
    tables["d/b"] = "case,value,label,frame,seconds,area_mm2,jump,gap,filled\nb,1,x,0,0.5,2.5,1,0,1\n"
    (tmp_path / "d").mkdir()
    (tmp_path / ".medseg").mkdir()
    found = []
    for id_, text in tables.items():
        (tmp_path / f"{id_}_areas.csv").write_text(text)
        output = {"path": f"{id_}_areas.csv", "kind": "areas-csv", "sha256": sha256(text.encode()).hexdigest()}
        found.append(Record(id_, "ok", outputs=(output,)))
    # A case whose table is gone, and one whose table was changed.
    (tmp_path / "c_areas.csv").write_bytes(b"case,mine\xff\n")
    found += [Record(id_, "ok", outputs=({**output, "path": f"{id_}_areas.csv"},)) for id_ in ("gone", "c")]
    frame_tables.write(tmp_path, found)
    assert (tmp_path / "areas.csv").read_text() == (
        "case,value,label,frame,seconds,area_mm2,area_px2,jump,gap,filled\na,1,x,0,,,7,0,0,0\nd/b,1,x,0,0.5,2.5,,1,0,1\n"
    )


def planned(medseg: Medseg, manifest: str, *words: object) -> dict[str, dict[str, Any]]:
    Path("m.csv").write_text(manifest)
    code, out, err = medseg("batch", "m.csv", "-o", "out", "--preset", "bright-box.yaml", "--dry-run", "--json", *words)
    assert code == 0, err
    return {each["id"]: each for each in json.loads(out)["cases"]}


def test_a_row_of_a_manifest_says_that_its_third_axis_is_time(medseg: Medseg, tmp_path: Path) -> None:
    for name in "abcd":
        untimed(tmp_path / f"{name}.nii.gz")
    manifest = "path,cine\na.nii.gz,yes\nb.nii.gz,\nc.nii.gz,No\nd.nii.gz,1\n"
    told = planned(medseg, manifest)
    assert {id_: row["cine"] for id_, row in told.items()} == {"a": True, "b": False, "c": False, "d": True}
    told = planned(medseg, manifest, "--cine")
    assert {id_: row["cine"] for id_, row in told.items()} == {"a": True, "b": True, "c": False, "d": True}
    code, out, _ = medseg("batch", "m.csv", "-o", "out", "--preset", "bright-box.yaml", "--dry-run")
    assert code == 0
    assert "48x40, 16 frames" in next(line for line in out.splitlines() if line.startswith("a "))
    assert "48x40x16" in next(line for line in out.splitlines() if line.startswith("b "))
    code, _, err = medseg("batch", "m.csv", "-o", "out", "--preset", "bright-box.yaml", "--smooth-time", 0, "--jobs", 0)
    assert code == 8, err
    told = {each["id"]: each for each in map(json.loads, (tmp_path / "out" / "cases.jsonl").read_text().splitlines())}
    assert [told[id_]["input"]["frames"]["count"] for id_ in "ad"] == [COUNT, COUNT]
    assert told["a"]["labels"][0]["frames"]["pixels_per_frame"] == [20 * (10 + t) for t in range(COUNT)]
    # The preset needs no prompt for a picture, and one for a volume.
    assert {told[id_]["status"] for id_ in "bc"} == {"failed"}
    assert "volume of 16 axial slices" in told["b"]["reason"]
    # What is read otherwise is another result.
    assert told["a"]["settings_sha256"] == told["d"]["settings_sha256"] != told["b"]["settings_sha256"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.nii.gz,maybe,", "line 2: cine 'maybe' is neither yes nor no"),
        ("a.nii.gz,yes,3", "line 2: cine reads all frames, channel '3' one"),
    ],
)
def test_a_cine_that_cannot_be_is_one_failed_case(row: str, words: str, medseg: Medseg, tmp_path: Path) -> None:
    untimed(tmp_path / "a.nii.gz")
    untimed(tmp_path / "b.nii.gz")
    told = planned(medseg, f"path,cine,channel\n{row}\nb.nii.gz,yes,\n")
    assert told["a"]["state"] == "would fail"
    assert f"m.csv, {words}" in told["a"]["reason"]
    assert told["b"]["state"] == "run"


def test_json_and_yaml_have_it_as_truth(medseg: Medseg, tmp_path: Path) -> None:
    untimed(tmp_path / "a.nii.gz")
    Path("m.json").write_text(json.dumps([{"path": "a.nii.gz", "cine": True}]))
    Path("m.yaml").write_text("- {path: a.nii.gz, cine: yes}\n")
    for name in ("m.json", "m.yaml"):
        words = ("batch", name, "-o", "out", "--preset", "bright-box.yaml", "--dry-run", "--json")
        _, out, _ = medseg(*words)
        assert json.loads(out)["cases"][0]["cine"] is True
