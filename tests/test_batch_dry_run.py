"""`medseg batch --dry-run` and the predictions that it and the queues use."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome
from PIL import Image

from medseg_cli.batch import estimate
from medseg_cli.batch.record import Record
from medseg_cli.readers.header import Header


def picture(path: Path, size: int = 64) -> None:
    values = np.random.default_rng(size).integers(0, 255, (size, size + 8), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def test_it_lists_cases_and_writes_nothing(in_process: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", 64)
    picture(tmp_path / "in" / "b.png", 80)
    (tmp_path / "in" / "c.png").touch()

    code, out, err = in_process("batch", "in", "-o", "out", "--preset", "chest-xray-lungs", "--dry-run", "--json")

    assert (code, err) == (0, "")
    told = json.loads(out)
    rows = {row["id"]: row for row in told["cases"]}
    assert rows["a"]["shape_ijk"] == [72, 64, 1]
    assert rows["a"]["bytes"] == (tmp_path / "in" / "a.png").stat().st_size
    assert (rows["a"]["state"], rows["c"]["state"]) == ("run", "would fail")
    assert "0 bytes" in rows["c"]["reason"]
    assert rows["a"]["seconds"] is None
    assert told["totals"]["states"] == {"run": 2, "would fail": 1}
    assert not (tmp_path / "out").exists()


def test_limit_and_shard_and_the_table(in_process: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    for number in range(5):
        picture(tmp_path / "in" / f"{number}.png")
    words = ("batch", "in", "-o", "out", "--preset", "chest-xray-lungs", "--dry-run")
    code, out, _ = in_process(*words, "--limit", 2)
    assert code == 0
    assert out.splitlines()[0].split()[0] == "case"
    assert "5 cases" in out
    assert "2 run, 3 later" in out
    _, out, _ = in_process(*words, "--shard", "2/2", "--json")
    assert [row["id"] for row in json.loads(out)["cases"]] == ["1", "3"]


def test_a_preset_that_is_not_there_is_told_once(
    in_process: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    picture(tmp_path / "in" / "a.png")
    code, out, err = in_process("batch", "in", "-o", "out", "--preset", "chest-lungs", "--dry-run")
    assert (code, out) == (4, "")
    assert "did you mean 'chest-xray-lungs'" in err


def test_after_a_run_it_knows_what_is_finished_and_how_long_the_rest_takes(
    run_medseg: Callable[..., Outcome], tmp_path: Path
) -> None:
    for number in range(3):
        picture(tmp_path / "in" / f"{number}.png", 256)
    words = ("batch", "in", "-o", "out", "--preset", "chest-xray-lungs")
    assert run_medseg(*words, "--limit", 2).rc == 0
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}

    told = json.loads(run_medseg(*words, "--dry-run", "--json").stdout)

    assert [row["state"] for row in told["cases"]] == ["finished", "finished", "run"]
    record = json.loads((tmp_path / "out" / "cases.jsonl").read_text().splitlines()[0])
    assert 0 < told["cases"][2]["seconds"] < 20 * record["seconds"]
    assert told["cases"][2]["basis"] == "2 cases of this preset in this folder"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == files


def record(size: int, seconds: float, peak: float | None, preset: str = "p") -> Record:
    return Record(
        str(size), "ok", input={"shape_ijk": [size, size, 1]}, preset=preset, seconds=seconds, peak_rss_mib=peak
    )


def header(size: int) -> Header:
    return Header("nifti", (size, size, 1), (1.0, 1.0, 1.0))


def test_time_is_a_line_through_what_was_measured() -> None:
    known = estimate.measured([record(100, 3.0, 500.0), record(200, 6.0, 520.0)])
    # 2 s for anything and 1e-4 s for each pixel.
    assert estimate.predict(header(300), "p", known).seconds == pytest.approx(11.0)
    assert estimate.predict(header(300), "other", known).seconds is None


def test_time_never_falls_with_size_and_one_size_gives_its_median() -> None:
    falling = estimate.measured([record(100, 6.0, None), record(200, 3.0, None)])
    assert estimate.predict(header(400), "p", falling).seconds == pytest.approx(4.5)
    same = estimate.measured([record(100, 1.0, None), record(100, 2.0, None), record(100, 9.0, None)])
    assert estimate.predict(header(400), "p", same).seconds == 2.0


def test_failed_cases_and_cases_without_a_scan_are_no_measurements() -> None:
    failed = Record("x", "failed", input={"shape_ijk": [9, 9, 9]}, preset="p", seconds=5.0)
    assert estimate.measured([failed, Record("y", "ok", preset="p", seconds=5.0)]) == {}


def test_memory_grows_with_the_scan_and_what_its_reader_holds() -> None:
    nifti = Header("nifti", (100, 100, 100), (1.0, 1.0, 1.0))
    nrrd = Header("nrrd", (100, 100, 100), (1.0, 1.0, 1.0), volumes=3)
    assert estimate.memory_of(nrrd) - estimate.memory_of(nifti) == 3 * 2 * 1_000_000
    assert estimate.memory_of(nifti) > 4 * 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "size"), [("chest-xray-lungs", 3000), ("hippocampus-mr", 256)])
def test_predicted_memory_bounds_what_a_run_takes(
    run_medseg: Callable[..., Outcome], tmp_path: Path, preset: str, size: int
) -> None:
    """The high-water mark of a process with a large case, less that of one with a small case."""
    import nibabel as nib

    rng = np.random.default_rng(0)
    peaks = []
    for edge in (64, size):
        if preset == "chest-xray-lungs":
            Image.fromarray(rng.integers(0, 255, (edge, edge), np.uint8)).save(tmp_path / f"{edge}.png")
            row = f"{edge}.png,"
        else:
            values = rng.integers(-500, 1200, (edge, edge, edge)).astype(np.int16)
            nib.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / f"{edge}.nii")
            row = f'{edge}.nii,"20,20,20"'
        (tmp_path / "m.csv").write_text(f"path,point\n{row}\n")
        assert run_medseg("batch", "m.csv", "-o", f"out{edge}", "--preset", preset).rc == 0
        peaks.append(json.loads((tmp_path / f"out{edge}" / "cases.jsonl").read_text())["peak_rss_mib"])
    shape = (size, size, 1) if preset == "chest-xray-lungs" else (size, size, size)
    predicted = estimate.memory_of(Header("image" if shape[2] == 1 else "nifti", shape, (1.0, 1.0, 1.0), item_bytes=2))
    taken = (peaks[1] - peaks[0]) * 2**20
    assert 0.1 * predicted < taken < predicted
