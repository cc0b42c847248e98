"""The adapters' Triton kernels and PyTorch paths against their formulas in float64; memory of kernels starts as NaN.

Without a GPU the kernels run in Triton's interpreter, in a process that has TRITON_INTERPRET=1 from its start (the
first test starts it), and are compiled for two GPUs in another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from medseg_kernels import adapter
from medseg_kernels.adapter import WIDEST, adapter_reference
from medseg_kernels.depthwise_conv3d import BLOCK, conv3d_triton, depthwise_conv3d, depthwise_conv3d_reference
from medseg_kernels.dispatch import HAS_TRITON, INTERPRETED
from tolerances import KERNEL_DTYPES, TOLERANCE
from torch import Tensor

if HAS_TRITON:
    from medseg_kernels.adapter_triton import BLOCKS, BLOCKS_BACK, adapter_backward, adapter_triton, launch, split

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

triton = pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
interpreted = pytest.mark.skipif(
    not HAS_TRITON or not (INTERPRETED or DEVICE == "cuda"), reason="needs Triton, and TRITON_INTERPRET=1 or a GPU"
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.skipif(not HAS_TRITON or INTERPRETED or DEVICE == "cuda", reason="is what this test starts")
def test_everything_in_the_interpreter(root: Path) -> None:
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    others = "not in_the_interpreter and not compile_for"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", others]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "skipped" not in done.stdout, done.stdout[-5000:]


def distance(result: Tensor, exact: Tensor) -> float:
    return float((result.double() - exact).norm().detach() / exact.norm().detach())


def compare(op, formula, tensors: list[Tensor | None], tolerance: tuple[float, float, float], slack: int = 1) -> None:
    """Values and gradients of `op` on the given tensors, of `formula` on the same numbers in float64."""
    ours = [None if tensor is None else tensor.detach().requires_grad_() for tensor in tensors]
    exact = [None if tensor is None else tensor.detach().double().requires_grad_() for tensor in tensors]
    result, expected = op(*ours), formula(*exact)
    assert result.dtype == tensors[0].dtype
    assert distance(result, expected) < slack * tolerance[0]
    direction = torch.randn_like(expected).to(result.dtype)
    got = torch.autograd.grad(result, [t for t in ours if t is not None], direction)
    wanted = torch.autograd.grad(expected, [t for t in exact if t is not None], direction.double())
    for mine, theirs in zip(got, wanted, strict=True):
        assert distance(mine, theirs) < slack * tolerance[1]


CONVOLUTIONS = [(1, 3, 5, 4, 10), (2, 1, 1, 1, 16), (1, 2, 7, 3, 33)]


def convolution(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """x in `dtype`; weights stay float32, as a network under autocast has them."""
    x = torch.randn(shape).to(dtype)
    return [tensor.to(DEVICE) for tensor in (x, torch.randn(shape[-1], 1, 3, 3, 3), torch.randn(shape[-1]))]


@interpreted
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("shape", CONVOLUTIONS)
@pytest.mark.usefixtures("poisoned")
def test_convolution_kernel(shape, dtype, relu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BLOCK, "positions", 32 if shape[-1] < 20 else 64)
    monkeypatch.setitem(BLOCK, "channels", 16)
    compare(
        lambda x, w, b: conv3d_triton(x, w, b, relu),
        lambda x, w, b: depthwise_conv3d_reference(x, w, b, relu),
        convolution(shape, dtype),
        TOLERANCE[dtype],
    )


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [*CONVOLUTIONS, (0, 2, 2, 2, 8)])
def test_convolution_without_triton(shape, relu: bool) -> None:
    x, weight, bias = (tensor.double().cpu() for tensor in convolution(shape, torch.float32))
    padded = torch.nn.functional.pad(x, (0, 0, 1, 1, 1, 1, 1, 1))
    h, w, d = shape[1:4]
    expected = bias + sum(
        padded[:, a : a + h, b : b + w, c : c + d] * weight[:, 0, a, b, c]
        for a in range(3)
        for b in range(3)
        for c in range(3)
    )
    expected = expected.clamp(min=0) if relu else expected
    assert torch.allclose(depthwise_conv3d(x, weight, bias, relu), expected, atol=1e-12)


ADAPTERS = [
    # tokens, channels, middle, activation, norm, residual
    ((1, 37, 48), 12, "gelu", False, True),
    ((1, 37, 48), 12, "relu", True, True),
    ((5, 40), 48, "gelu", True, False),
    ((2, 3, 5, 33), 20, "relu", False, True),
]


def adapter_tensors(shape: tuple[int, ...], middle: int, norm: bool, dtype: torch.dtype) -> list[Tensor | None]:
    """x, down, up and norm; scaled so that both branches of the sum matter."""
    c = shape[-1]
    tensors = [torch.randn(shape), torch.randn(middle, c) / c**0.5, torch.randn(middle)]
    tensors += [torch.randn(c, middle) / middle**0.5, torch.randn(c)]
    tensors += [1 + 0.2 * torch.randn(c), torch.randn(c)] if norm else [None, None]
    return [None if tensor is None else tensor.to(dtype).to(DEVICE) for tensor in tensors]


def with_options(op, activation: str, residual: bool):
    return lambda x, dw, db, uw, ub, nw, nb: op(x, dw, db, uw, ub, activation, nw, nb, 0.5, residual, 1e-6)


@interpreted
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize(("shape", "middle", "activation", "norm", "residual"), ADAPTERS)
@pytest.mark.usefixtures("poisoned")
def test_adapter_kernel(shape, middle, activation, norm, residual, dtype) -> None:
    compare(
        with_options(adapter_triton, activation, residual),
        with_options(adapter_reference, activation, residual),
        adapter_tensors(shape, middle, norm, dtype),
        TOLERANCE[dtype],
        # A sum that is rounded before its ReLU has another sign here and there.
        slack=2 if activation == "relu" else 1,
    )


@interpreted
@pytest.mark.usefixtures("poisoned")
def test_weights_of_higher_precision_than_the_products() -> None:
    """As under autocast: x and weights in float32, products in bfloat16, gradients in each tensor's own dtype."""
    tensors = adapter_tensors((37, 48), 12, True, torch.float32)

    def rounded(x, down_w, down_b, up_w, *others):
        down_w, up_w = down_w.bfloat16(), up_w.bfloat16()
        return with_options(adapter_triton, "gelu", True)(x, down_w, down_b, up_w, *others)

    compare(rounded, with_options(adapter_reference, "gelu", True), tensors, TOLERANCE[torch.bfloat16])


