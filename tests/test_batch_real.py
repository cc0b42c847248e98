"""Sixty real cases in one command: four are broken, the process is killed, a Ray worker is killed."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from conftest import medseg_env
from PIL import Image
from scipy import ndimage

MR, LUNGS = "hippocampus-mr", "chest-xray-lungs"
BROKEN = {
    "broken/truncated": "is truncated",
    "broken/text": "content is damaged or of no known kind",
    "broken/gap": "about 1 slice(s) missing",
    "broken/outside": "lies outside",
}
FOREIGN = ("brain1", "mricrop", "t1w", "t2", "lesion", "abdomen")
"""Real scans with no hippocampus where they are clicked, or none at all."""


@dataclass(frozen=True)
class Manifest:
    path: Path
    scans: dict[str, Path]
    masks: dict[str, Path]


@pytest.fixture(scope="module")
def manifest(root: Path, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Sixty rows: NIfTI, NRRD, GIPL, npz, DICOM folders, a DICOM file, PNG and JPEG of eight sets."""
    folder, data = tmp_path_factory.mktemp("sixty"), shared / "data"
    mr, xray = data / MR, data / LUNGS
    script = str(root / "examples/make_batch_manifest.py")
    words = (str(folder / "some.csv"), f"{MR}={mr}=26", f"{LUNGS}={xray}=18")
    subprocess.run([sys.executable, script, *words], env=medseg_env(folder, {}), check=True)
    with (folder / "some.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    masks = {row["name"]: mr / "labelsTr" / Path(row["path"]).name for row in rows if row["preset"] == MR}
    masks |= {row["name"]: xray / "masks" / Path(row["path"]).name for row in rows if row["preset"] == LUNGS}
    (folder / "truncated.nii.gz").write_bytes((mr / "imagesTr/hippocampus_001.nii.gz").read_bytes()[:20000])
    (folder / "text.nii.gz").write_text("This is not a scan.\n")
    others = [
        (data / "dicom/mr_pgbm_udacity/Study1__13_HCropVolume", "dicom/study1", MR, "17,25,16"),
        (data / "dicom/mr_pgbm_udacity/Study2__14_HCropVolume", "dicom/study2", MR, "18,24,17"),
        (data / "misc-3d/pyradiomics/brain1_image.nrrd", "brain1", MR, "180,97,16"),
        (data / "misc-3d/itksnap/MRIcrop-orig.gipl.gz", "mricrop", MR, "38,69,41"),
        (data / "misc-3d/spinalcord_sct/t1_t1w.nii.gz", "t1w", MR, "24,37,14"),
        (data / "misc-3d/spinalcord_sct/t2_t2.nii.gz", "t2", MR, "30,44,26"),
        (data / "misc-3d/medsam2-npz/CT_Lesion_000002_03_01_035-047.npz", "lesion", MR, "256,256,6"),
        (data / "total-ct-mr/example_mr_sm.nii.gz", "abdomen", MR, "58,45,10"),
        *((path, f"cxr/{path.stem}", LUNGS, "") for path in sorted((data / "chest-xray-structures/images").iterdir())),
        (data / "dicom/highdicom/dx_image.dcm", "dx", LUNGS, ""),
        (folder / "truncated.nii.gz", "broken/truncated", MR, "17,36,11"),
        (folder / "text.nii.gz", "broken/text", MR, "17,36,11"),
        (data / "dicom/dicom2nifti/failing/sliceincrement/001", "broken/gap", MR, "100,100,1"),
        (mr / "imagesTr/hippocampus_003.nii.gz", "broken/outside", MR, "17,36,400"),
    ]
    rows += [dict(zip(("path", "name", "preset", "point"), map(str, other), strict=True)) for other in others]
    with (folder / "sixty.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    assert len(rows) == 60
    return Manifest(folder / "sixty.csv", {row["name"]: Path(row["path"]) for row in rows}, masks)


class Batch:
    """One output folder of `medseg batch` over the sixty."""

    def __init__(self, manifest: Manifest, folder: Path) -> None:
        self.out = folder / "out"
        self._words = [sys.executable, "-m", "medseg_cli", "batch", str(manifest.path), "-o", str(self.out)]
        self._env = medseg_env(folder, {})

    def start(self, *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*self._words, "-p", MR, *words], env=self._env, cwd=self.out.parent, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(timeout=1500)
        return process.returncode, out, err

    def records(self) -> dict[str, dict[str, Any]]:
        paths = (self.out / ".medseg/cases").glob("*.json")
        read = (json.loads(path.read_text()) for path in paths if not path.name.endswith(".pending.json"))
        return {each["id"]: each for each in read}

    def files(self) -> set[str]:
        """What users see, without tables and pages."""
        paths = (path for path in self.out.rglob("*") if path.is_file() and ".medseg" not in path.parts)
        return {
            path.relative_to(self.out).as_posix() for path in paths if path.parent != self.out or "_seg" in path.name
        }

    def masks(self) -> dict[str, str]:
        """Case → hash of its mask."""
        return {name: each["outputs"][0]["sha256"] for name, each in self.records().items() if each["outputs"]}


@pytest.fixture(scope="module")
def whole(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Batch, tuple[int, str, str]]:
    """The run that nobody disturbs, and how it ended."""
    batch = Batch(manifest, tmp_path_factory.mktemp("whole"))
    return batch, batch.run()


@pytest.mark.slow
def test_sixty_real_cases_have_the_right_statuses(
    manifest: Manifest, whole: tuple[Batch, tuple[int, str, str]]
) -> None:
    batch, (code, out, err) = whole
    found = batch.records()
    assert code == 8, err
    assert out == ""
    assert found.keys() == manifest.scans.keys()
    failed = {name: each["reason"] for name, each in found.items() if each["status"] == "failed"}
    assert failed.keys() == BROKEN.keys()
    assert {name: says for name, says in BROKEN.items() if says not in failed[name]} == {}
    assert {name: found[name]["status"] for name in FOREIGN} == dict.fromkeys(FOREIGN, "flagged")
    usual = Counter(found[name]["status"] for name in manifest.masks)
    assert usual["ok"] + usual["flagged"] == 44
    assert usual["ok"] >= 40, "what a preset is made for is seldom flagged"
    for name, record in found.items():
        assert (record["status"] == "flagged") == bool(record["flags"]), name
        if record["outputs"]:
            empty = not mask_of(batch, record).any()
            assert empty == ("empty" in {flag["code"] for flag in record["flags"]}), name
    dice = {name: overlap(mask_of(batch, found[name]), truth(path)) for name, path in manifest.masks.items()}
    for preset, least in ((MR, 0.85), (LUNGS, 0.94)):
        assert np.median([value for name, value in dice.items() if name.startswith(preset)]) > least
    assert min(dice.values()) > 0.6


@pytest.mark.slow
def test_masks_lie_on_the_grids_of_their_scans(manifest: Manifest, whole: tuple[Batch, tuple[int, str, str]]) -> None:
    batch, _ = whole
    for name, record in batch.records().items():
        if not record["outputs"]:
            continue
        path = batch.out / record["outputs"][-1]["path"]
        shape, affine = grid(manifest.scans[name])
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.size == shape, name
            continue
        mask = nib.load(path)
        assert mask.shape == shape, name
        if affine is not None:
            assert np.allclose(mask.affine, affine, atol=1e-3), name


@pytest.mark.slow
def test_lungs_that_touch_the_edge_or_are_in_pieces_are_flagged(whole: tuple[Batch, tuple[int, str, str]]) -> None:
    batch, _ = whole
    for name, record in batch.records().items():
        if record["preset"] != LUNGS:
            continue
        mask, codes = mask_of(batch, record), {flag["code"] for flag in record["flags"]}
        touches = bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())
        assert touches == ("border" in codes), name
        assert (ndimage.label(mask, np.ones((3,) * mask.ndim))[1] > 2) == ("components" in codes), name


@pytest.mark.slow
def test_tables_and_page_have_all_sixty(whole: tuple[Batch, tuple[int, str, str]]) -> None:
    batch, _ = whole
    with (batch.out / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (batch.out / "cases.jsonl").read_text().splitlines()]
    assert {row["id"]: row["status"] for row in rows} == {line["id"]: line["status"] for line in lines}
    assert len(rows) == 60
    page = (batch.out / "report.html").read_text()
    assert all(row["id"] in page for row in rows)


@pytest.mark.slow
def test_a_second_run_skips_everything(whole: tuple[Batch, tuple[int, str, str]]) -> None:
    batch, _ = whole
    before = {path: path.stat().st_mtime_ns for path in (batch.out / ".medseg/cases").iterdir()}
    code, _, err = batch.run()
    assert code == 8, "four are still broken"
    assert "0 run" in err
    assert {path: path.stat().st_mtime_ns for path in (batch.out / ".medseg/cases").iterdir()} == before


@pytest.mark.slow
def test_kill_9_in_the_middle_loses_no_finished_case_and_keeps_no_half_file(
    manifest: Manifest, whole: tuple[Batch, tuple[int, str, str]], tmp_path: Path
) -> None:
    batch = Batch(manifest, tmp_path)
    process = batch.start()
    wait_for(lambda: len(batch.records()) >= 12, process)
    workers = {each["worker"]["pid"] for each in batch.records().values()}
    process.kill()
    process.communicate()
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in workers))
    finished = batch.records()
    assert 12 <= len(finished) < 60
    claimed = {
        each["path"]: each["sha256"] for path in (batch.out / ".medseg/cases").iterdir() for each in claims(path)
    }
    for name in batch.files():
        assert sha256(batch.out / name) == claimed[name], f"{name} is half a file, or nobody's"

    code, _, err = batch.run()
    assert code == 8, err
    now = batch.records()
    assert {name: each["started"] for name, each in finished.items()} == {
        name: now[name]["started"] for name in finished
    }, "what was finished is not run again"
    assert now.keys() == manifest.scans.keys()
    assert statuses(now) == statuses(whole[0].records())
    assert batch.masks() == whole[0].masks()
    assert batch.files() == whole[0].files()
    assert list((batch.out / ".medseg/work").iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an extra")
def test_a_killed_ray_worker_costs_nothing(
    manifest: Manifest, whole: tuple[Batch, tuple[int, str, str]], tmp_path: Path
) -> None:
    batch = Batch(manifest, tmp_path)
    process = batch.start("--engine", "ray", "--jobs", "2", "--device", "cpu")
    wait_for(lambda: len(batch.records()) >= 12, process)
    newest = max(batch.records().values(), key=lambda each: each["finished"])
    os.kill(newest["worker"]["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=1500)
    assert process.returncode == 8, err
    assert out == ""
    assert "the worker died; another one will try it again" in err
    found = batch.records()
    assert statuses(found) == statuses(whole[0].records())
    assert len({each["worker"]["pid"] for each in found.values() if each["outputs"]}) >= 3, "two, and one more"
    assert batch.files() == whole[0].files()
    for name, record in whole[0].records().items():
        if record["outputs"]:
            assert overlap(mask_of(batch, found[name]), mask_of(whole[0], record)) > 0.999, name
    assert list((batch.out / ".medseg/work").iterdir()) == []


def test_the_example_clicks_the_middle_of_each_mask(root: Path, tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    mask = np.zeros((20, 16, 12), np.uint8)
    mask[3:8, 4:13, 1:10] = 2  # 10 x 9 x 9 mm
    for name, voxels in (("images", np.arange(mask.size).reshape(mask.shape)), ("masks", mask)):
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), np.diag([2, 1, 1, 1])), tmp_path / name / "a.nii.gz")
    script = root / "examples/make_batch_manifest.py"
    words = [sys.executable, str(script), "list.csv", f"{MR}={tmp_path}"]
    subprocess.run(words, cwd=tmp_path, env=medseg_env(tmp_path, {}), check=True)
    with (tmp_path / "list.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["name"], row["preset"]) == (f"{MR}/a", MR)
    assert Path(row["path"]) == (tmp_path / "images/a.nii.gz").resolve()
    assert row["point"] == "5,8,5"
    assert len(script.read_text().splitlines()) <= 40


def wait_for(done: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it takes too long"
        assert process is None or process.poll() is None, "it ended too early"
        time.sleep(0.1)


def statuses(records: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: each["status"] for name, each in records.items()}


def claims(path: Path) -> list[dict[str, Any]]:
    """Outputs that a record names, of a finished case or of one whose files are being moved."""
    outputs: list[dict[str, Any]] = json.loads(path.read_text())["outputs"]
    return outputs


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mask_of(batch: Batch, record: dict[str, Any]) -> np.ndarray:
    """Where the mask of a case is above 0, ijk; without k for pictures."""
    return truth(batch.out / record["outputs"][-1]["path"])


def truth(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        with Image.open(path) as picture:
            return np.asarray(picture).T > 0
    return np.asarray(nib.load(path).dataobj) > 0


def overlap(mask: np.ndarray, other: np.ndarray) -> float:
    """Dice; 1 where both are empty."""
    assert mask.shape == other.shape
    both = mask.sum() + other.sum()
    return float(2 * (mask & other).sum() / both) if both else 1.0


def grid(path: Path) -> tuple[tuple[int, ...], np.ndarray | None]:
    """Shape and affine (voxel ijk to RAS) of a scan as other readers than ours have it; None where it has no place."""
    name = path.name
    if name.endswith((".png", ".jpg")):
        with Image.open(path) as picture:
            return picture.size, None
    if name.endswith(".npz"):
        return np.load(path)["imgs"].shape[::-1], None
    if name.endswith((".nii.gz", ".nii")):
        image = nib.load(path)
        return image.shape, image.affine
    if path.is_dir():
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
        scan = reader.Execute()
    else:
        scan = SimpleITK.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(scan.GetDirection()).reshape(3, 3) * scan.GetSpacing()
    matrix[:3, 3] = scan.GetOrigin()
    return scan.GetSize(), None if name.endswith(".dcm") else np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix
