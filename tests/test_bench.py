"""The whole-command benchmark: its small mode runs, its figures are well formed, and a wrong result is no speed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

STAGES = (
    "read .nii.gz",
    "window",
    "resample to 1.5 mm",
    "paste a probability back",
    "keep the largest",
    "write the mask",
)


@pytest.fixture
def bench(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, importable: the files import each other as scripts do."""
    folder = root / "kernels" / "bench"
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_the_small_ct_runs_and_writes_figures_and_page(bench: Path, root: Path, tmp_path: Path) -> None:
    figures, tables = tmp_path / "figures.json", tmp_path / "page.md"
    command = [sys.executable, str(bench / "bench_command.py"), "--small", "--only", "ct"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "kernels")])}
    done = subprocess.run(
        [*command, "--json", str(figures), "--page", str(tables)], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads(figures.read_text(encoding="utf-8"))
    assert {"command", "date", "hardware", "cores", "threads", "load", "versions", "seed"} <= set(run["setting"])
    assert run["setting"]["versions"]["torch"]
    assert len(run["rows"]) == len(STAGES)
    for row, stage in zip(run["rows"], STAGES, strict=True):
        assert row["stage"].startswith(stage)
        assert row["naive_ms"] > 0
        assert row["ours_ms"] > 0
        assert row["ratio"] == pytest.approx(row["naive_ms"] / row["ours_ms"], rel=0.05, abs=0.02)
        assert 0 <= row["difference"] <= row["tolerance"]
        assert f"{row['difference']:.1e}" in tables.read_text(encoding="utf-8")
    assert "6 rows, 0 FAILED" in done.stdout


def test_a_wrong_result_fails_and_carries_no_time(
    bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cleaning that forgets one voxel, planted under the real benchmark."""
    import bench_command
    from bench_stages import postprocess

    clean = postprocess.clean

    def forgetful(mask, *rest):
        cleaned = clean(mask, *rest)
        i, j, k = (axis[0] for axis in cleaned.mask.nonzero())
        cleaned.mask[i, j, k] = False
        return cleaned

    monkeypatch.setattr(postprocess, "clean", forgetful)
    figures, tables = tmp_path / "figures.json", tmp_path / "page.md"
    code = bench_command.main(["--small", "--only", "ct", "--json", str(figures), "--page", str(tables)])
    assert code == 1
    (wrong,) = (row for row in json.loads(figures.read_text(encoding="utf-8"))["rows"] if row["ratio"] is None)
    assert wrong["stage"].startswith("keep the largest")
    assert wrong["naive_ms"] is None
    assert wrong["ours_ms"] is None
    assert "FAILED ct, keep the largest" in capsys.readouterr().out
    assert "- | - | FAILED" in tables.read_text(encoding="utf-8")


def test_results_that_cannot_be_compared_have_failed(bench: Path) -> None:
    import numpy as np
    from gated import compare, largest, relative, share

    for distance in (largest, relative, share):
        assert compare("ct", "shapes", lambda: np.ones(3), lambda: np.ones(4), distance, 1e9).failed
    assert compare("ct", "nan", lambda: np.ones(3), lambda: np.full(3, np.nan), largest, 1e9).failed
    assert not compare("ct", "equal", lambda: np.ones(3), lambda: np.ones(3)).failed


def test_the_page_says_which_goals_were_missed(bench: Path) -> None:
    from dataclasses import asdict

    from bench_page import page
    from gated import Row

    rows = [
        asdict(Row("ct", "read", 100.0, 50.0, 2.0, 0.0, 0.0, goal=2.5)),
        asdict(Row("ct", "write", 100.0, 5.0, 20.0, 0.0, 0.0, goal=10.0)),
        asdict(Row("ct", "wrong", None, None, None, 1.0, 0.0, goal=10.0)),
    ]
    setting = {
        "command": "c", "date": "d", "hardware": "h", "cores": 2, "threads": 2, "load": [0.1, 0.2],
        "versions": {"torch": "2"}, "seed": 0, "volume": "v", "ct": "512 x 512 x 300", "json": "j",
    }  # fmt: skip
    text = page({"setting": setting, "rows": rows, "commands": []})
    assert "1 of 3 goals were met" in text
    assert "missed: ct, read: 2.0, goal 2.5" in text
    assert "missed: ct, wrong: FAILED, goal 10.0" in text
    assert "512 x 512 x 300" in text


def test_the_share_of_resampling_and_export_is_added_up_from_stages_and_rows(bench: Path) -> None:
    from bench_command import export_share
    from gated import Row

    stages = [
        {"stage": "segment/postprocess", "seconds": 0.3},
        {"stage": "segment", "seconds": 4.0},
        {"stage": "write", "seconds": 0.5},
    ]
    rows = [
        Row("volume", "a crop of 48³", 9.0, 100.0, 1.0, 0.0, 0.0),
        Row("volume", "paste a probability", 9.0, 200.0, 1.0, 0.0, 0.0),
        Row("ct", "paste a probability", 9.0, 9000.0, 1.0, 0.0, 0.0),
    ]
    whole = {"case": "volume", "wall_s": 10.0, "stages": stages, "crops": 3, "objects": 2}
    assert export_share(whole, rows) == pytest.approx((0.3 + 0.5 + 3 * 0.1 + 2 * 0.2) / 10)
    assert export_share({**whole, "case": "ct"}, rows) == pytest.approx(0.08)


def test_the_page_says_which_commands_miss_the_goal_of_export(bench: Path) -> None:
    from bench_page import page

    setting = {"command": "c", "date": "d", "hardware": "h", "cores": 2, "threads": 2, "load": [0, 0], "versions": {}}
    one = {"case": "image", "command": "medseg", "wall_s": 5.0, "stages": [], "peak_mib": 900.0}
    one |= {"scan_mib": 1.5, "naive_peak_mib": 950.0}
    setting |= {"seed": 0, "volume": "", "ct": "", "json": "out/bench/bench.json"}
    commands = [{**one, "export_share": 0.1}, {**one, "case": "ct", "export_share": 0.101}]
    text = page({"setting": setting, "rows": [], "commands": commands})
    assert "| image | 2 | 900 | 950 | 10.0% | met |" in text
    assert "| ct | 2 | 900 | 950 | 10.1% | missed |" in text
