"""Memory of a run grows neither with the labels nor with the slices, but for scan and mask; in fresh processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are measured by Linux")

ADDED = """
import json, sys
import numpy as np, torch
from pathlib import Path
from peak_memory import peak
from bench_memory import preset
from medseg_cli import device, pipelines, preset as presets, working_scan
from medseg_cli.pipelines import dynunet
from medseg_cli.prompt import Prompt
from medseg_cli.scan import Provenance, Scan
from medseg_cli.stages import Stages

dynunet.SCORES, working_scan.HELD, working_scan.SLAB = 1 << 22, 1 << 18, 1 << 18
depth, labels = int(sys.argv[1]), int(sys.argv[2])
chosen = presets.find(str(preset(Path(sys.argv[3]), labels, 32)))
spaced = chosen.preprocessing.model_copy(update={"spacing": (1.1, 1.1, 1.0)})
chosen = chosen.model_copy(update={"preprocessing": spaced})
pipeline = pipelines.build(chosen, device.select("cpu"), random_weights=True)

def scan(depth):
    voxels = np.random.default_rng(0).normal(0, 90, (1, 96, 96, depth)).astype(np.float32)
    return Scan(voxels, np.diag([1.0, 1.0, 1.0, 1.0]), Provenance(Path("x"), "nifti", "0" * 64))

pipeline.segment(scan(20), Prompt(), Stages())  # what torch and the allocator take once
taken = scan(depth)
print(peak(lambda: pipeline.segment(taken, Prompt(), Stages()), torch.device("cpu")))
"""


@pytest.fixture
def bench(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, importable: the files import each other as scripts do."""
    folder = root / "kernels" / "bench"
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest.fixture
def environment(root: Path, bench: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (root, root / "kernels", bench))),
        "OMP_NUM_THREADS": "1",
    }


def added(depth: int, labels: int, environment: dict[str, str], folder: Path) -> float:
    """MiB that segmenting 96 x 96 x `depth` voxels adds to a process which holds the scan."""
    line = [sys.executable, "-c", ADDED, str(depth), str(labels), str(folder)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout) / 2**20


@pytest.mark.parametrize(("depth", "labels"), [pytest.param(200, 20, marks=pytest.mark.slow), (80, 60)])
def test_memory_grows_neither_with_slices_nor_with_labels(
    depth: int, labels: int, environment: dict[str, str], tmp_path: Path
) -> None:
    """Of the scores on the scan's grid alone, not half would fit."""
    naive = (labels + 1) * 96 * 96 * depth * 4 / 2**20
    assert added(depth, labels, environment, tmp_path) < 60 < naive / 2


@pytest.mark.slow
def test_the_benchmark_compares_and_writes_its_page(bench: Path, environment: dict[str, str], tmp_path: Path) -> None:
    figures, text = tmp_path / "memory.json", tmp_path / "memory.md"
    line = [sys.executable, str(bench / "bench_memory.py"), "--sizes", "64,60,40,5", "--patch", "16", "--no-command"]
    line += ["--json", str(figures), "--page", str(text)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads(figures.read_text(encoding="utf-8"))["rows"]
    assert row["shape"] == [64, 60, 40]
    assert row["labels"] == 5
    assert 0 <= row["difference"] <= 1e-4
    assert row["naive"]["peak_gib"] > 0.1
    assert row["ours"]["seconds"] > 0
    assert f"| 64 x 60 x 40 | 5 | {row['naive']['peak_gib']:.2f} GiB" in text.read_text(encoding="utf-8")


def test_results_that_differ_and_too_little_memory_are_said(bench: Path) -> None:
    from bench_memory import Cost, Row, needs
    from memory_page import _row

    cost = Cost(2.0, 1.0)
    assert Row((1, 1, 1), 2, 1.0, cost, cost, 0.01).failed
    assert Row((1, 1, 1), 2, 1.0, cost, cost, float("nan")).failed
    assert not Row((1, 1, 1), 2, 1.0, None, cost, None).failed
    row = {"shape": [5, 6, 7], "labels": 3, "needs_gib": 99.2, "naive": None, "ours": vars(cost), "difference": None}
    assert "needs about 99 GiB" in _row(row)
    # 21 classes of 157 million voxels in float32 alone
    assert needs((512, 512, 600), 20) > 21 * 512 * 512 * 600 * 4 / 2**30


@pytest.mark.slow
def test_a_ct_of_512_by_512_by_600_with_20_labels_takes_less_than_8_gb(bench: Path, tmp_path: Path) -> None:
    from bench_memory import GOAL_GIB, command

    whole = command(tmp_path, "512,512,600,20", 96)
    assert whole["peak_gib"] < GOAL_GIB * 1e9 / 2**30
    assert max(stage["peak_rss_mib"] for stage in whole["stages"]) / 1024 < GOAL_GIB