@interpreted
@pytest.mark.parametrize(("shape", "middle", "activation", "norm", "residual"), ADAPTERS)
@pytest.mark.usefixtures("poisoned")
def test_gradients_by_products(shape, middle, activation, norm, residual, monkeypatch: pytest.MonkeyPatch) -> None:
    """What float32 takes on a GPU, where the backward kernel is for 16-bit numbers."""
    monkeypatch.setattr("medseg_kernels.adapter_triton.in_one_kernel", lambda _: False)
    monkeypatch.setattr("medseg_kernels.adapter_triton.backward_kernel", None)
    op, formula = (with_options(op, activation, residual) for op in (adapter_triton, adapter_reference))
    compare(op, formula, adapter_tensors(shape, middle, norm, torch.float32), TOLERANCE[torch.float32])


@interpreted
@pytest.mark.usefixtures("poisoned")
def test_rows_in_several_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares of the biases' gradients and the end of the last block of rows."""
    for blocks in (BLOCKS, BLOCKS_BACK):
        monkeypatch.setitem(blocks, 64, (16, 64, 4))
    for norm in (False, True):
        tensors = adapter_tensors((37, 48), 12, norm, torch.float32)
        assert launch(BLOCKS_BACK, 37, 12)[0] == (3,)
        compare(
            with_options(adapter_triton, "gelu", True),
            with_options(adapter_reference, "gelu", True),
            tensors,
            TOLERANCE[torch.float32],
        )


