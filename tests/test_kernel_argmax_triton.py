"""upsample_argmax's Triton kernel against float64; memory of kernels starts as a label that no test has.

With a GPU it runs there. Without one it runs in Triton's interpreter, in a process that has TRITON_INTERPRET=1 from its
start, and is compiled for two GPUs in another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from label_maps import agree, smooth, written_out
from medseg_kernels import upsample_argmax
from medseg_kernels.dispatch import HAS_TRITON, INTERPRETED
from medseg_kernels.upsample_argmax import upsample_argmax_reference

MODULE = import_module("medseg_kernels.upsample_argmax")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

launched = pytest.mark.skipif(
    not HAS_TRITON or not (INTERPRETED or DEVICE == "cuda"), reason="needs Triton, and TRITON_INTERPRET=1 or a GPU"
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


SHAPES = [((5, 6, 7, 9), (12, 21, 9)), ((3, 2, 1, 5), (3, 2, 33)), ((2, 9, 8, 7), (4, 5, 3)), ((1, 1, 1, 1), (2, 3, 4))]
"""Of the logits and of the result."""


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory is full of a label that no test has, and few large blocks in the interpreter."""
    original = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: original(*a, **k).fill_(99))
    monkeypatch.setattr(MODULE, "_by_blocks", lambda *_: pytest.fail("the kernel was not taken"))
    if INTERPRETED:
        from medseg_kernels import upsample_argmax_triton

        monkeypatch.setitem(upsample_argmax_triton.BLOCK, "voxels", 1024)


@launched
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("size", "shape"), SHAPES)
@pytest.mark.usefixtures("full")
def test_labels(size: tuple[int, ...], shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    logits = torch.randn(size).to(dtype)
    labels = upsample_argmax(logits.to(DEVICE), shape)
    assert labels.dtype == torch.uint8
    agree(labels.cpu(), logits, shape)


@launched
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("full")
def test_labels_of_a_cut_and_flipped_grid(dtype: torch.dtype) -> None:
    logits, shape = torch.randn(5, 6, 7, 9).to(dtype), (7, 5, 40)
    origin, step = (4.6, -1.3, 9.5), (-0.7, 1.6, -0.31)
    agree(upsample_argmax(logits.to(DEVICE), shape, origin, step).cpu(), logits, shape, origin, step)


@launched
@pytest.mark.usefixtures("full")
def test_ties_and_wide_labels() -> None:
    logits = torch.randint(-2, 3, (6, 3, 4, 5)).float()
    logits[4] = logits[1]
    expected = written_out(logits, (6, 16, 20)).argmax(0)
    assert np.array_equal(upsample_argmax(logits.to(DEVICE), (6, 16, 20)).cpu().numpy(), expected)
    many = torch.full((260, 1, 1, 2), -1.0)
    many[259, ..., 0] = many[256, ..., 1] = 2
    assert upsample_argmax(many.to(DEVICE), (1, 1, 4)).flatten().tolist() == [259, 259, 256, 256]


@launched
@pytest.mark.usefixtures("full")
def test_torch_compile_keeps_one_graph() -> None:
    logits = torch.randn(3, 4, 5, 6, device=DEVICE)
    traced = torch.compile(lambda x: upsample_argmax(x * 2, (8, 9, 7)), backend="eager", fullgraph=True)(logits)
    assert torch.equal(traced, upsample_argmax(logits * 2, (8, 9, 7)))


@launched
def test_the_operator_is_what_torch_compile_takes_it_for() -> None:
    """Schema, assumed shape and dtype, as PyTorch checks them."""
    from medseg_kernels import upsample_argmax_triton

    places = ([0.0, 2.5, -1.0], [0.5, -0.5, 1.25])
    torch.library.opcheck(
        upsample_argmax_triton.labels_of, (torch.randn(2, 3, 3, 3, device=DEVICE), [4, 5, 6], *places)
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_real_size_on_a_gpu(dtype: torch.dtype) -> None:
    logits = smooth(20, (96, 96, 96)).to(dtype).to(DEVICE)
    labels = upsample_argmax(logits, (300, 310, 290))
    expected = upsample_argmax_reference(logits.double(), (300, 310, 290))
    assert float((labels != expected).float().mean()) < 1e-5


@pytest.mark.skipif(not HAS_TRITON or INTERPRETED or DEVICE == "cuda", reason="is what this test starts")
def test_the_kernel_in_the_interpreter(root: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert f"{3 * len(SHAPES) + 6} passed" in done.stdout, done.stdout[-5000:]


@pytest.mark.skipif(not HAS_TRITON or INTERPRETED, reason="needs Triton, and not its interpreter")
def test_compiled_for_gpus_that_are_not_here(root: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(root / "kernels")}
    script = Path(__file__).with_name("compile_argmax.py")
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * 2, done.stdout
    assert all("STACK:0 " in line for line in lines), done.stdout
