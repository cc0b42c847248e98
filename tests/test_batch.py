"""`medseg batch`: statuses, isolation, resume, retry, shards, signals, death, tables; the model is a stand-in."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import batch_stand_in as stand_in
import nibabel as nib
import numpy as np
import pytest
from conftest import medseg_env

posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Three scans that work, in two folders."""
    folder = tmp_path / "scans"
    for number, name in enumerate(("a.nii.gz", "deep/er/b.nii.gz", "deep/c.nii.gz")):
        stand_in.write_scan(folder / name, seed=number)
    return folder


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    return stand_in.write_preset(tmp_path / "preset")


@pytest.fixture
def batch(in_process: Run, scans: Path, preset: Path) -> Run:
    """`batch(...)` runs `medseg batch scans -o out --preset bright --jobs 0 ...` in this process."""
    return lambda *words: in_process("batch", scans, "-o", "out", "-p", preset, "--jobs", 0, *words)


@pytest.fixture
def start(tmp_path: Path, medseg_home: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `medseg batch` in a process of its own, with workers; none of them outlives the test."""
    started = []

    def run(*words: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, stand_in.__file__, "batch", *map(str, words)],
            env=medseg_env(medseg_home, {"OMP_NUM_THREADS": "1"}),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def rows(out: Path) -> dict[str, dict[str, Any]]:
    """`cases.jsonl` by id."""
    lines = (out / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert [each["id"] for each in found] == sorted({each["id"] for each in found})
    return {each["id"]: each for each in found}


def statuses(out: Path) -> dict[str, str]:
    return {key: row["status"] for key, row in rows(out).items()}


def outputs(out: Path) -> dict[str, bytes]:
    """Everything that is neither hidden nor made from the records."""
    derived = {"cases.jsonl", "cases.csv", "run.json", "report.html"}
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".medseg" not in path.parts and path.name not in derived
    }


def leftovers(out: Path) -> list[Path]:
    """Files and folders of work that was not finished."""
    work = out / ".medseg" / "work"
    parts = [path for path in out.rglob("*") if ".part" in path.name or path.name.endswith(".pending.json")]
    return [*(work.iterdir() if work.is_dir() else ()), *parts, *out.rglob(".medseg-*")]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_case_has_its_files_and_its_row(batch: Run, scans: Path, tmp_path: Path) -> None:
    code, stdout, err = batch()
    assert (code, stdout) == (0, ""), err
    out = tmp_path / "out"
    assert set(outputs(out)) == {
        f"{case}_seg{suffix}" for case in ("a", "deep/er/b", "deep/c") for suffix in (".nii.gz", ".json", ".png")
    }
    row = rows(out)["deep/er/b"]
    scan, mask = scans / "deep/er/b.nii.gz", out / "deep/er/b_seg.nii.gz"
    assert (row["status"], row["reason"], row["error"]) == ("ok", "", None)
    assert row["input"]["path"] == str(scan)
    assert row["input"]["sha256"] == sha256(scan)
    assert {each["path"]: each["sha256"] for each in row["outputs"]}["deep/er/b_seg.nii.gz"] == sha256(mask)
    assert {each["path"]: each["bytes"] for each in row["outputs"]}["deep/er/b_seg.nii.gz"] == mask.stat().st_size
    volume = stand_in.SIDE**3 / 1000
    assert row["labels"][0]["volume_ml"] == volume
    assert int(np.asanyarray(nib.load(mask).dataobj).sum()) == stand_in.SIDE**3
    assert [each["stage"] for each in row["stages"]] == ["read", "segment", "write", "view"]
    assert row["peak_rss_mib"] > 100
    assert row["worker"]["pid"] == os.getpid()
    assert (out / row["thumbnail"]).is_file()
    table = list(csv.DictReader((out / "cases.csv").open(encoding="utf-8", newline="")))
    assert [each["id"] for each in table] == ["a", "deep/c", "deep/er/b"]
    assert [float(each["volume_ml bright"]) for each in table] == [volume] * 3
    assert [each["mask"] for each in table] == ["a_seg.nii.gz", "deep/c_seg.nii.gz", "deep/er/b_seg.nii.gz"]
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")
    lines = [line for line in err.splitlines() if line.startswith("[")]
    assert [line.split(":")[0] for line in lines] == ["[1/3] a", "[2/3] deep/c", "[3/3] deep/er/b"]
    assert leftovers(out) == []


def test_the_model_is_loaded_once(batch: Run, preset: Path) -> None:
    batch()
    assert len(stand_in.traces(preset, "segment")) == 3
    assert len(stand_in.traces(preset, "load")) == 1


def test_a_case_that_fails_is_a_row_and_the_others_are_done(
    batch: Run, scans: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (scans / "broken.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:2000])
    stand_in.write_scan(scans / "crash.nii.gz", trouble=stand_in.CRASH)
    stand_in.write_scan(scans / "memory.nii.gz", trouble=stand_in.MEMORY)
    stand_in.write_scan(scans / "empty.nii.gz", bright=False)
    code, _, err = batch("--log-json", "log.jsonl")
    assert code == 8, err
    out = tmp_path / "out"
    found = rows(out)
    assert statuses(out) == {
        **dict.fromkeys(("a", "deep/c", "deep/er/b"), "ok"),
        **dict.fromkeys(("broken", "crash", "memory"), "failed"),
        "empty": "flagged",
    }
    assert found["broken"]["error"]["code"] == 3
    assert found["memory"]["error"]["code"] == 5
    crash = found["crash"]["error"]
    assert (crash["code"], crash["kind"]) == (1, "RuntimeError")
    assert "the stand-in crashed" in crash["message"]
    assert crash["hint"]
    assert found["empty"]["flags"][0]["code"] == "empty"
    assert "7 cases: 3 failed, 1 flagged, 3 ok" in err
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    (traceback,) = [each["traceback"] for each in log if each.get("case") == "crash" and "traceback" in each]
    assert "_meet_trouble" in traceback
    assert not [name for name in outputs(out) if name.startswith(("broken", "crash", "memory"))]
    run = json.loads((out / "run.json").read_text())
    assert run["status"] == {"failed": 3, "flagged": 1, "absent": 0, "skipped": 0, "ok": 3}


def test_finished_cases_are_not_run_again(batch: Run, preset: Path, tmp_path: Path) -> None:
    batch()
    before = outputs(tmp_path / "out")
    code, _, err = batch()
    assert code == 0
    assert "3 of 3 cases are finished already" in err
    assert len(stand_in.traces(preset, "segment")) == 3
    assert outputs(tmp_path / "out") == before


@pytest.mark.parametrize("change", ["input", "setting", "weights", "missing", "half", "rotten"])
def test_a_case_is_run_again_when_it_is_not_what_was_recorded(
    batch: Run, scans: Path, preset: Path, tmp_path: Path, change: str
) -> None:
    batch()
    out = tmp_path / "out"
    mask = out / "a_seg.nii.gz"
    before, words, again = mask.read_bytes(), [], ["a.nii.gz"]
    if change == "input":
        stand_in.write_scan(scans / "a.nii.gz", seed=99)
    elif change == "setting":
        words, again = ["--keep", "largest"], ["a.nii.gz", "c.nii.gz", "b.nii.gz"]
    elif change == "weights":
        (preset.parent / "none.safetensors").write_bytes(b"other tensors")
        again = ["a.nii.gz", "c.nii.gz", "b.nii.gz"]
    elif change == "missing":
        mask.unlink()
    elif change == "half":
        mask.write_bytes(before[:100])
    elif change == "rotten":
        mask.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    code, _, err = batch(*words)
    assert code == 0, err
    assert [line.split()[0] for line in stand_in.traces(preset, "segment")][3:] == again
    assert int(np.asanyarray(nib.load(mask).dataobj).sum()) == stand_in.SIDE**3
    assert sha256(mask) == {each["path"]: each["sha256"] for each in rows(out)["a"]["outputs"]}["a_seg.nii.gz"]


def test_a_mask_that_somebody_edited_is_kept_aside(batch: Run, tmp_path: Path) -> None:
    batch()
    mask = tmp_path / "out" / "a_seg.nii.gz"
    mask.write_bytes(b"by hand")
    batch()
    (kept,) = (tmp_path / "out" / ".medseg" / "replaced").rglob("a_seg.nii.gz")
    assert kept.read_bytes() == b"by hand"
    assert "changed by hand" in " ".join(rows(tmp_path / "out")["a"]["notes"])


def test_the_place_of_scans_and_outputs_does_not_matter(
    in_process: Run, scans: Path, preset: Path, tmp_path: Path
) -> None:
    in_process("batch", scans, "-o", "out", "-p", preset, "--jobs", 0)
    scans.rename(tmp_path / "moved")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    code, _, err = in_process("batch", tmp_path / "moved", "-o", "elsewhere", "-p", preset, "--jobs", 0)
    assert code == 0
    assert "3 of 3 cases are finished already" in err


def test_a_file_that_is_not_ours_is_not_replaced(batch: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a_seg.nii.gz").write_bytes(b"of somebody else")
    code, _, err = batch()
    assert code == 8
    assert statuses(out) == {"a": "failed", "deep/c": "ok", "deep/er/b": "ok"}
    assert "--overwrite" in rows(out)["a"]["error"]["hint"]
    assert (out / "a_seg.nii.gz").read_bytes() == b"of somebody else"
    code, _, err = batch("--retry-failed", "--overwrite")
    assert code == 0, err
    assert statuses(out)["a"] == "ok"
    nib.load(out / "a_seg.nii.gz").get_fdata()


def test_failed_cases_are_tried_again_when_asked_or_when_something_changed(
    batch: Run, scans: Path, preset: Path, tmp_path: Path
) -> None:
    bad = stand_in.write_scan(scans / "bad.nii.gz", trouble=stand_in.CRASH)
    assert batch()[0] == 8
    code, _, err = batch()
    assert code == 8
    assert "1 cases failed before" in err
    assert len(stand_in.traces(preset, "segment")) == 4
    assert batch("--retry-failed")[0] == 8
    assert len(stand_in.traces(preset, "segment")) == 5
    stand_in.write_scan(bad)
    assert batch()[0] == 0
    assert statuses(tmp_path / "out")["bad"] == "ok"


def test_a_failure_leaves_what_an_earlier_run_made(batch: Run, scans: Path, tmp_path: Path) -> None:
    batch()
    out = tmp_path / "out"
    before = outputs(out)
    good = (scans / "a.nii.gz").read_bytes()
    (scans / "a.nii.gz").write_bytes(good[:1000])
    assert batch()[0] == 8
    assert statuses(out)["a"] == "failed"
    assert outputs(out) == before
    (scans / "a.nii.gz").write_bytes(good)
    assert batch()[0] == 0
    assert statuses(out)["a"] == "ok"


def test_outputs_that_are_not_made_any_more_go(batch: Run, tmp_path: Path) -> None:
    batch("--format", "nifti,nrrd")
    out = tmp_path / "out"
    assert (out / "a_seg.nrrd").is_file()
    batch("--no-preview")
    assert set(outputs(out)) == {
        f"{case}_seg{end}" for case in ("a", "deep/er/b", "deep/c") for end in (".nii.gz", ".json")
    }


def test_shards_share_a_folder(batch: Run, preset: Path, tmp_path: Path) -> None:
    assert batch("--shard", "1/2")[0] == 0
    assert statuses(tmp_path / "out") == {"a": "ok", "deep/er/b": "ok"}
    assert batch("--shard", "2/2")[0] == 0
    assert statuses(tmp_path / "out") == {"a": "ok", "deep/c": "ok", "deep/er/b": "ok"}
    assert len(stand_in.traces(preset, "segment")) == 3
    for wrong in ("0/2", "3/2", "1", "a/b", "/"):
        assert batch("--shard", wrong)[0] == 2


def test_limit_counts_what_is_run(batch: Run, tmp_path: Path) -> None:
    assert batch("--limit", 2)[0] == 0
    assert len(rows(tmp_path / "out")) == 2
    assert batch("--limit", 2)[0] == 0
    assert len(rows(tmp_path / "out")) == 3


def test_fail_fast_ends_with_the_first_failure(batch: Run, scans: Path, tmp_path: Path) -> None:
    stand_in.write_scan(scans / "0.nii.gz", trouble=stand_in.CRASH)
    code, _, _ = batch("--fail-fast")
    assert code == 8
    found = statuses(tmp_path / "out")
    assert found["0"] == "failed"
    assert found["deep/er/b"] == "skipped"
    assert batch()[0] == 8
    assert statuses(tmp_path / "out") == {"0": "failed", "a": "ok", "deep/c": "ok", "deep/er/b": "ok"}


def test_what_is_wrong_with_the_run_is_found_before_any_case(batch: Run, preset: Path, tmp_path: Path) -> None:
    (preset.parent / "none.safetensors").unlink()
    code, _, err = batch()
    assert code == 4
    assert "none.safetensors are missing" in err
    assert not (tmp_path / "out" / "cases.jsonl").exists()


def test_one_reason_for_all_is_told_by_the_ordinary_code(in_process: Run, tmp_path: Path, preset: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x.nii.gz").write_bytes(b"\x1f\x8b no gzip")
    code, _, err = in_process("batch", "one", "-o", "out", "-p", preset, "--jobs", 0)
    assert code == 3
    assert statuses(tmp_path / "out") == {"x": "failed"}
    assert "error: " in err


def test_a_case_that_cannot_fit_is_not_read(batch: Run, preset: Path, scans: Path, tmp_path: Path) -> None:
    from medseg_cli.batch import budget
    from medseg_cli.batch.case import BatchCase

    case = BatchCase("a", scans / "a.nii.gz", None, None)  # type: ignore[arg-type]
    error = budget.check(case, lambda each: 3 * budget.GIB, 2 * budget.GIB)
    assert error is not None
    assert "3.00 GiB" in error.message
    assert "2.00 GiB" in error.message
    assert budget.check(case, lambda each: budget.GIB, 2 * budget.GIB) is None


def test_cases_that_wait_are_segmented_together(
    start: Callable[..., subprocess.Popen[str]], in_process: Run, scans: Path, tmp_path: Path
) -> None:
    for number in range(5):
        stand_in.write_scan(scans / f"n{number}.nii.gz", seed=10 + number)
    stand_in.write_scan(scans / "n-bad.nii.gz", trouble=stand_in.CRASH)
    slow = stand_in.write_preset(tmp_path / "slow", seconds=0.3)
    process = start(scans, "-o", "out", "-p", slow, "--jobs", 0, "--device", "cpu", "--together", 4)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 8, err
    groups = [len(line.split()) - 1 for line in stand_in.traces(slow, "together")]
    assert max(groups) > 1
    assert max(groups) <= 4
    assert {key for key, status in statuses(tmp_path / "out").items() if status != "ok"} == {"n-bad"}
    assert "segmented together with" in " ".join(
        note for row in rows(tmp_path / "out").values() for note in row["notes"]
    )
    alone = stand_in.write_preset(tmp_path / "alone")
    in_process("batch", scans, "-o", "one", "-p", alone, "--jobs", 0, "--device", "cpu")
    assert stand_in.traces(alone, "together") == []
    for name in statuses(tmp_path / "one"):
        if name != "n-bad":
            shared = tmp_path / "out" / f"{name}_seg.nii.gz"
            assert shared.read_bytes() == (tmp_path / "one" / f"{name}_seg.nii.gz").read_bytes()


def test_a_format_that_does_not_go_with_a_scan_is_left_out_of_its_outputs(batch: Run, tmp_path: Path) -> None:
    assert batch("--format", "nifti,dicom-seg")[0] == 0
    row = rows(tmp_path / "out")["a"]
    assert [each["kind"] for each in row["outputs"]] == ["preview", "report", "nifti"]
    assert "dicom-seg left out" in " ".join(row["notes"])
    code, _, err = batch("--format", "dicom-seg")
    assert code == 8, err
    assert "dicom-seg refers to the DICOM series" in rows(tmp_path / "out")["a"]["reason"]


def test_json_prints_the_summary(batch: Run) -> None:
    code, stdout, _ = batch("--json", "--quiet")
    assert code == 0
    summary = json.loads(stdout)
    assert summary["status"]["ok"] == summary["cases"] == 3
    assert summary["schema"] == "medseg-batch-run/1"


def test_quiet_says_nothing(batch: Run) -> None:
    assert batch("--quiet") == (0, "", "")


@posix
def test_workers_hold_a_model_each_and_one_that_dies_costs_one_row(
    start: Callable[..., subprocess.Popen[str]], scans: Path, preset: Path, tmp_path: Path
) -> None:
    for number in range(4):
        stand_in.write_scan(scans / f"more{number}.nii.gz", seed=number)
    stand_in.write_scan(scans / "dies.nii.gz", trouble=stand_in.DIE)
    stand_in.write_scan(scans / "once.nii.gz", trouble=stand_in.DIE_ONCE)
    process = start(scans, "-o", "out", "-p", preset, "--jobs", 2, "--device", "cpu")
    stdout, err = process.communicate(timeout=240)
    assert (process.returncode, stdout) == (8, ""), err
    out = tmp_path / "out"
    found = rows(out)
    assert {key for key, row in found.items() if row["status"] == "failed"} == {"dies"}
    assert len(found) == 9
    assert found["dies"]["error"]["code"] == 5
    assert "SIGKILL" in found["dies"]["reason"]
    assert len({row["worker"]["pid"] for row in found.values()} - {process.pid}) >= 2
    loads = stand_in.traces(preset, "load")
    assert len(loads) == len(set(loads)), "a process loaded its model twice"
    assert leftovers(out) == []


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_tells_what_it_has_and_goes_on_later(
    start: Callable[..., subprocess.Popen[str]], in_process: Run, scans: Path, tmp_path: Path, number: int
) -> None:
    preset = stand_in.write_preset(tmp_path / "slow")
    slow = stand_in.write_scan(scans / "b-slow.nii.gz", trouble=stand_in.SLEEP)
    process = start(scans, "-o", "out", "-p", preset, "--device", "cpu")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/4] a: ok"):
            break
    _wait(lambda: "b-slow" in " ".join(stand_in.traces(preset, "segment")))
    process.send_signal(number)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - began < 30
    assert "Traceback" not in err
    out = tmp_path / "out"
    assert statuses(out) == {"a": "ok", "b-slow": "skipped", "deep/c": "skipped", "deep/er/b": "skipped"}
    assert json.loads((out / "run.json").read_text())["ended"] == "interrupted"
    assert (out / "report.html").is_file()
    assert leftovers(out) == []
    stand_in.write_scan(slow)
    code, _, err = in_process("batch", scans, "-o", "out", "-p", preset, "--jobs", 0, "--device", "cpu")
    assert code == 0, err
    assert set(statuses(out).values()) == {"ok"}
    assert len(stand_in.traces(preset, "segment")) == 2 + 3


@posix
@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_waits_for_what_is_being_written_and_a_second_one_does_not(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, presses: int
) -> None:
    preset, out = stand_in.write_preset(tmp_path / "preset", above=100.0), tmp_path / "out"
    stand_in.write_scan(tmp_path / "scans" / "a.nii.gz", size=256)
    stand_in.write_scan(tmp_path / "scans" / "b.nii.gz", size=20, trouble=stand_in.SLEEP)
    process = start("scans", "-o", "out", "-p", preset, "--device", "cpu")
    _wait(lambda: bool(list((out / ".medseg" / "work").glob("*/*/*_seg.nii.gz"))), 120)
    process.send_signal(signal.SIGINT)
    if presses == 2:
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    if presses == 1:
        assert "cases that are being written are waited for" in err
        assert statuses(out) == {"a": "flagged", "b": "skipped"}
        assert leftovers(out) == []
    else:
        assert not (out / "cases.jsonl").exists()
        assert outputs(out) == {}


def _wait(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _records(out: Path) -> dict[str, dict[str, Any]]:
    folder = out / ".medseg" / "cases"
    files = [path for path in folder.glob("*.json") if not path.name.endswith(".pending.json")]
    return {found["id"]: found for found in (json.loads(path.read_text()) for path in files)}


def _check_nothing_is_half(out: Path) -> set[str]:
    """Every recorded case is whole, whatever was killed; the ids of those."""
    for row in _records(out).values():
        for each in row["outputs"]:
            assert sha256(out / each["path"]) == each["sha256"], f"{each['path']} is not what was recorded"
    for mask in [path for path in out.rglob("*_seg.nii.gz") if ".medseg" not in path.parts]:
        np.asanyarray(nib.load(mask).dataobj)  # a half gzip stream cannot be read
    return set(_records(out))


def _kill_while_writing(process: subprocess.Popen[str], out: Path, more_than: int, delay: float) -> None:
    """Wait until a mask is being written and a case more is done, then kill the run, and its worker with it."""

    def writing() -> bool:
        assert process.poll() is None, process.communicate()[1]
        drafts = list((out / ".medseg" / "work").glob("*/*/*_seg.nii.gz"))
        return bool(drafts) and len(_records(out)) > more_than

    _wait(writing, 120)
    time.sleep(delay)
    process.kill()
    process.wait()


@posix
@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_kill_9_while_a_case_is_written_loses_no_case_and_leaves_no_half_file(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, kills: int
) -> None:
    cases, random = 3 * kills + 4, np.random.default_rng(7)
    # Half of all voxels, at random: a mask that takes long to pack.
    preset = stand_in.write_preset(tmp_path / "preset", above=100.0)
    for number in range(cases):
        stand_in.write_scan(tmp_path / "scans" / f"s{number:02}.nii.gz", seed=number, size=110)
    out, finished, words = tmp_path / "out", set[str](), ("scans", "-o", "out", "-p", preset, "--device", "cpu")
    for _ in range(kills):
        _kill_while_writing(start(*words), out, len(finished), float(random.uniform(0, 0.15)))
        _wait(lambda: not _alive(stand_in.traces(preset, "segment")))
        now = _check_nothing_is_half(out)
        assert finished < now
        finished = now
    begun = len(stand_in.traces(preset, "segment"))
    process = start(*words)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    # Moved but not yet recorded when the process died: taken as done. At most one case more than the records said.
    again = len(stand_in.traces(preset, "segment")) - begun
    assert cases - len(finished) - 1 <= again <= cases - len(finished)
    assert _check_nothing_is_half(out) == {f"s{number:02}" for number in range(cases)}
    assert set(statuses(out).values()) == {"flagged"}  # such a mask reaches the edge of the scan
    assert len(outputs(out)) == 3 * cases
    assert leftovers(out) == []


def _alive(traces: list[str]) -> bool:
    """Whether any process that left a trace still runs: a worker ends when the one that started it does."""
    return any(Path(f"/proc/{pid}").exists() for pid in {line.split()[-1] for line in traces})


def test_outputs_that_were_moved_before_the_record_was_are_taken_as_done(
    batch: Run, preset: Path, tmp_path: Path
) -> None:
    """As a process leaves them that dies between the two."""
    batch()
    out = tmp_path / "out"
    for path in (out / ".medseg" / "cases").glob("*.json"):
        path.rename(path.with_name(path.name.replace(".json", ".pending.json")))
    code, _, err = batch()
    assert code == 0
    assert "3 of 3 cases are finished already" in err
    assert leftovers(out) == []


def test_outputs_that_were_moved_in_part_are_made_again(batch: Run, tmp_path: Path) -> None:
    """As a process leaves them that dies between two renames: report and picture are there, the mask is not."""
    batch()
    out = tmp_path / "out"
    for path in (out / ".medseg" / "cases").glob("*.json"):
        path.rename(path.with_name(path.name.replace(".json", ".pending.json")))
    (out / "a_seg.nii.gz").unlink()
    code, _, err = batch()
    assert code == 0, err
    assert "2 of 3 cases are finished already" in err
    assert statuses(out)["a"] == "ok"
    assert leftovers(out) == []


@posix
@pytest.mark.slow
def test_two_runs_at_once_into_one_folder(
    start: Callable[..., subprocess.Popen[str]], scans: Path, preset: Path, tmp_path: Path
) -> None:
    words = (scans, "-o", "out", "-p", preset, "--device", "cpu", "--jobs", 0)
    both = [start(*words), start(*words)]
    for process in both:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    out = tmp_path / "out"
    assert _check_nothing_is_half(out) == {"a", "deep/c", "deep/er/b"}
    assert set(statuses(out).values()) == {"ok"}
    assert leftovers(out) == []


def test_what_a_live_process_works_on_is_left_alone(tmp_path: Path) -> None:
    from medseg_cli.batch import workspace

    code = (
        "import sys, time; from pathlib import Path; from medseg_cli.batch import workspace\n"
        "print(workspace.own(Path(sys.argv[1])), flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        theirs, mine = Path(other.stdout.readline().strip()), workspace.own(tmp_path)
        (theirs / "mask").write_text("half")
        workspace.clear_dead(tmp_path)
        assert (theirs / "mask").exists()
        assert mine.is_dir()
        other.kill()
        other.wait()
        workspace.clear_dead(tmp_path)
        assert not theirs.exists()
        assert mine.is_dir()
    finally:
        other.kill()
        workspace.release(tmp_path)
    assert list((tmp_path / ".medseg" / "work").iterdir()) == []