@pytest.mark.parametrize(
    ("shape", "middle", "activation", "norm", "residual"), [*ADAPTERS, ((0, 8), 4, "relu", True, True)]
)
def test_adapter_without_triton(shape, middle, activation, norm, residual) -> None:
    tensors = [None if t is None else t.double().cpu() for t in adapter_tensors(shape, middle, norm, torch.float32)]
    x, down_w, down_b, up_w, up_b, norm_w, norm_b = tensors
    inner = x
    if norm:
        away = x - x.mean(-1, keepdim=True)
        inner = away / (away.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm_w + norm_b
    inner = inner @ down_w.T + down_b
    inner = inner.clamp(min=0) if activation == "relu" else inner * (1 + torch.erf(inner / 2**0.5)) / 2
    expected = (inner @ up_w.T + up_b) * 0.5 + (x if residual else 0)
    assert torch.allclose(with_options(adapter, activation, residual)(*tensors), expected, atol=1e-12)
    assert torch.allclose(with_options(adapter_reference, activation, residual)(*tensors), expected, atol=1e-12)
    single = [None if t is None else t.float() for t in tensors]
    with torch.inference_mode():
        assert torch.allclose(with_options(adapter, activation, residual)(*single).double(), expected, atol=1e-5)


@triton
def test_the_middle_is_covered_and_little_more() -> None:
    assert max(BLOCKS) == max(BLOCKS_BACK) == WIDEST
    for middle in range(1, WIDEST + 1):
        first, second = split(middle)
        assert first + second >= middle
        assert first + second < middle * 1.5 or first + second <= 32
        assert all(part == 0 or (part >= 16 and part & (part - 1) == 0) for part in (first, second))


@interpreted
@pytest.mark.parametrize("norm", [False, True])
def test_the_operator_is_what_torch_compile_takes_it_for(norm: bool) -> None:
    """Schema, gradient, assumed shapes, and forward and backward traced with dynamic shapes, as PyTorch checks them."""
    x, down_w, down_b, up_w, up_b, *norms = (
        None if tensor is None else tensor.requires_grad_()
        for tensor in adapter_tensors((5, 16), 4, norm, torch.float32)
    )
    torch.library.opcheck(adapter_triton, (x, down_w, down_b, up_w, up_b, "gelu", *norms, 0.5, True, 1e-6))


@triton
@pytest.mark.parametrize("norm", [False, True])
def test_operators_are_traced_whole(norm: bool) -> None:
    """Shapes and dtypes that torch.compile assumes are those that the operators return."""
    x, *weights = adapter_tensors((1, 6, 32), 16, norm, torch.float32)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [None if tensor is None else mode.from_tensor(tensor) for tensor in (x, *weights)]
        y = with_options(adapter_triton, "gelu", True)(*fake)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        gradients = adapter_backward(y, *fake[:4], "gelu", *fake[5:], 0.5, True, 1e-6)
        given = [tensor for tensor in (x, *weights) if tensor is not None]
        assert [(g.shape, g.dtype) for g in gradients] == [(t.shape, t.dtype) for t in given]
        x, weight, bias = (mode.from_tensor(tensor) for tensor in convolution((1, 2, 3, 4, 8), torch.bfloat16))
        y = conv3d_triton(x, weight, bias, True)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)


COMPILE = Path(__file__).with_name("compile_adapters.py")


@triton
def test_kernels_compile_for_gpus_that_are_not_here(root: Path) -> None:
    """Every kernel to machine code for sm_80 and sm_90; none keeps registers in memory."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    env["PYTHONPATH"] = str(root / "kernels")
    done = subprocess.run([sys.executable, str(COMPILE)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * (6 + 9), done.stdout
    assert all("STACK:0 " in line for line in lines), done.stdout


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_convolution_at_real_size_on_a_gpu(dtype: torch.dtype) -> None:
    compare(
        lambda x, w, b: conv3d_triton(x, w, b, True),
        lambda x, w, b: depthwise_conv3d_reference(x, w, b, True),
        convolution((1, 32, 32, 32, 384), dtype),
        TOLERANCE[dtype],
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
@pytest.mark.parametrize("middle", [16, 64, 192, 384, 512])
def test_adapter_at_real_size_on_a_gpu(middle: int, dtype: torch.dtype) -> None:
    compare(
        with_options(adapter_triton, "gelu", True),
        with_options(adapter_reference, "gelu", True),
        adapter_tensors((4, 1024, 768), middle, True, dtype),
        TOLERANCE[dtype],
        slack=2,
    )


@pytest.mark.gpu
def test_compiled_and_autocast_on_a_gpu() -> None:
    tensors = adapter_tensors((4, 100, 768), 192, True, torch.float32)
    op = with_options(adapter, "gelu", True)
    assert distance(torch.compile(op, fullgraph=True)(*tensors), op(*tensors).double()) < 1e-6
    with torch.autocast("cuda", dtype=torch.bfloat16):
        compare(op, with_options(adapter_reference, "gelu", True), tensors, TOLERANCE[torch.bfloat16])
