"""Benchmark rows for a GPU: what they count, and that every one of them runs, on a CPU at small sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from medseg_kernels.decoder_attention import image_to_token_reference, token_to_image_reference
from medseg_kernels.depthwise_conv3d import depthwise_conv3d_reference
from medseg_kernels.relpos_attention import relpos_attention_reference
from medseg_kernels.upscaled_masks import upscaled_masks_reference
from torch.utils.flop_counter import FlopCounterMode

from medseg_cli.models.sam3d.config import Sam3dConfig
from medseg_cli.models.sam3d.decoder import MaskDecoder
from medseg_cli.models.sam3d.encoder import Block, Neck


@pytest.fixture(autouse=True)
def bench(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files import each other as scripts do. Counted is what the formulas compute."""
    monkeypatch.syspath_prepend(str(root / "kernels" / "bench"))
    monkeypatch.setenv("MEDSEG_KERNELS", "reference")


def counted(run, *given) -> int:
    with FlopCounterMode(display=False) as counter:
        run(*given)
    return counter.get_total_flops()


@pytest.mark.parametrize("grid", [6, 7])
def test_the_encoder_is_counted_as_torch_counts_it(grid: int) -> None:
    from bench_gpu_baselines import encoder
    from bench_roofline import Vit
    from bench_roofline import encoder as work

    vit = Vit(grid=grid, width=32, depth=4, heads=2, window=3, whole=2, patch=4, out=16)
    network = encoder(vit)
    assert counted(network, torch.zeros(2, 3, 4 * grid, 4 * grid)) == work(vit, batch=2, padded=True).flops
    assert (work(vit).flops < work(vit, padded=True).flops) == (grid == 7)


def test_the_published_encoder_has_the_published_count() -> None:
    from bench_roofline import Vit, encoder

    assert encoder(Vit(), padded=True).flops == pytest.approx(972.08e9, rel=1e-5)
    assert encoder(Vit(width=1024, depth=24, heads=16), padded=True).flops == pytest.approx(2985.68e9, rel=1e-5)


