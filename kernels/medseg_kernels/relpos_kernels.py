"""Triton kernels of `relpos_attention`: what one program does. What they are given says `relpos_triton`."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


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
