"""Triton kernels of `relpos_attention`, forward and backward; imported only where they run.

The kernels read q, k and v where the projection left them, (B, H, W, 3, heads, d), and find a window by index
arithmetic; the two biases come as (B, H, W, heads, h) and (B, H, W, heads, w). A block of keys is `rows` rows of a
window, each rounded up to `cols` columns, so that its biases are one outer sum. The padding of a window is where the
running softmax starts from: one key whose logit and value are known. Its gradients need no kernel. Biases and logits
are float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from medseg_kernels.dispatch import INTERPRETED

TILES = {
    "forward": {2: (64, 64, 4), 4: (32, 64, 8)},
    "dq": {2: (64, 64, 4), 4: (32, 64, 8)},
    "dkv": {2: (32, 64, 4), 4: (32, 64, 8)},
}
"""Kernel → bytes of a number → queries in a block, keys in a block, warps; keys at least one row of a window.

For sm_90 none of these keeps registers in memory (tests/compile_relpos.py); larger blocks do.
"""
STAGES = 2
LOG2E = tl.constexpr(1.4426950408889634)


@torch.library.custom_op("medseg::relpos_attention", mutates_args=())
def forward(
    qkv: Tensor, bias_h: Tensor, bias_w: Tensor, pad_logit: Tensor | None, pad_value: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention given its biases.

    Args:
        qkv: (B, H, W, 3, heads, d), contiguous.
        bias_h, bias_w: (B, H, W, heads, h) and (B, H, W, heads, w) float32, contiguous.
        pad_logit: (B, H, W, heads) float32 logit of all padding keys of a token's window; far below -1e8 without any.
        pad_value: (heads, d), float32.

    Returns:
        (B, H, W, heads, d) in qkv's dtype, and the logarithm of the softmax's sum, (B, H, W, heads) float32.
    """
    batch, height, width, _, heads, d = qkv.shape
    out = torch.empty(batch, height, width, heads, d, dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty(batch, height, width, heads, dtype=torch.float32, device=qkv.device)
    padded = pad_logit is not None and pad_value is not None
    grid, sizes, meta = launch("forward", qkv, bias_h.shape[-1], bias_w.shape[-1], by_keys=False)
    forward_kernel[grid](
        qkv, bias_h, bias_w, pad_logit if padded else lse, pad_value if padded else lse, out, lse, *sizes,
        padded=padded, **meta,
    )  # fmt: skip
    return out, lse


@forward.register_fake
def _(
    qkv: Tensor, bias_h: Tensor, bias_w: Tensor, pad_logit: Tensor | None, pad_value: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, height, width, _, heads, d = qkv.shape
    shape = (batch, height, width, heads)
    return qkv.new_empty(*shape, d), qkv.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("medseg::relpos_attention_backward", mutates_args=())
def backward(
    gradient: Tensor, qkv: Tensor, bias_h: Tensor, bias_w: Tensor, lse: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv and of both biases; `delta` is (B, H, W, heads), the scalar product of result and gradient."""
    dqkv = torch.empty_like(qkv)
    # Columns of cells that are padding belong to no key.
    dbias_h, dbias_w = torch.zeros_like(bias_h), torch.zeros_like(bias_w)
    given = (gradient, qkv, bias_h, bias_w, lse, delta, dqkv)
    grid, sizes, meta = launch("dq", qkv, bias_h.shape[-1], bias_w.shape[-1], by_keys=False)
    dq_kernel[grid](*given, dbias_h, dbias_w, *sizes, **meta)
    grid, sizes, meta = launch("dkv", qkv, bias_h.shape[-1], bias_w.shape[-1], by_keys=True)
    dkv_kernel[grid](*given, *sizes, **meta)
    return dqkv, dbias_h, dbias_w


@backward.register_fake
def _(
    gradient: Tensor, qkv: Tensor, bias_h: Tensor, bias_w: Tensor, lse: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(qkv), torch.empty_like(bias_h), torch.empty_like(bias_w)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, bias_h, bias_w, pad_logit, pad_value = inputs
    ctx.save_for_backward(qkv, bias_h, bias_w, pad_logit, pad_value, *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    qkv, bias_h, bias_w, pad_logit, pad_value, out, lse = ctx.saved_tensors
    gradient = gradient.contiguous()
    delta = (out.float() * gradient.float()).sum(-1)
    dqkv, dbias_h, dbias_w = backward(gradient, qkv, bias_h, bias_w, lse, delta)
    dpad_logit = dpad_value = None
    if pad_logit is not None:
        weight = torch.exp(pad_logit - lse)
        dpad_logit = weight * ((gradient.float() * pad_value).sum(-1) - delta)
        dpad_value = torch.einsum("byxn,byxnd->nd", weight, gradient.float())
    return dqkv, dbias_h, dbias_w, dpad_logit, dpad_value


forward.register_autograd(_backward, setup_context=_keep)


def launch(
    kernel: str, qkv: Tensor, h: int, w: int, by_keys: bool
) -> tuple[tuple[int, int], tuple[int, ...], dict[str, Any]]:
    """Grid, sizes and compile-time values of a kernel for windows of h x w tokens."""
    batch, height, width, _, heads, d = qkv.shape
    queries, keys, warps = TILES[kernel][qkv.element_size()]
    cols = max(8, triton.next_power_of_2(w))
    rows = max(1, keys // cols)
    down, across = triton.cdiv(height, h), triton.cdiv(width, w)
    blocks = triton.cdiv(h, rows) if by_keys else triton.cdiv(h * w, queries)
    # Head dimension 80 is 64 + 16: rounded up to 128, three of eight products would be wasted.
    first = max(16, triton.next_power_of_2(d + 1) // 2)
    rest = triton.next_power_of_2(d - first) if d > first else 0
    meta = {
        "d": d, "first": first, "rest": max(16, rest) if rest else 0, "queries": queries, "rows": rows, "cols": cols,
        "scale": d**-0.5, "up": INTERPRETED, "num_warps": warps, "num_stages": STAGES,
    }  # fmt: skip
    return (blocks, batch * down * across * heads), (height, width, heads, h, w, down, across), meta


@triton.jit
def place(program, height, width, heads, h, w, down, across):
    """Program → image, head, top row and left column of its window, and the window's real size."""
    head = program % heads
    window = program // heads
    left = (window % across) * w
    window = window // across
    top = (window % down) * h
    return window // down, head, top, left, tl.minimum(h, height - top), tl.minimum(w, width - left)


@triton.jit
def load(pointer, mask, up: tl.constexpr):
    """Zero where masked; the interpreter cannot compute in bfloat16."""
    x = tl.load(pointer, mask=mask, other=0.0)
    return x.to(tl.float32) if up else x


@triton.jit
def product(a, b):
    """a @ b in float32, as exact as its operands."""
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def forward_kernel(
    qkv, bias_h, bias_w, pad_logit, pad_value, out, lse, height, width, heads, h, w, down, across,
    padded: tl.constexpr, d: tl.constexpr, first: tl.constexpr, rest: tl.constexpr, queries: tl.constexpr,
    rows: tl.constexpr, cols: tl.constexpr, scale: tl.constexpr, up: tl.constexpr,
):  # fmt: skip
    """One block of queries of one window and head against all keys of the window."""
    image, head, top, left, r, c = place(tl.program_id(1), height, width, heads, h, w, down, across)
    m = tl.program_id(0) * queries + tl.arange(0, queries)
    known = m < r * c
    token = (image * height + top + m // c) * width + left + m % c
    e0 = tl.arange(0, first)
    in0 = known[:, None] & (e0 < d)[None, :]
    q_at = qkv + (token * 3 * heads + head)[:, None] * d
    q0 = load(q_at + e0[None, :], in0, up)
    if rest:
        e1 = first + tl.arange(0, rest)
        in1 = known[:, None] & (e1 < d)[None, :]
        q1 = load(q_at + e1[None, :], in1, up)
    x = tl.arange(0, cols)
    side = tl.load(bias_w + ((token * heads + head) * w)[:, None] + x[None, :], known[:, None] & (x < c)[None, :], 0.0)
    n = tl.arange(0, rows * cols)
    if padded:
        peak = tl.load(pad_logit + token * heads + head, known, float("-inf")) * LOG2E
        total = tl.where(peak > -1e8, 1.0, 0.0)
        acc0 = total[:, None] * tl.load(pad_value + head * d + e0, e0 < d, 0.0).to(tl.float32)[None, :]
        if rest:
            acc1 = total[:, None] * tl.load(pad_value + head * d + e1, e1 < d, 0.0).to(tl.float32)[None, :]
    else:
        peak = tl.full((queries,), float("-inf"), tl.float32)
        total = tl.zeros((queries,), tl.float32)
        acc0 = tl.zeros((queries, first), tl.float32)
        if rest:
            acc1 = tl.zeros((queries, rest), tl.float32)
    for y0 in range(0, r, rows):
        ky = y0 + n // cols
        kx = n % cols
        real = (ky < r) & (kx < c)
        k_at = qkv + ((((image * height + top + ky) * width + left + kx) * 3 + 1) * heads + head)[:, None] * d
        s = product(q0, tl.trans(load(k_at + e0[None, :], real[:, None] & (e0 < d)[None, :], up)))
        if rest:
            s += product(q1, tl.trans(load(k_at + e1[None, :], real[:, None] & (e1 < d)[None, :], up)))
        y = y0 + tl.arange(0, rows)
        upper = tl.load(
            bias_h + ((token * heads + head) * h)[:, None] + y[None, :], known[:, None] & (y < r)[None, :], 0.0
        )
        s = tl.reshape(s, (queries, rows, cols)) * scale + upper[:, :, None] + side[:, None, :]
        s = tl.where(real[None, :], tl.reshape(s, (queries, rows * cols)) * LOG2E, float("-inf"))
        higher = tl.maximum(peak, tl.max(s, 1))
        shrink = tl.exp2(peak - higher)
        p = tl.exp2(s - higher[:, None])
        total = total * shrink + tl.sum(p, 1)
        v_at = k_at + heads * d
        v0 = load(v_at + e0[None, :], real[:, None] & (e0 < d)[None, :], up)
        acc0 = acc0 * shrink[:, None] + product(p.to(v0.dtype), v0)
        if rest:
            v1 = load(v_at + e1[None, :], real[:, None] & (e1 < d)[None, :], up)
            acc1 = acc1 * shrink[:, None] + product(p.to(v1.dtype), v1)
        peak = higher
    out_at = out + (token * heads + head)[:, None] * d
    tl.store(out_at + e0[None, :], (acc0 / total[:, None]).to(out.dtype.element_ty), in0)
    if rest:
        tl.store(out_at + e1[None, :], (acc1 / total[:, None]).to(out.dtype.element_ty), in1)
    tl.store(lse + token * heads + head, (peak + tl.log2(total)) / LOG2E, known)


@triton.jit
def dq_kernel(
    gradient, qkv, bias_h, bias_w, lse, delta, dqkv, dbias_h, dbias_w, height, width, heads, h, w, down, across,
    d: tl.constexpr, first: tl.constexpr, rest: tl.constexpr, queries: tl.constexpr,
    rows: tl.constexpr, cols: tl.constexpr, scale: tl.constexpr, up: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of queries and of its biases: each belongs to one program, nothing is added up outside."""
    image, head, top, left, r, c = place(tl.program_id(1), height, width, heads, h, w, down, across)
    m = tl.program_id(0) * queries + tl.arange(0, queries)
    known = m < r * c
    token = (image * height + top + m // c) * width + left + m % c
    e0 = tl.arange(0, first)
    in0 = known[:, None] & (e0 < d)[None, :]
    q_at = (token * 3 * heads + head)[:, None] * d
    g_at = gradient + (token * heads + head)[:, None] * d
    q0 = load(qkv + q_at + e0[None, :], in0, up)
    g0 = load(g_at + e0[None, :], in0, up)
    dq0 = tl.zeros((queries, first), tl.float32)
    if rest:
        e1 = first + tl.arange(0, rest)
        in1 = known[:, None] & (e1 < d)[None, :]
        q1 = load(qkv + q_at + e1[None, :], in1, up)
        g1 = load(g_at + e1[None, :], in1, up)
        dq1 = tl.zeros((queries, rest), tl.float32)
    x = tl.arange(0, cols)
    in_w = known[:, None] & (x < c)[None, :]
    side = tl.load(bias_w + ((token * heads + head) * w)[:, None] + x[None, :], in_w, 0.0)
    dside = tl.zeros((queries, cols), tl.float32)
    whole = tl.load(lse + token * heads + head, known, float("inf"))
    dot = tl.load(delta + token * heads + head, known, 0.0)
    n = tl.arange(0, rows * cols)
    for y0 in range(0, r, rows):
        ky = y0 + n // cols
        kx = n % cols
        real = (ky < r) & (kx < c)
        k_at = qkv + ((((image * height + top + ky) * width + left + kx) * 3 + 1) * heads + head)[:, None] * d
        v_at = k_at + heads * d
        k0 = load(k_at + e0[None, :], real[:, None] & (e0 < d)[None, :], up)
        s = product(q0, tl.trans(k0))
        dp = product(g0, tl.trans(load(v_at + e0[None, :], real[:, None] & (e0 < d)[None, :], up)))
        if rest:
            k1 = load(k_at + e1[None, :], real[:, None] & (e1 < d)[None, :], up)
            s += product(q1, tl.trans(k1))
            dp += product(g1, tl.trans(load(v_at + e1[None, :], real[:, None] & (e1 < d)[None, :], up)))
        y = y0 + tl.arange(0, rows)
        in_h = known[:, None] & (y < r)[None, :]
        upper = tl.load(bias_h + ((token * heads + head) * h)[:, None] + y[None, :], in_h, 0.0)
        s = tl.reshape(s, (queries, rows, cols)) * scale + upper[:, :, None] + side[:, None, :]
        s = tl.reshape(s, (queries, rows * cols)) - whole[:, None]
        p = tl.where(real[None, :], tl.exp2(s * LOG2E), 0.0)
        ds = p * (dp - dot[:, None])
        dq0 += product(ds.to(k0.dtype), k0)
        if rest:
            dq1 += product(ds.to(k1.dtype), k1)
        cells = tl.reshape(ds, (queries, rows, cols))
        tl.store(dbias_h + ((token * heads + head) * h)[:, None] + y[None, :], tl.sum(cells, 2), in_h)
        dside += tl.sum(cells, 1)
    tl.store(dqkv + q_at + e0[None, :], (dq0 * scale).to(dqkv.dtype.element_ty), in0)
    if rest:
        tl.store(dqkv + q_at + e1[None, :], (dq1 * scale).to(dqkv.dtype.element_ty), in1)
    tl.store(dbias_w + ((token * heads + head) * w)[:, None] + x[None, :], dside, in_w)


@triton.jit
def dkv_kernel(
    gradient, qkv, bias_h, bias_w, lse, delta, dqkv, height, width, heads, h, w, down, across,
    d: tl.constexpr, first: tl.constexpr, rest: tl.constexpr, queries: tl.constexpr,
    rows: tl.constexpr, cols: tl.constexpr, scale: tl.constexpr, up: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of keys and values, from logits computed as k qᵀ: the result of a product is never turned.

    Turning one is what Triton compiled wrongly for Hopper more than once.
    """
    image, head, top, left, r, c = place(tl.program_id(1), height, width, heads, h, w, down, across)
    y0 = tl.program_id(0) * rows
    n = tl.arange(0, rows * cols)
    ky = y0 + n // cols
    kx = n % cols
    real = (ky < r) & (kx < c)
    k_at = ((((image * height + top + ky) * width + left + kx) * 3 + 1) * heads + head)[:, None] * d
    v_at = k_at + heads * d
    e0 = tl.arange(0, first)
    in0 = real[:, None] & (e0 < d)[None, :]
    k0 = load(qkv + k_at + e0[None, :], in0, up)
    v0 = load(qkv + v_at + e0[None, :], in0, up)
    dk0 = tl.zeros((rows * cols, first), tl.float32)
    dv0 = tl.zeros((rows * cols, first), tl.float32)
    if rest:
        e1 = first + tl.arange(0, rest)
        in1 = real[:, None] & (e1 < d)[None, :]
        k1 = load(qkv + k_at + e1[None, :], in1, up)
        v1 = load(qkv + v_at + e1[None, :], in1, up)
        dk1 = tl.zeros((rows * cols, rest), tl.float32)
        dv1 = tl.zeros((rows * cols, rest), tl.float32)
    x = tl.arange(0, cols)
    y = y0 + tl.arange(0, rows)
    for start in range(0, r * c, queries):
        m = start + tl.arange(0, queries)
        known = m < r * c
        token = (image * height + top + m // c) * width + left + m % c
        q_at = qkv + (token * 3 * heads + head)[:, None] * d
        g_at = gradient + (token * heads + head)[:, None] * d
        q0 = load(q_at + e0[None, :], known[:, None] & (e0 < d)[None, :], up)
        g0 = load(g_at + e0[None, :], known[:, None] & (e0 < d)[None, :], up)
        s = product(k0, tl.trans(q0))
        dp = product(v0, tl.trans(g0))
        if rest:
            q1 = load(q_at + e1[None, :], known[:, None] & (e1 < d)[None, :], up)
            g1 = load(g_at + e1[None, :], known[:, None] & (e1 < d)[None, :], up)
            s += product(k1, tl.trans(q1))
            dp += product(v1, tl.trans(g1))
        line = token * heads + head
        upper = tl.load(bias_h + (line * h)[None, :] + y[:, None], known[None, :] & (y < r)[:, None], 0.0)
        side = tl.load(bias_w + (line * w)[None, :] + x[:, None], known[None, :] & (x < c)[:, None], 0.0)
        s = tl.reshape(s, (rows, cols, queries)) * scale + upper[:, None, :] + side[None, :, :]
        s = tl.reshape(s, (rows * cols, queries)) - tl.load(lse + line, known, float("inf"))[None, :]
        p = tl.where(real[:, None] & known[None, :], tl.exp2(s * LOG2E), 0.0)
        ds = p * (dp - tl.load(delta + line, known, 0.0)[None, :])
        dv0 += product(p.to(g0.dtype), g0)
        dk0 += product(ds.to(q0.dtype), q0)
        if rest:
            dv1 += product(p.to(g1.dtype), g1)
            dk1 += product(ds.to(q1.dtype), q1)
    tl.store(dqkv + k_at + e0[None, :], (dk0 * scale).to(dqkv.dtype.element_ty), in0)
    tl.store(dqkv + v_at + e0[None, :], dv0.to(dqkv.dtype.element_ty), in0)
    if rest:
        tl.store(dqkv + k_at + e1[None, :], (dk1 * scale).to(dqkv.dtype.element_ty), in1)
        tl.store(dqkv + v_at + e1[None, :], dv1.to(dqkv.dtype.element_ty), in1)
