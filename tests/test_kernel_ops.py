"""The ops against their formulas in float64, written out another way; gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from medseg_kernels import adapter_3d, attention, conv3d, linear, volume_patches, window_attention
from medseg_kernels.adapter_3d import adapter_3d_reference
from medseg_kernels.cubic_attention import window_attention_reference
from medseg_kernels.cubic_windows import MASKED, from_windows, shift_mask, to_windows, window_sides
from medseg_kernels.linear import use_onednn
from medseg_kernels.volume_patches import volume_patches_reference
from tolerances import TOLERANCE
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


CPU = torch.device("cpu")


def on_grid(qkv, tables, gain, heads, window, shift, op=window_attention):
    """The op on a token grid: into windows, attention, back."""
    batch, *grid, _ = qkv.shape
    sides = window_sides(tuple(grid), window, shift, CPU)
    sides = None if sides is None else sides.repeat(batch, 1)
    out = op(to_windows(qkv, window, shift), tables, gain, heads, window, sides)
    return from_windows(out, window, shift, (batch, *grid))


@pytest.mark.parametrize("op", [window_attention, window_attention_reference])
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("grid", [(4, 4, 4), (2, 6, 4)])
def test_cubic_attention_is_its_formula(grid: tuple[int, int, int], shift: int, op) -> None:
    heads, size, window = 2, 3, 2
    qkv = torch.randn(1, *grid, 3 * heads * size, dtype=torch.float64)
    tables = tuple(torch.randn(2 * window - 1, size, dtype=torch.float64) for _ in range(3))
    gain = torch.tensor(0.7, dtype=torch.float64)
    expected = brute_force(qkv, tables, gain, heads, window, shift)
    assert torch.allclose(on_grid(qkv, tables, gain, heads, window, shift, op), expected, atol=1e-12)
    single = on_grid(qkv.float(), tuple(t.float() for t in tables), gain.float(), heads, window, shift, op)
    assert torch.allclose(single.double(), expected, atol=2e-5)


@pytest.mark.parametrize("shift", [0, 1])
def test_cubic_attention_gradients(shift: int) -> None:
    qkv = torch.randn(2, 2, 4, 2, 6, dtype=torch.float64, requires_grad=True)
    tables = tuple(torch.randn(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    gain = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b, c, d, e: on_grid(a, (b, c, d), e, 1, 2, shift), (qkv, *tables, gain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "size", "window", "shift"), [(2, 64, 8, 4), (2, 64, 8, 0), (4, 16, 4, 2)])
def test_cubic_attention_at_the_sizes_of_the_models(heads, size, window, shift, dtype) -> None:
    """Relative Frobenius error against the formula in float64, with rounded inputs."""
    grid = (window, 2 * window, 2 * window)
    qkv = torch.randn(1, *grid, 3 * heads * size).to(dtype)
    tables = tuple(torch.randn(2 * window - 1, size).mul(0.3).to(dtype) for _ in range(3))
    gain = torch.tensor(0.75)
    expected = on_grid(
        qkv.double(), tuple(t.double() for t in tables), gain.double(), heads, window, shift, window_attention_reference
    )
    out = on_grid(qkv, tables, gain, heads, window, shift)
    assert out.dtype == dtype
    assert float((out.double() - expected).norm() / expected.norm()) < TOLERANCE[dtype][2]


def test_gradients_agree_with_those_of_the_formula() -> None:
    grid, heads, window, shift = (8, 4, 8), 2, 4, 2

    def gradients(op, dtype):
        torch.manual_seed(1)
        qkv = torch.randn(2, *grid, 3 * heads * 8).to(dtype).requires_grad_()
        tables = [torch.randn(7, 8).to(dtype).requires_grad_() for _ in range(3)]
        gain = torch.tensor(0.7).to(dtype).requires_grad_()
        out = on_grid(qkv, tuple(tables), gain, heads, window, shift, op)
        return torch.autograd.grad((out * torch.randn(out.shape).to(dtype)).sum(), [qkv, *tables, gain])

    expected = gradients(window_attention_reference, torch.float64)
    for got, wanted in zip(gradients(window_attention, torch.float32), expected, strict=True):
        assert float((got.double() - wanted).norm() / wanted.norm()) < 1e-5


def test_logits_are_never_a_tensor() -> None:
    """The largest allocation of a pass with shift mask, against the 64 x 64 logits of every window and head."""
    qkv = torch.randn(64, 64, 3 * 4 * 16)
    tables = tuple(torch.randn(7, 16) for _ in range(3))
    sides = window_sides((16, 16, 16), 4, 2, CPU)
    logits = 64 * 4 * 64 * 64 * 4

    def largest(op):
        with torch.profiler.profile(profile_memory=True) as profile:
            op(qkv, tables, torch.tensor(1.0), 4, 4, sides)
        return max(event.cpu_memory_usage for event in profile.events())

    assert largest(window_attention_reference) >= logits
    assert largest(window_attention) < logits


def test_the_switch_chooses_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_KERNELS", "reference")
    qkv, tables = torch.randn(2, 8, 12), tuple(torch.randn(3, 2) for _ in range(3))
    expected = window_attention_reference(qkv, tables, torch.tensor(0.5), 2, 2, None)
    assert torch.equal(window_attention(qkv, tables, torch.tensor(0.5), 2, 2), expected)


def test_batches_do_not_mix() -> None:
    qkv = torch.randn(3, 4, 4, 4, 12)
    tables = tuple(torch.randn(3, 2) for _ in range(3))
    together = on_grid(qkv, tables, torch.tensor(1.0), 2, 2, 1)
    for index in range(3):
        alone = on_grid(qkv[index : index + 1], tables, torch.tensor(1.0), 2, 2, 1)
        assert torch.allclose(together[index : index + 1], alone, atol=1e-6)


def test_an_empty_batch_stays_empty() -> None:
    tables = tuple(torch.randn(3, 2) for _ in range(3))
    assert on_grid(torch.randn(0, 4, 4, 4, 12), tables, torch.tensor(1.0), 2, 2, 1).shape == (0, 4, 4, 4, 4)


def test_misfits_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4, 4\) is not a multiple of the window 2"):
        to_windows(torch.zeros(1, 3, 4, 4, 6), 2, 0)
    tables = tuple(torch.zeros(3, 2) for _ in range(3))
    with pytest.raises(ValueError, match="7 rows"):
        window_attention(torch.zeros(1, 64, 6), tables, torch.tensor(1.0), 1, 4)


@pytest.mark.parametrize("shift", [0, 1])
def test_windows_go_back(shift: int) -> None:
    x = torch.randn(2, 4, 6, 8, 5, dtype=torch.float64, requires_grad=True)
    windows = to_windows(x, 2, shift)
    assert torch.equal(from_windows(windows, 2, shift, (2, 4, 6, 8)), x)
    rolled = torch.roll(x, (-shift,) * 3, (1, 2, 3))
    assert torch.equal(windows[1, 3], rolled[0, 0, 1, 3])
    assert torch.equal(windows[2 * 3 * 4 + 4, 4], rolled[1, 1, 2, 0])
    assert torch.autograd.gradcheck(lambda y: to_windows(y, 2, shift), x)


def test_sides_say_what_the_stored_mask_says() -> None:
    sides = window_sides((8, 12, 8), 4, 2, CPU)
    apart = (sides[:, :, None] != sides[:, None, :]).float() * MASKED
    assert torch.equal(apart, shift_mask((8, 12, 8), 4, 2))
    assert window_sides((8, 12, 8), 4, 0, CPU) is None


def test_shift_mask_of_the_published_grid() -> None:
    mask = shift_mask((32, 32, 32), 8, 4)
    assert mask.shape == (64, 512, 512)
    assert torch.all((mask == 0) | (mask == MASKED))
    assert not mask[0].any()
    assert mask[-1].ne(0).float().mean() == pytest.approx(7 / 8)


@pytest.mark.parametrize("shape", [(1, 3, 5, 2, 6), (2, 1, 1, 1, 4), (1, 4, 4, 7, 10)])
def test_adapter_3d_is_its_formula(shape: tuple[int, ...]) -> None:
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
    assert torch.allclose(adapter_3d(x, *weights), expected, atol=1e-12)
    assert torch.allclose(adapter_3d(x.float(), *[v.float() for v in weights]).double(), expected, atol=1e-3)


def test_adapter_3d_gradients() -> None:
    x = torch.randn(1, 2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    shapes = ((2, 4), (2,), (2, 1, 3, 3, 3), (2,), (4, 2), (4,))
    weights = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    assert torch.autograd.gradcheck(adapter_3d, (x, *weights))


def test_adapter_3d_without_gradients_leaves_its_input_alone() -> None:
    x = torch.randn(1, 2, 3, 2, 4)
    shapes = ((2, 4), (2,), (2, 1, 3, 3, 3), (2,), (4, 2), (4,))
    weights = [torch.randn(s) for s in shapes]
    kept = x.clone()
    with torch.inference_mode():
        out = adapter_3d(x, *weights)
    assert torch.equal(x, kept)
    assert torch.allclose(out, adapter_3d_reference(x, *weights), atol=1e-6)


@pytest.mark.parametrize("activation", ["none", "relu", "gelu"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(5, 48), (2, 3, 48), (48,), (0, 48)])
def test_linear_is_its_formula(shape: tuple[int, ...], dtype: torch.dtype, activation) -> None:
    x, weight, bias = torch.randn(shape).to(dtype), torch.randn(7, 48).to(dtype), torch.randn(7).to(dtype)
    for b in (bias, None):
        expected = x.double() @ weight.double().T + (0 if b is None else b.double())
        if activation == "relu":
            expected = expected.clamp(min=0)
        if activation == "gelu":
            expected = expected * (1 + torch.erf(expected / 2**0.5)) / 2
        result = linear(x, weight, b, activation)
        assert result.shape == expected.shape
        assert result.dtype == dtype
        assert float((result.double() - expected).norm()) <= TOLERANCE[dtype][0] * float(expected.norm())


def test_linear_has_gradients_and_follows_autocast() -> None:
    x, weight, bias = torch.randn(5, 4), torch.randn(3, 4, requires_grad=True), torch.randn(3)
    assert not use_onednn(x, weight, bias)
    linear(x, weight, bias, "gelu").sum().backward()
    assert weight.grad is not None
    with torch.inference_mode():
        assert use_onednn(x, weight, bias)
        assert not use_onednn(x, weight.double(), bias)
        assert not use_onednn(x, torch.randn(4, 3).t())
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight, bias).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(1, 12, 4, 5, 6), (2, 3, 1, 1, 1), (1, 1, 7, 3, 2)])
def test_conv3d_is_its_formula(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape), torch.randn(5, shape[1], 3, 3, 3)
    padded = F.pad(x, (1,) * 6).double().unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)
    expected = torch.einsum("bchwdijk,ocijk->bohwd", padded, weight.double())
    channels_last = x.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    for given in (x, channels_last, x.double()):
        result = conv3d(given, weight.to(given.dtype))
        assert result.dtype == given.dtype
        assert torch.allclose(result.double(), expected, atol=1e-5)


@pytest.mark.parametrize("machine", ["arm64", "aarch64"])
def test_onednn_is_asked_on_x86_only(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = torch.randn(4, 4), torch.randn(3, 4)
    assert use_onednn(*tensors)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert not use_onednn(*tensors)
    assert torch.equal(linear(*tensors), F.linear(*tensors))


def test_conv3d_has_gradients() -> None:
    x, weight = torch.randn(1, 2, 3, 4, 5), torch.randn(3, 2, 3, 3, 3)
    direction = torch.randn(1, 3, 3, 4, 5)
    exact = [x.double().requires_grad_(), weight.double().requires_grad_()]
    wanted = torch.autograd.grad((F.conv3d(*exact, padding=1) * direction.double()).sum(), exact)
    ours = [x.requires_grad_(), weight.requires_grad_()]
    for got, exact_one in zip(torch.autograd.grad((conv3d(*ours) * direction).sum(), ours), wanted, strict=True):
        assert torch.allclose(got.double(), exact_one, atol=1e-4)


STEMS = {
    "published": (16, 16, 4, 6),
    "tiny": (8, 8, 2, 5),
    "embedded, no upsampling": (3, 3, 1, 4),
    "slices thinner than patches": (8, 4, 2, 4),
    "one voxel per patch": (4, 4, 4, 3),
}
"""patch, slices per token, upsampling, tokens along the longest axis."""


def stem_of(patch: int, slices: int, scale: int, tokens: int, channels: int, dtype: torch.dtype):
    image = torch.randn(2, channels, *(n * k // scale for n, k in ((tokens, slices), (2, patch), (tokens, patch))))
    weights = [torch.randn(s) for s in ((4, 3, patch, patch), (4,), (4, 1, 1, 1, slices), (4,))]
    return [tensor.to(dtype).requires_grad_() for tensor in (image, *weights)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", STEMS)
def test_folded_stem_is_upsampling_and_two_convolutions(name: str, channels: int) -> None:
    patch, slices, scale, tokens = STEMS[name]
    tensors = stem_of(patch, slices, scale, tokens, channels, torch.float64)
    expected = volume_patches_reference(*tensors, scale)
    assert expected.shape == (2, 2, tokens, tokens, 4)
    got = volume_patches(*tensors, scale)
    assert torch.allclose(got, expected, atol=1e-10)
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * direction).sum(), tensors)
    for ours, theirs in zip(torch.autograd.grad((got * direction).sum(), tensors), wanted, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9)


def test_one_channel_stands_for_three() -> None:
    image, *weights = stem_of(8, 8, 2, 4, 1, torch.float64)
    assert torch.allclose(volume_patches(image, *weights, 2), volume_patches(image.repeat(1, 3, 1, 1, 1), *weights, 2))


def test_stem_that_cannot_be_folded_is_computed_as_it_stands() -> None:
    image, *weights = stem_of(4, 4, 1, 4, 1, torch.float64)
    image = image[:, :, :4, :4, :4]
    assert torch.equal(volume_patches(image, *weights, 3), volume_patches_reference(image, *weights, 3))


@pytest.mark.parametrize("choice", ["triton", "reference"])
def test_attention_is_its_formula(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSEG_KERNELS", choice)
    if choice == "reference":
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", None)
    q, k, v = torch.randn(2, 3, 5, 7), torch.randn(2, 3, 11, 7), torch.randn(2, 3, 11, 7)
    weights = torch.softmax(torch.einsum("bhnd,bhmd->bhnm", q.double(), k.double()) / 7**0.5, -1)
    assert torch.allclose(attention(q, k, v).double(), weights @ v.double(), atol=1e-5)