def test_padding_is_one_more_key() -> None:
    """Pairs of query and key, token by token."""
    from bench_roofline import Vit, attention

    vit = Vit(grid=5, width=8, heads=1, window=3)
    pairs = 0
    for a, b in product(range(5), repeat=2):
        same = [(c, d) for c, d in product(range(6), repeat=2) if (c // 3, d // 3) == (a // 3, b // 3)]
        real = [cell for cell in same if max(cell) < 5]
        pairs += len(real) + (len(real) < len(same))
    assert attention(vit, 3).flops == 4 * pairs * 8 + 4 * 25 * 3 * 8


@pytest.mark.parametrize("window", [0, 3])
def test_attention_is_counted_as_torch_counts_it(window: int) -> None:
    from bench_roofline import Vit, attention

    vit, edge = Vit(grid=7, width=32, heads=2, window=3), window or 7
    qkv, tables = torch.zeros(1, 7, 7, 96), tuple(torch.zeros(2, 2 * edge - 1, 16))
    assert counted(relpos_attention_reference, qkv, tables, None, 2, window) == attention(vit, window, True).flops


def test_the_3d_network_is_counted_as_torch_counts_it() -> None:
    from bench_roofline import Cube, cube_block, cube_decoder, cube_neck, depthwise

    sizes = {"embed_dim": 32, "num_heads": 2, "out_chans": 16, "mlahead_channels": 8, "num_classes": 3}
    config = Sam3dConfig(
        crop_size=16, internal_size=64, img_size=256, patch_size=8, num_slice=8, depth=4, cubic_window_size=4,
        prompt_heads=2, **sizes,
    )  # fmt: skip
    cube = Cube(grid=8, width=32, depth=4, window=4, out=16, head=8, classes=3)
    tokens = torch.zeros(1, 8, 8, 8, 32)
    assert counted(Block(config, 0), tokens) == cube_block(cube)
    assert counted(Neck(config), tokens) == cube_neck(cube)
    features, image = [torch.zeros(1, 16, 8, 8, 8)] * 4, torch.zeros(1, 1, 16, 16, 16)
    assert counted(MaskDecoder(config), features, image) == cube_decoder(cube)
    x, weight = torch.zeros(1, 3, 4, 5, 6), torch.zeros(6, 1, 3, 3, 3)
    assert counted(depthwise_conv3d_reference, x, weight, torch.zeros(6)) == depthwise(60, 6).flops


def test_the_mask_decoder_is_counted_as_torch_counts_it() -> None:
    from bench_roofline import Prompts, decoder, decoder_attention, decoder_upscaling

    prompts = Prompts(count=3, tokens=5, grid=4, width=32, heads=4, masks=2)
    rows, places = torch.zeros(3, 20, 32), torch.zeros(3, 16, 32)
    one = decoder_attention(prompts)
    assert counted(token_to_image_reference, rows, places, places[:1]) == 3 * one
    norm = (torch.ones(32), torch.zeros(32), 1e-5)
    given = (places, places[:1], rows, torch.zeros(3, 20), rows, 4, norm)
    assert counted(image_to_token_reference, *given) == 3 * one
    layers = (torch.zeros(32, 32), torch.zeros(32)), (torch.ones(8), torch.zeros(8), 1e-5)
    layers = (*layers, (torch.zeros(16, 8), torch.zeros(16)))
    done = counted(upscaled_masks_reference, places, torch.zeros(3, 2, 4), (4, 4), *layers)
    assert done == 3 * decoder_upscaling(prompts)
    assert decoder(prompts).flops == 3 * (5 * one + decoder_upscaling(prompts))


def test_a_floor_is_what_takes_longer() -> None:
    from bench_roofline import Work

    assert Work(790e12, 0).floor_ms("NVIDIA H200") == 1000
    assert Work(790e9, 8.6e12).floor_ms("NVIDIA H200 NVL") == 2000
    assert Work(1, 1).floor_ms("another") is None


@pytest.fixture
def small():
    from bench_gpu import Sizes
    from bench_roofline import Prompts, Vit

    config = Sam3dConfig(
        crop_size=16, internal_size=64, img_size=256, patch_size=8, num_slice=8, depth=4, cubic_window_size=4,
        embed_dim=32, num_heads=2, out_chans=16, mlahead_channels=8, prompt_heads=2, prompt_mlp_dim=16,
    )  # fmt: skip
    vit = Vit(grid=7, width=32, depth=2, heads=2, window=4, whole=1, patch=4, out=16)
    prompts = Prompts(count=3, grid=4, width=32, heads=4)
    return Sizes(vit, (1, 2), 3, 8, config, prompts, "eager")


def test_every_row_runs(small, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_gpu
    import measuring

    monkeypatch.delenv("MEDSEG_KERNELS")
    monkeypatch.setattr(bench_gpu, "SECONDS", 0.0)
    monkeypatch.setattr(measuring, "ROUNDS", 2)
    found = bench_gpu.rows(torch.device("cpu"), small)
    text = bench_gpu.table(found)
    assert [row.goal for row in found] == ["G1"] * 4 + ["G2", "G3", "G4", "G5", "G5", "G6", "G6", "G7"], text
    for row in found:
        assert not row.problem, text
        assert row.difference <= row.tolerance
        assert row.ratio == pytest.approx(row.baseline_ms / row.ours_ms)
        assert row.floor_ms is None
        assert row.what in text
    assert "FAILED" not in text
    met = replace(found[4], baseline_ms=3.0, ours_ms=1.0, ratio=3.0, floor_ms=0.25, baseline_mb=20.0, ours_mb=10.0)
    assert "goal 2 met" in bench_gpu.line(met)
    assert "25% of the device's floor 0.250 ms; 20 MB -> 10 MB" in bench_gpu.line(met)
    assert "goal 2 MISSED" in bench_gpu.line(replace(met, ratio=1.9))


def test_a_row_that_is_wrong_or_fails_has_no_time() -> None:
    import bench_gpu

    def fails() -> torch.Tensor:
        raise torch.OutOfMemoryError("no memory left\nand more")

    right = bench_gpu.Case("G2", "planted", lambda: torch.ones(3), lambda: torch.ones(3), 1e-2)
    cases = {
        "results differ": replace(right, ours=lambda: torch.full((3,), 1.1)),
        "OutOfMemoryError: no memory left": replace(right, baseline=fails),
    }
    for problem, case in cases.items():
        row = bench_gpu.measured(case, torch.device("cpu"))
        assert (row.problem, row.ours_ms, row.ratio) == (problem, None, None)
        assert f"G2 FAILED planted: {problem}" in bench_gpu.line(row)
    row = bench_gpu.measured(replace(right, ours=lambda: torch.full((3,), float("nan"))), torch.device("cpu"))
    assert row.problem == "results differ"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without one")
def test_without_a_gpu_the_rows_are_absent_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench

    monkeypatch.setattr("sys.argv", ["bench.py", "--only", "gpu", "--json", str(tmp_path / "figures.json")])
    bench.main()
    assert "no CUDA device: G rows not measured" in capsys.readouterr().out
    assert json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))["gpu_rows"] is None


def test_the_page_says_which_goals_were_met() -> None:
    import kernel_page
    from measuring import Row

    begins = "mask decoder, 8 boxes, 1024 px, bf16 (baseline: segment_anything, fp32)"
    rows = [Row(begins, 100.0, 20.0, 5.0, 8e-3), Row(begins.replace("bf16", "fp32"), 100.0, 80.0, 1.25, 1e-6)]
    memory = {"ViT-B encoder, 1024 px": {"original": 900.0, "ours": 100.0}}
    page = kernel_page.page({"device": "cpu"}, rows, memory, "No CUDA device: G rows not measured.")
    assert f"| {begins} | 100.0 | 20.0 | 5.00 | 8.0e-03 | C4: 4, met |" in page
    assert "| 100.0 | 80.0 | 1.25 | 1.0e-06 | C4: 2, missed |" in page
    assert "| ViT-B encoder, 1024 px | 900 | 100 | 9.0 | C5: 8, met |" in page
    assert page.rstrip().endswith("No CUDA device: G rows not measured.")
