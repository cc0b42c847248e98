"""2-D networks encode slices in batches and keep what they made of them, in memory and on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from slice_phantom import SMALL, box_round, boxed, build, clicked, facts, segment, small

pytestmark = pytest.mark.usefixtures("fifth_pipeline")


def test_batches_change_nothing_but_their_number(tmp_path: Path) -> None:
    scan, truth = small()
    box = box_round(truth.any(axis=2, keepdims=True) & np.ones(SMALL, bool), 2, 2, 27)
    results = {}
    for batch in (1, 4, 100):
        pipeline = build(tmp_path, batch=batch)
        results[batch] = segment(pipeline, scan, boxed(box)).mask
        assert sum(pipeline.model.encoded) == 26
        assert max(pipeline.model.encoded) == min(batch, 26)
        assert len(pipeline.model.encoded) == -(-26 // batch)
    assert np.array_equal(results[1] == 1, truth & (np.arange(30) >= 2) & (np.arange(30) <= 27))
    assert np.array_equal(results[1], results[4])
    assert np.array_equal(results[1], results[100])


def test_the_next_prompt_on_the_same_scan_finds_the_embeddings(tmp_path: Path) -> None:
    scan, truth = small()
    pipeline = build(tmp_path)
    first = segment(pipeline, scan, boxed(box_round(truth, 2, 14)))
    second = segment(pipeline, scan, clicked((20.0, 18.0, 14.0)))
    assert facts(first) == (20, 20, 0)
    assert facts(second) == (20, 0, 20)
    assert sum(pipeline.model.encoded) == 20
    assert np.array_equal(first.mask, second.mask)


def test_embeddings_on_disk_serve_the_next_run(tmp_path: Path) -> None:
    scan, truth = small()
    settings = {"embedding_cache": str(tmp_path / "embeddings")}
    target = boxed(box_round(truth, 2, 14))
    first = segment(build(tmp_path, **settings), scan, target)
    pipeline = build(tmp_path, **settings)
    second = segment(pipeline, scan, target)
    assert facts(second) == (20, 0, 20)
    assert pipeline.model.encoded == []
    assert np.array_equal(first.mask, second.mask)
    # Other pictures, another input size and other weights are other embeddings.
    brighter = replace(scan, voxels=np.where(scan.voxels > 100, 500, scan.voxels - 2).astype(np.float32))
    assert facts(segment(build(tmp_path, **settings), replace(brighter, modality="CT"), target))[2] == 0
    assert facts(segment(build(tmp_path, size=64, **settings), scan, target))[2] == 0
    assert facts(segment(build(tmp_path, alike=(0.09, 0.02), **settings), scan, target))[2] == 0
    assert facts(segment(build(tmp_path, fit="stretch", **settings), scan, target))[2] == 0


def test_the_formulas_are_not_answered_from_the_embeddings_of_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, truth = small()
    pipeline = build(tmp_path, propagate=False)
    target = boxed(box_round(truth, 2, 14))
    segment(pipeline, scan, target)
    monkeypatch.setenv("MEDSEG_KERNELS", "reference")
    first, second = segment(pipeline, scan, target), segment(pipeline, scan, target)
    assert (facts(first), facts(second)) == ((1, 1, 0), (1, 0, 1))
    assert first.provenance["kernels"] == "reference"


def test_embeddings_can_be_kept_nowhere(tmp_path: Path) -> None:
    scan, truth = small()
    pipeline = build(tmp_path, memory_mb=0)
    for _ in range(2):
        assert facts(segment(pipeline, scan, boxed(box_round(truth, 2, 14)))) == (20, 20, 0)
