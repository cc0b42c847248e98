"""window_attention's Triton kernels against the formula in float64; memory of kernels starts as NaN.

With a GPU they run there. Without one they run in Triton's interpreter, in a process that has TRITON_INTERPRET=1 from
its start (the first test starts it), and are compiled for two GPUs in another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from medseg_kernels import window_attention
from medseg_kernels.cubic_attention import window_attention_reference
from medseg_kernels.cubic_windows import from_windows, to_windows, window_sides
from medseg_kernels.dispatch import HAS_TRITON, INTERPRETED
from tolerances import KERNEL_DTYPES, TOLERANCE
from torch import Tensor

MODULE = import_module("medseg_kernels.cubic_attention")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEADS = 2

launched = pytest.mark.skipif(
    not HAS_TRITON or not (INTERPRETED or DEVICE == "cuda"), reason="needs Triton, and TRITON_INTERPRET=1 or a GPU"
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch, poisoned: None) -> None:
    """Fails where the op would not take the kernels; few large blocks in the interpreter, where their number costs."""
    monkeypatch.setattr(MODULE, "_with_longer_heads", lambda *_: pytest.fail("the kernels were not taken"))
    if INTERPRETED:
        from medseg_kernels import cubic_attention_triton

        sizes = {2: (128, 4), 4: (64, 4)}
        monkeypatch.setattr(cubic_attention_triton, "TILES", dict.fromkeys(cubic_attention_triton.TILES, sizes))


@pytest.mark.skipif(not HAS_TRITON or INTERPRETED or DEVICE == "cuda", reason="is what this test starts")
def test_the_kernels_in_the_interpreter(root: Path) -> None:
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert f"{3 * len(CASES) + 9} passed" in done.stdout, done.stdout[-5000:]


@pytest.mark.skipif(not HAS_TRITON or INTERPRETED, reason="needs Triton, and not its interpreter")
def test_the_kernels_compile_for_gpus_that_are_not_here(root: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(root / "kernels")}
    script = Path(__file__).with_name("compile_cubic.py")
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    stacks = [(line[:5], int(line.split("STACK:")[1].split()[0])) for line in done.stdout.splitlines()]
    assert len(stacks) == 6 * 3, done.stdout
    # Registers that do not fit are kept in memory: none where the block sizes were chosen, some bytes on older GPUs.
    assert all(stack == 0 if target == "sm_90" else stack <= 128 for target, stack in stacks), done.stdout


CASES = [
    # windows, edge, head dimension, whether the grid was rolled
    (1, 4, 64, True),
    (3, 2, 12, False),
    (1, 3, 7, True),
    (1, 5, 80, False),
    (1, 1, 16, False),
]


@launched
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize(("count", "edge", "d", "rolled"), CASES)
@pytest.mark.usefixtures("taken")
def test_results_and_gradients(count: int, edge: int, d: int, rolled: bool, dtype: torch.dtype) -> None:
    sides = torch.randint(0, 8, (count, edge**3), device=DEVICE) if rolled else None
    compare(drawn(count, edge, d, dtype), edge, sides, dtype)


@launched
@pytest.mark.usefixtures("taken")
def test_a_window_of_the_published_edge() -> None:
    compare(drawn(1, 8, 16, torch.float32), 8, torch.arange(512, device=DEVICE)[None] // 200, torch.float32)


@launched
@pytest.mark.usefixtures("taken")
def test_a_rolled_grid_of_an_odd_number_of_windows() -> None:
    """Two grids of 3 x 1 x 2 windows of edge 2, there and back; windows, heads and grids do not mix."""
    grid, edge, shift = (6, 2, 4), 2, 1
    qkv, *tables, gain = drawn(1, edge, 12, torch.float32)
    qkv = torch.randn(2, *grid, qkv.shape[-1], device=DEVICE)
    sides = window_sides(grid, edge, shift, qkv.device)
    assert sides is not None

    def on_grid(op, qkv, tables, gain) -> Tensor:
        out = op(to_windows(qkv, edge, shift), tables, gain, HEADS, edge, sides.repeat(2, 1))
        return from_windows(out, edge, shift, (2, *grid))

    exact = on_grid(window_attention_reference, qkv.double(), [table.double() for table in tables], gain.double())
    assert distance(on_grid(window_attention, qkv, tables, gain), exact) < TOLERANCE[torch.float32][0]


@launched
@pytest.mark.usefixtures("taken")
def test_sides_keep_tokens_apart() -> None:
    """Values of another side do not matter at all; of the own side they do."""
    qkv, *tables, gain = drawn(1, 2, 12, torch.float32)
    sides = torch.tensor([[0, 0, 0, 5, 5, 5, 5, 5]], device=DEVICE)
    before = window_attention(qkv, tables, gain, HEADS, 2, sides)
    qkv[:, 3:, 48:] += 1
    after = window_attention(qkv, tables, gain, HEADS, 2, sides)
    assert torch.equal(before[:, :3], after[:, :3])
    assert torch.allclose(after[:, 3:], before[:, 3:] + 1, atol=1e-5)


@launched
@pytest.mark.usefixtures("taken")
def test_gradients_against_finite_differences() -> None:
    """In float32, so by the slope along a direction and no more digits than the differences have."""
    qkv, *tables, gain = drawn(1, 2, 8, torch.float32)
    inputs = [tensor.requires_grad_() for tensor in (qkv, *tables, gain)]
    weight = torch.randn(1, 8, 16, device=DEVICE)

    def value(tensors: list[Tensor]) -> Tensor:
        out = window_attention(tensors[0], (tensors[1], tensors[2], tensors[3]), tensors[4], HEADS, 2)
        return (out.double() * weight).sum()

    gradients = torch.autograd.grad(value(inputs), inputs)
    for index, gradient in enumerate(gradients):
        direction = gradient / gradient.norm()
        sides = []
        for step in (1e-2, -1e-2):
            moved = [tensor.detach() for tensor in inputs]
            moved[index] = moved[index] + step * direction
            sides.append(float(value(moved)))
        assert (sides[0] - sides[1]) / 2e-2 == pytest.approx(float(gradient.norm()), rel=1e-3)


@launched
@pytest.mark.usefixtures("taken")
def test_torch_compile_and_autocast() -> None:
    qkv, *tables, gain = drawn(1, 2, 12, torch.float32)

    def attend(qkv: Tensor) -> Tensor:
        return window_attention(qkv, tables, gain, HEADS, 2) * 2

    expected = attend(qkv)
    assert torch.allclose(torch.compile(attend, backend="eager", fullgraph=True)(qkv), expected)
    with torch.autocast(DEVICE, torch.bfloat16):
        assert torch.equal(attend(qkv), expected)
        assert attend(qkv.bfloat16()).dtype == torch.bfloat16


@launched
@pytest.mark.parametrize("rolled", [False, True])
def test_the_operator_is_what_torch_compile_takes_it_for(rolled: bool) -> None:
    """Schema, gradient, assumed shapes, and forward and backward traced with dynamic shapes, as PyTorch checks them."""
    from medseg_kernels import cubic_attention_triton

    qkv, products = (torch.randn(shape, device=DEVICE, requires_grad=True) for shape in ((1, 8, 3, 1, 8), (1, 8, 1, 9)))
    sides = torch.zeros(1, 8, dtype=torch.int8, device=DEVICE) if rolled else None
    torch.library.opcheck(cubic_attention_triton.forward, (qkv, products, sides, 2))


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
def test_shapes_that_torch_compile_assumes() -> None:
    from medseg_kernels import cubic_attention_triton

    with torch._subclasses.FakeTensorMode():
        qkv, products = torch.empty(3, 8, 3, 2, 12, dtype=torch.bfloat16), torch.empty(3, 8, 2, 9)
        out, lse = cubic_attention_triton.forward(qkv, products, None, 2)
        assert (out.shape, out.dtype, lse.shape, lse.dtype) == ((3, 8, 2, 12), qkv.dtype, (3, 8, 2), torch.float32)
        gradients = cubic_attention_triton.backward(out, qkv, products, None, lse, lse, 2)
        assert [(g.shape, g.dtype) for g in gradients] == [(t.shape, t.dtype) for t in (qkv, products)]


def test_what_the_kernels_do_not_take_goes_to_pytorch() -> None:
    assert MODULE.fits(torch.empty(2, 512, 3 * 2 * 80), 2, 8)
    assert not MODULE.fits(torch.empty(0, 512, 3 * 2 * 80), 2, 8)
    assert not MODULE.fits(torch.empty(2, 512, 3 * 2 * 81), 2, 8)
    assert not MODULE.fits(torch.empty(2, 729, 3 * 2 * 16), 2, 9)
    assert not MODULE.fits(torch.empty(2**31 // 512, 512, 6, device="meta"), 2, 8)
    # Windows, times heads.
    assert MODULE.fits(torch.empty(32767, 8, 6, device="meta"), 2, 2)
    assert not MODULE.fits(torch.empty(32768, 8, 6, device="meta"), 2, 2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.usefixtures("taken")
def test_real_sizes_on_a_gpu(shift: int, dtype: torch.dtype) -> None:
    sides = window_sides((32, 32, 32), 8, shift, torch.device(DEVICE))
    compare(drawn(64, 8, 64, dtype), 8, sides, dtype)


@pytest.mark.gpu
def test_compiled_by_inductor_on_a_gpu() -> None:
    qkv, *tables, gain = drawn(8, 8, 64, torch.bfloat16)
    expected = window_attention(qkv, tables, gain, HEADS, 8)
    traced = torch.compile(window_attention, fullgraph=True)(qkv, tables, gain, HEADS, 8)
    assert distance(traced, expected.double()) < TOLERANCE[torch.bfloat16][0]


def drawn(count: int, edge: int, d: int, dtype: torch.dtype) -> list[Tensor]:
    """qkv in `dtype`; tables and gain in float32 as in a model under autocast."""
    qkv = torch.randn(count, edge**3, 3 * HEADS * d, device=DEVICE).to(dtype)
    tables = [torch.randn(2 * edge - 1, d, device=DEVICE) * 0.3 for _ in range(3)]
    return [qkv, *tables, torch.tensor(0.7, device=DEVICE)]


def compare(inputs: list[Tensor], edge: int, sides: Tensor | None, dtype: torch.dtype) -> None:
    """Values and gradients of the op, and of its formula on the same numbers in float64."""
    ours = [part.detach().requires_grad_() for part in inputs]
    exact = [part.detach().double().requires_grad_() for part in inputs]
    result = window_attention(ours[0], (ours[1], ours[2], ours[3]), ours[4], HEADS, edge, sides)
    expected = window_attention_reference(exact[0], (exact[1], exact[2], exact[3]), exact[4], HEADS, edge, sides)
    assert result.dtype == dtype
    direction = torch.randn_like(expected).to(dtype)
    result.backward(direction)
    expected.backward(direction.double())
    forward, backward, _ = TOLERANCE[dtype]
    assert distance(result, expected) < forward
    # The gain's gradient is the scalar product of tables and their gradients over gain: large terms, a small sum.
    terms = sum(float((table.norm() * table.grad.norm()).detach()) for table in exact[1:4]) / float(exact[4].detach())
    assert abs(float(ours[4].grad) - float(exact[4].grad)) <= backward * terms + 1e-6
    for name, mine, theirs in zip(("qkv", "T_h", "T_w", "T_d"), ours[:4], exact[:4], strict=True):
        if float(theirs.grad.norm()) < 1e-9:
            # A window of one token: its weight is 1 whatever the terms are.
            assert float(mine.grad.norm()) < 1e-4, name
        else:
            assert distance(mine.grad, theirs.grad) < backward, name


def distance(result: Tensor, exact: Tensor) -> float:
    return float((result.detach().double() - exact.detach()).norm() / exact.detach().norm())
