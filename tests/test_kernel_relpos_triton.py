"""relpos_attention's Triton kernels against the formula in float64; memory of kernels starts as NaN.

With a GPU they run there. Without one they run in Triton's interpreter, in a process that has TRITON_INTERPRET=1 from
its start (the first test starts it), and are compiled for two GPUs in another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from medseg_kernels import relpos_attention
from medseg_kernels.dispatch import HAS_TRITON, INTERPRETED
from medseg_kernels.relpos_attention import relpos_attention_reference
from tolerances import KERNEL_DTYPES, TOLERANCE
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
COMPILE = Path(__file__).with_name("compile_relpos.py")

launched = pytest.mark.skipif(
    not HAS_TRITON or not (INTERPRETED or DEVICE == "cuda"), reason="needs Triton, and TRITON_INTERPRET=1 or a GPU"
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few large blocks in the interpreter, where their number is what costs."""
    if INTERPRETED:
        from medseg_kernels import relpos_triton

        sizes = {2: (64, 128, 4), 4: (128, 64, 4)}
        monkeypatch.setattr(relpos_triton, "TILES", dict.fromkeys(relpos_triton.TILES, sizes))


@pytest.mark.skipif(not HAS_TRITON or INTERPRETED or DEVICE == "cuda", reason="is what this test starts")
def test_the_kernels_in_the_interpreter(root: Path) -> None:
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert f"{3 * len(CASES) + 3} passed" in done.stdout, done.stdout[-5000:]


@pytest.mark.skipif(not HAS_TRITON or INTERPRETED, reason="needs Triton, and not its interpreter")
def test_the_kernels_compile_for_gpus_that_are_not_here(root: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(root / "kernels")}
    done = subprocess.run([sys.executable, str(COMPILE)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    stacks = [(line[:5], int(line.split("STACK:")[1].split()[0])) for line in done.stdout.splitlines()]
    assert len(stacks) == 4 * 3, done.stdout
    # Registers that do not fit are kept in memory: none where the block sizes were chosen, some bytes on older GPUs.
    assert all(stack == 0 if target == "sm_90" else stack <= 128 for target, stack in stacks), done.stdout


CASES = [
    # grid, window, head dimension
    ((5, 6), 4, 12),
    ((4, 8), 4, 16),
    ((7, 5), 4, 80),
    ((3, 5), 7, 64),
    ((15, 14), 14, 12),
    ((3, 33), 0, 12),
    ((1, 1), 0, 16),
]


@launched
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize(("grid", "window", "d"), CASES)
def test_results_and_gradients(
    grid: tuple[int, int], window: int, d: int, dtype: torch.dtype, poisoned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(drawn(grid, window, d, dtype, batch=1), window, dtype, monkeypatch)


@launched
def test_images_and_heads_do_not_mix(poisoned: None, monkeypatch: pytest.MonkeyPatch) -> None:
    compare(drawn((5, 3), 4, 12, torch.float32, batch=3), 4, torch.float32, monkeypatch)


@launched
def test_padding_without_a_bias(poisoned: None, monkeypatch: pytest.MonkeyPatch) -> None:
    qkv, table_h, table_w, _ = drawn((5, 6), 4, 12, torch.float32, batch=1)
    watch(monkeypatch)
    exact = relpos_attention_reference(qkv.double(), (table_h.double(), table_w.double()), None, 2, 4)
    assert distance(relpos_attention(qkv, (table_h, table_w), None, 2, 4), exact) < TOLERANCE[torch.float32][0]


@launched
def test_torch_compile_keeps_one_graph(poisoned: None) -> None:
    qkv, table_h, table_w, pad = drawn((5, 6), 4, 12, torch.float32, batch=1)

    def attend(qkv: Tensor) -> Tensor:
        return relpos_attention(qkv, (table_h, table_w), pad, 2, 4) * 2

    traced = torch.compile(attend, backend="eager", fullgraph=True)(qkv)
    assert torch.allclose(traced, attend(qkv))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize(
    ("grid", "window", "d"), [((64, 64), 14, 64), ((64, 64), 0, 64), ((64, 64), 14, 80), ((16, 16), 14, 64)]
)
def test_real_sizes_on_a_gpu(
    grid: tuple[int, int], window: int, d: int, dtype: torch.dtype, poisoned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(drawn(grid, window, d, dtype, batch=2), window, dtype, monkeypatch)


def drawn(grid: tuple[int, int], window: int, d: int, dtype: torch.dtype, batch: int) -> list[Tensor]:
    """qkv of two heads and padding in `dtype`, tables in float32 as in a model under autocast."""
    h, w = (window, window) if window else grid
    qkv = torch.randn(batch, *grid, 6 * d, device=DEVICE).to(dtype)
    tables = [torch.randn(2 * size - 1, d, device=DEVICE) * 0.3 for size in (h, w)]
    return [qkv, *tables, torch.randn(6 * d, device=DEVICE).to(dtype)]


def watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the op would not take the kernels."""
    from medseg_kernels import relpos_triton  # noqa: F401

    module = sys.modules["medseg_kernels.relpos_attention"]
    monkeypatch.setattr(module, "without_padding", lambda *_: pytest.fail("the kernels were not taken"))


def compare(inputs: list[Tensor], window: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients of the op, and of its formula on the same numbers in float64."""
    watch(monkeypatch)
    ours = [part.detach().requires_grad_() for part in inputs]
    exact = [part.detach().double().requires_grad_() for part in inputs]
    result = relpos_attention(ours[0], (ours[1], ours[2]), ours[3], 2, window)
    expected = relpos_attention_reference(exact[0], (exact[1], exact[2]), exact[3], 2, window)
    assert result.dtype == dtype
    direction = torch.randn_like(expected).to(dtype)
    result.backward(direction)
    expected.backward(direction.double())
    forward, backward, _ = TOLERANCE[dtype]
    assert distance(result, expected) < forward
    for name, mine, theirs in zip(("qkv", "T_h", "T_w", "pad"), ours, exact, strict=True):
        if theirs.grad is None or not theirs.grad.any():
            assert mine.grad is None or mine.grad.abs().max() < 1e-4, name
        else:
            assert mine.grad is not None, name
            assert distance(mine.grad, theirs.grad) < backward, name


def distance(result: Tensor, exact: Tensor) -> float:
    return float((result.detach().double() - exact.detach()).norm() / exact.detach().norm())
