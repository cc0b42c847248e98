"""upsample_argmax against trilinear interpolation in float64, written out another way; ties; memory."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_maps import agree, smooth, written_out
from medseg_kernels import upsample_argmax
from medseg_kernels.dispatch import INTERPRETED
from medseg_kernels.upsample_argmax import upsample_argmax_reference
from torch import Tensor

MODULE = import_module("medseg_kernels.upsample_argmax")
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]

in_blocks = pytest.mark.skipif(INTERPRETED, reason="is about the version for machines without Triton")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("op", [upsample_argmax, upsample_argmax_reference])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_the_argmax_of_the_interpolation(op, dtype: torch.dtype) -> None:
    logits = torch.randn(5, 6, 7, 9).to(dtype)
    for shape in ((12, 21, 9), (5, 80, 70), (3, 2, 1)):
        labels = op(logits, shape)
        assert labels.dtype == torch.uint8
        agree(labels, logits, shape)


@settings(max_examples=40)
@given(
    size=st.tuples(*[st.integers(1, 9)] * 3),
    shape=st.tuples(*[st.integers(1, 75)] * 3),
    classes=st.integers(1, 6),
    seed=st.integers(0, 99),
    flat=st.booleans(),
)
def test_any_size_to_any_size(size, shape, classes: int, seed: int, flat: bool) -> None:
    torch.manual_seed(seed)
    logits = smooth(classes, size) if flat else torch.randn(classes, *size)
    agree(upsample_argmax(logits, shape), logits, shape)


ALONG = st.tuples(*[st.floats(-4, 12)] * 3)
STEPS = st.tuples(*[st.floats(-2.5, 2.5)] * 3)


@settings(max_examples=60)
@given(
    size=st.tuples(*[st.integers(1, 9)] * 3),
    shape=st.tuples(*[st.integers(1, 75)] * 3),
    origin=ALONG,
    step=STEPS,
    classes=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_grids_that_are_cut_shifted_and_flipped(size, shape, origin, step, classes: int, seed: int) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(classes, *size)
    labels = upsample_argmax(logits, shape, origin, step)
    agree(labels, logits, shape, origin, step)
    agree(upsample_argmax_reference(logits, shape, origin, step), logits, shape, origin, step)
    last = tuple(o + s * (n - 1) for o, s, n in zip(origin, step, shape, strict=True))
    back = upsample_argmax(logits, shape, last, tuple(-s for s in step))
    agree(back.flip(0, 1, 2), logits, shape, origin, step)


@pytest.mark.parametrize("op", [upsample_argmax, upsample_argmax_reference])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_lowest_of_equal_classes_wins(op, dtype: torch.dtype) -> None:
    """Small whole numbers and a factor of 4: sums are exact, so ties are, and every label is known."""
    logits = torch.randint(-2, 3, (6, 9, 17, 5)).to(dtype)
    logits[4] = logits[1]
    shape = (36, 68, 20)
    expected = written_out(logits, shape).argmax(0)
    assert not (expected == 4).any()
    assert np.array_equal(op(logits, shape).numpy(), expected)


@in_blocks
def test_large_regions_are_not_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that cannot win in a block are left out there, and the result is the same."""
    logits, shape = smooth(20, (40, 40, 40)), (100, 130, 140)
    expected = upsample_argmax_reference(logits.double(), shape)
    calls: list[int] = []
    original = MODULE._interpolated
    monkeypatch.setattr(MODULE, "_interpolated", lambda *given: calls.append(1) or original(*given))
    labels = upsample_argmax(logits, shape)
    assert float((labels != expected).float().mean()) < 1e-5
    assert 0 < len(calls) < 20 * 4 * 3 * 3 / 2


def test_more_classes_than_a_byte_numbers() -> None:
    logits = torch.full((300, 1, 1, 2), -1.0)
    logits[299, ..., 0] = 2
    logits[256, ..., 1] = 2
    labels = upsample_argmax(logits, (1, 2, 4))
    assert labels.dtype == torch.int16
    assert labels[0].tolist() == [[299, 299, 256, 256]] * 2
    assert upsample_argmax(logits[:256], (1, 1, 1)).dtype == torch.uint8


def test_views_and_tensors_with_a_gradient_are_taken() -> None:
    logits = torch.randn(7, 5, 6, 4).permute(3, 1, 0, 2)
    expected = upsample_argmax(logits.contiguous(), (9, 8, 7))
    assert torch.equal(upsample_argmax(logits.requires_grad_(), (9, 8, 7)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(upsample_argmax(logits, (9, 8, 7)), expected)


@in_blocks
def test_the_interpolation_is_never_a_tensor() -> None:
    """The largest allocation, against four bytes per class and voxel."""
    logits, shape = torch.randn(8, 24, 24, 24), (96, 96, 96)

    def largest(op) -> int:
        with torch.profiler.profile(profile_memory=True) as profile:
            op(logits, shape)
        return max(event.cpu_memory_usage for event in profile.events())

    assert largest(upsample_argmax_reference) >= 8 * 96**3 * 4
    assert largest(upsample_argmax) <= 96**3


@pytest.mark.parametrize(
    ("logits", "shape", "said"),
    [
        (torch.zeros(2, 3, 3), (3, 3, 3), "C, D, H, W"),
        (torch.zeros(0, 3, 3, 3), (3, 3, 3), "C, D, H, W"),
        (torch.zeros(2, 3, 3, 3, dtype=torch.int32), (3, 3, 3), "int32"),
        (torch.zeros(2, 3, 3, 3), (3, 0, 3), "no shape"),
        (torch.zeros(2, 3, 3, 3), (3, 3), "no shape"),
        (torch.zeros(32769, 1, 1, 1), (1, 1, 1), "16 bits"),
    ],
)
def test_what_means_nothing_is_refused(logits: Tensor, shape, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        upsample_argmax(logits, shape)


@pytest.mark.parametrize(
    ("origin", "step", "said"),
    [
        ((0.0, 0.0, 0.0), None, "together"),
        (None, (1.0, 1.0, 1.0), "together"),
        ((0.0, 0.0), (1.0, 1.0, 1.0), "three axes"),
        ((0.0, 0.0, float("nan")), (1.0, 1.0, 1.0), "three axes"),
    ],
)
def test_places_that_mean_nothing_are_refused(origin, step, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        upsample_argmax(torch.zeros(2, 3, 3, 3), (3, 3, 3), origin, step)


def test_the_switch_chooses_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_KERNELS", "reference")
    monkeypatch.setattr(MODULE, "_by_blocks", lambda *_: pytest.fail("not the formula"))
    logits = torch.randn(3, 4, 4, 4)
    assert torch.equal(upsample_argmax(logits, (8, 8, 8)), upsample_argmax_reference(logits, (8, 8, 8)))
