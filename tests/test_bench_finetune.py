"""The tables of `make bench-finetune`, from rows whose numbers are known, and its command line on a tiny dataset."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import bench_finetune as bench


def row(method: str, cases: int | None, dice: float, **changes: Any) -> dict[str, Any]:
    return {
        "task": "hippocampus-mr",
        "method": method,
        "prompt": "one click",
        "training_cases": cases,
        "steps": 100,
        "dice": dice,
        "dice_low": dice - 0.01,
        "dice_high": dice + 0.01,
        "command_seconds": 90.4,
        "training_peak_mib": 900.0,
        "test_cases": 12,
    } | changes


ROWS = [
    row("clicks", None, 0.30),
    row("clicks", 5, 0.55),
    row("clicks", 143, 0.60),
    row("plain", None, 0.05, dice_low=None, dice_high=None),
    row("plain", 5, 0.50),
    row("plain", 143, 0.80),
]


def test_the_table_says_gains_and_marks_the_better_one() -> None:
    table = bench.table_of(ROWS)
    assert table[0] == "Held back: 12 cases. Prompts:"
    assert "| clicks | none | **0.300** (0.290 to 0.310) |  |  |  |  |" in table
    assert "| plain | none | 0.050 |  |  |  |  |" in table
    assert "| clicks | 5 | **0.550** (0.540 to 0.560) | +0.250 | 100 | 90 s | 900 MiB |" in table
    assert "| plain | 5 | 0.500 (0.490 to 0.510) | +0.450 | 100 | 90 s | 900 MiB |" in table
    assert "| plain | 143 | **0.800** (0.790 to 0.810) | +0.750 | 100 | 90 s | 900 MiB |" in table
    counts = [line.split("|")[2].strip() for line in table if line.startswith(("| clicks", "| plain"))]
    assert counts == ["none", "none", "5", "5", "143", "143"]


def test_a_loss_is_shown_as_one_and_a_lone_method_is_not_marked() -> None:
    table = bench.table_of([row("clicks", None, 0.30), row("clicks", 5, 0.25)])
    assert any("| -0.050 |" in line for line in table)
    assert not any("**" in line for line in table)


def test_the_page_holds_the_tasks_that_were_run() -> None:
    page = bench.page_of(ROWS, 150, "one core")
    assert "about 150 s of training steps" in page
    assert "## Anterior and posterior hippocampus" in page
    assert "has seen" in page or "have seen" in page, "the embedded preset's training cases are named"
    assert "Seven organs" not in page


def test_a_steps_time_leaves_the_imports_out() -> None:
    log = [{"step": "4", "seconds": "20.0"}, {"step": "8", "seconds": "24.0"}, {"step": "12", "seconds": "28.0"}]
    assert bench.seconds_per_step(log) == 1.0
    assert bench.seconds_per_step(log[-1:]) == pytest.approx(28 / 12)


def test_finished_rows_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = bench.TASKS[0]
    asked = []

    def measure(task, method, data, folder, split, cases, seconds, known):
        asked.append((method.name, cases))
        if len(asked) == 4:
            raise SystemExit("interrupted")
        return row(method.name, cases, 0.5)

    ids = [str(number) for number in range(20)]
    monkeypatch.setattr(bench, "split_of", lambda data: {"train": ids, "validation": ids, "test": ids})
    monkeypatch.setattr(bench, "measure", measure)
    with pytest.raises(SystemExit):
        list(bench.rows_of(task, tmp_path, tmp_path, 1))
    rows = list(bench.rows_of(task, tmp_path, tmp_path, 1))
    sizes = (None, 5, 20, bench.ALL)
    assert len(rows) == len(task.methods) * len(sizes)
    assert len(asked) == len(rows) + 1, "only the interrupted one was asked for twice"


def test_a_preset_with_changes_keeps_its_weights(tmp_path: Path) -> None:
    from medseg_cli import preset, weights

    method = bench.TASKS[1].methods[0]
    found = preset.find(bench.preset_of(method, tmp_path))
    assert found.preprocessing.spacing == (3.0, 3.0, 3.0)
    assert found.options == {"max_crops": 8}
    assert weights.resolve(found).sha256 == preset.find("hippocampus-mr").weights_sha256


@pytest.mark.slow
def test_the_whole_of_it_on_a_tiny_dataset(medseg_home: Path, tmp_path: Path, monkeypatch) -> None:
    """Training and evaluation through the command line, from the trial to the page."""
    rng = np.random.default_rng(0)
    entries = []
    for number in range(6):
        image = rng.normal(0, 10, (16, 16, 16)).astype(np.float32)
        image[4:10, 4:10, 4:10] += 100
        labels = np.zeros((16, 16, 16), np.uint8)
        labels[4:10, 4:10, 4:10] = 1
        for kind, data in (("image", image), ("label", labels)):
            folder = tmp_path / "data" / "hippocampus-mr"
            folder.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(data, np.eye(4)), folder / f"{kind}{number}.nii.gz")
        entries.append({"image": f"image{number}.nii.gz", "label": f"label{number}.nii.gz"})
    (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "box"}, "training": entries}))
    task = bench.Task("hippocampus-mr", "Boxes", (2,), 1, 1, "apart", (bench.UNET,), "A test.")
    script = f"import bench_finetune as b, sys; from pathlib import Path;b.TASKS = (b.{task!r},);".replace(
        "methods=(Method", "methods=(b.Method"
    )
    script += (
        f"sys.argv = ['x', '--data', {str(tmp_path / 'data')!r}, '--work', {str(tmp_path / 'work')!r}, "
        "'--seconds', '1', '--page', 'page.md']; b.main()"
    )
    from conftest import ROOT, medseg_env

    env = medseg_env(medseg_home, {})
    env["PYTHONPATH"] += f":{ROOT / 'examples'}"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "work" / "rows.json").read_text())
    assert [each["training_cases"] for each in rows] == [None, 2]
    assert all(0 <= each["dice"] <= 1 and each["training_peak_mib"] > 100 for each in rows)
    assert rows[0]["dice_by_label"].keys() == {"box"}
    assert "| dynunet-baseline | 2 |" in (tmp_path / "page.md").read_text()
