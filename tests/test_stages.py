"""Stages: time and memory against what the stage really did."""

from __future__ import annotations

import mmap
import time

import pytest

from medseg_cli import stages as module
from medseg_cli.stages import Stage, Stages

MIB = 2**20


def touch(mib: int) -> int:
    """Use that much fresh memory, then give it back to the system, which an allocator need not do."""
    with mmap.mmap(-1, mib * MIB) as memory:
        for page in range(0, len(memory), 4096):
            memory[page] = 1
        return len(memory)


def test_seconds_and_order() -> None:
    stages = Stages()
    with stages("outer"):
        with stages("inner"):
            time.sleep(0.05)
        time.sleep(0.02)
    with stages("next"):
        pass
    names = [stage.stage for stage in stages.finished]
    assert names == ["outer/inner", "outer", "next"]
    inner, outer, _ = stages.finished
    assert inner.seconds >= 0.05
    assert outer.seconds >= inner.seconds + 0.02
    assert stages.seconds == pytest.approx(outer.seconds + stages.finished[2].seconds)
    assert [record["stage"] for record in stages.records] == names


@pytest.mark.skipif(not module.CAN_RESET, reason="this system does not let a process reset its memory high-water mark")
def test_each_stage_has_its_own_memory_peak() -> None:
    stages = Stages()
    with stages("big"):
        with stages("small"):
            touch(1)
        touch(300)
        with stages("late"):
            touch(1)
    with stages("after"):
        touch(1)
    peak = {stage.stage: stage.peak_rss_mib or 0 for stage in stages.finished}
    assert peak["big"] > peak["after"] + 250
    assert peak["big"] > peak["big/small"] + 250
    assert peak["big"] > peak["big/late"] + 250, "an inner stage must not inherit what came before it"
    assert {stage.peak_rss_scope for stage in stages.finished} == {"stage"}


def test_without_reset_the_scope_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CAN_RESET", False)
    stages = Stages()
    with stages("only"):
        pass
    assert stages.finished[0].peak_rss_scope == "process"
    assert (stages.finished[0].peak_rss_mib or 0) > 10


def test_a_stage_that_fails_leaves_no_record_and_harms_no_other() -> None:
    seen: list[tuple[str, Stage | None]] = []
    stages = Stages(lambda name, stage: seen.append((name, stage)))

    def fail() -> None:
        with stages("outer"), stages("bad"):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    with stages("good"):
        pass
    assert [stage.stage for stage in stages.finished] == ["good"]
    assert [(name, stage is None) for name, stage in seen] == [
        ("outer", True),
        ("bad", True),
        ("good", True),
        ("good", False),
    ]


@pytest.mark.gpu
def test_cuda_peak_is_what_torch_allocated() -> None:
    import torch

    torch.zeros(1, device="cuda")
    stages = Stages()
    with stages("big"):
        block = torch.zeros(64 * MIB, dtype=torch.uint8, device="cuda")
        del block
    with stages("small"):
        pass
    big, small = stages.finished
    assert (big.peak_cuda_mib or 0) >= 64
    assert (small.peak_cuda_mib or 0) < 64
