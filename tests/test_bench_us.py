"""The benchmark of ultrasound networks: its small mode runs every row, and a wrong result is no speed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROWS = (
    "SAMUS encoder (",
    "SAMUS decoder, 8 clicks",
    "SAMUS, 1 click",
    "SAMUS, 8 clicks on one picture",
    "SAMUS encoder, gradients",
    "CC-SAM encoder",
    "CC-SAM, no prompt",
    "CC-SAM, 2 draws",
    "CC-SAM, 8 draws",
)


@pytest.fixture
def bench(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, importable: the files import each other as scripts do."""
    folder = root / "kernels" / "bench"
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_every_row_of_the_networks_is_measured_and_written(bench: Path, tmp_path: Path) -> None:
    import bench_us

    figures, table = tmp_path / "figures.json", tmp_path / "page.md"
    asked = ["--small", "--only", "samus", "--only", "cc-sam", "--rounds", "1"]
    bench_us.main([*asked, "--json", str(figures), "--page", str(table)])
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert {"command", "date", "hardware", "threads", "clock", "seed", "torch"} <= set(found)
    text = table.read_text(encoding="utf-8")
    assert len(found["rows"]) == len(ROWS)
    for row, what in zip(found["rows"], ROWS, strict=True):
        assert row["what"].startswith(what)
        assert row["ratio"] == pytest.approx(row["baseline_ms"] / row["ours_ms"], rel=0.05, abs=0.02)
        assert 0 <= row["difference"] < 1e-3
        assert f"| {row['what']} |" in text


def test_frames_together_are_held_against_single_ones(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two empty masks would have no distance, and no speed."""
    import measuring
    import us_cine

    monkeypatch.setattr(measuring, "ROUNDS", 1)
    row = us_cine.row(2, 0)
    assert row.what.startswith("cine of 2 frames")
    assert row.difference < us_cine.MASKS


def test_a_formula_that_differs_gives_no_speed(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forgotten half in the tail of SAMUS's encoder, planted in the formulas."""
    import bench_us
    import us_formulas

    monkeypatch.setattr(us_formulas, "SHARE", 0.6)
    with pytest.raises(SystemExit, match=r"SAMUS encoder .* results differ by"):
        bench_us.main(["--small", "--only", "samus", "--rounds", "1"])
