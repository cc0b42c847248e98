"""The ops against their formulas in float64, written out another way; gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from medseg_kernels import attention, cubic_window_attention, spatial_adapter
from medseg_kernels.cubic_attention import MASKED, partition, shift_mask, unpartition
from torch.nn import functional as F


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def brute_force(qkv, tables, gain, heads, window, shift):
    """Token pair by token pair on the unrolled grid, nothing shared with the op's own arithmetic."""
    _, h, w, d, channels = qkv.shape
    size = channels // (3 * heads)
    out = torch.zeros(1, h, w, d, heads * size, dtype=qkv.dtype)

    # In the rolled grid a token at p stands at (p - shift) mod n; windows and segments are counted there.
    def place(p, n):
        return (p - shift) % n

    def segment(r, n):
        return 0 if not shift else int(r >= n - window) + int(r >= n - shift)

    cells = [(a, b, c) for a in range(h) for b in range(w) for c in range(d)]
    for head in range(heads):
        part = qkv[0].reshape(h, w, d, 3, heads, size)[..., head, :]
        for q_cell in cells:
            rq = [place(p, n) for p, n in zip(q_cell, (h, w, d), strict=True)]
            logits, values = [], []
            for k_cell in cells:
                rk = [place(p, n) for p, n in zip(k_cell, (h, w, d), strict=True)]
                if any(a // window != b // window for a, b in zip(rq, rk, strict=True)):
                    continue
                q, k = part[q_cell][0], part[k_cell][1]
                bias = sum(q @ table[a - b + window - 1] for table, a, b in zip(tables, rq, rk, strict=True))
                logit = q @ k * size**-0.5 + gain * bias
                if any(segment(a, n) != segment(b, n) for a, b, n in zip(rq, rk, (h, w, d), strict=True)):
                    logit = logit + MASKED
                logits.append(logit)
                values.append(part[k_cell][2])
            weights = torch.softmax(torch.stack(logits), 0)
            out[0][q_cell][head * size : (head + 1) * size] = weights @ torch.stack(values)
    return out


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("grid", [(4, 4, 4), (2, 6, 4)])
def test_cubic_attention_is_its_formula(grid: tuple[int, int, int], shift: int) -> None:
    heads, size, window = 2, 3, 2
    qkv = torch.randn(1, *grid, 3 * heads * size, dtype=torch.float64)
    tables = tuple(torch.randn(2 * window - 1, size, dtype=torch.float64) for _ in range(3))
    gain = torch.tensor(0.7, dtype=torch.float64)
    expected = brute_force(qkv, tables, gain, heads, window, shift)
    assert torch.allclose(cubic_window_attention(qkv, tables, gain, heads, window, shift), expected, atol=1e-12)
    single = cubic_window_attention(qkv.float(), tuple(t.float() for t in tables), gain.float(), heads, window, shift)
    assert torch.allclose(single.double(), expected, atol=2e-5)


@pytest.mark.parametrize("shift", [0, 1])
def test_cubic_attention_gradients(shift: int) -> None:
    qkv = torch.randn(2, 2, 4, 2, 6, dtype=torch.float64, requires_grad=True)
    tables = tuple(torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    gain = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, b, c, d, e: cubic_window_attention(a, (b, c, d), e, 1, 2, shift), (qkv, *tables, gain)
    )


def test_batches_do_not_mix() -> None:
    qkv = torch.randn(3, 4, 4, 4, 12)
    tables = tuple(torch.randn(3, 2) for _ in range(3))
    together = cubic_window_attention(qkv, tables, torch.tensor(1.0), 2, 2, 1)
    for index in range(3):
        alone = cubic_window_attention(qkv[index : index + 1], tables, torch.tensor(1.0), 2, 2, 1)
        assert torch.allclose(together[index : index + 1], alone, atol=1e-6)


def test_misfits_are_refused_with_the_numbers() -> None:
    tables = tuple(torch.zeros(3, 2) for _ in range(3))
    with pytest.raises(ValueError, match=r"\(3, 4, 4\) is not a multiple of the window 2"):
        cubic_window_attention(torch.zeros(1, 3, 4, 4, 6), tables, torch.tensor(1.0), 1, 2, 0)
    with pytest.raises(ValueError, match="7 rows"):
        cubic_window_attention(torch.zeros(1, 4, 4, 4, 6), tables, torch.tensor(1.0), 1, 4, 0)


def test_partition_goes_back() -> None:
    x = torch.randn(2, 4, 6, 8, 5)
    assert torch.equal(unpartition(partition(x, 2), 2, (2, 4, 6, 8)), x)


def test_shift_mask_of_the_published_grid() -> None:
    mask = shift_mask((32, 32, 32), 8, 4)
    assert mask.shape == (64, 512, 512)
    assert set(mask.unique().tolist()) == {MASKED, 0.0}
    assert not mask[0].any()
    assert mask[-1].ne(0).float().mean() == pytest.approx(7 / 8)


@pytest.mark.parametrize("shape", [(1, 3, 5, 2, 6), (2, 1, 1, 1, 4), (1, 4, 4, 7, 10)])
def test_spatial_adapter_is_its_formula(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    c, r = shape[-1], shape[-1] // 2
    weights = [torch.randn(s, dtype=torch.float64) for s in ((r, c), (r,), (r, 1, 3, 3, 3), (r,), (c, r), (c,))]
    down_w, down_b, conv_w, conv_b, up_w, up_b = weights
    hidden = F.pad((x @ down_w.T + down_b).clamp(min=0), (0, 0, 1, 1, 1, 1, 1, 1))
    h, w, d = shape[1:4]
    mixed = conv_b + sum(
        hidden[:, a : a + h, b : b + w, e : e + d] * conv_w[:, 0, a, b, e]
        for a in range(3)
        for b in range(3)
        for e in range(3)
    )
    expected = x + (mixed.clamp(min=0) @ up_w.T + up_b).clamp(min=0)
    assert torch.allclose(spatial_adapter(x, *weights), expected, atol=1e-12)
    assert torch.allclose(spatial_adapter(x.float(), *[v.float() for v in weights]).double(), expected, atol=1e-3)


def test_spatial_adapter_gradients() -> None:
    x = torch.randn(1, 2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    shapes = ((2, 4), (2,), (2, 1, 3, 3, 3), (2,), (4, 2), (4,))
    weights = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(spatial_adapter, (x, *weights))


def test_attention_is_its_formula() -> None:
    q, k, v = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 11, 7), torch.randn(2, 3, 11, 7)
    weights = torch.softmax(torch.einsum("bhnd,bhmd->bhnm", q.double(), k.double()) / 7**0.5, -1)
    assert torch.allclose(attention(q, k, v).double(), weights @ v.double(), atol=1e-5)
