"""Triton kernels of `window_attention`, forward and backward; imported only where they run.

They read q, k and v where the projection left them, (N, tokens, 3, heads, d). Keys come plane by plane of the cube. The
relative-position terms of a query are among its products with all rows of the tables: at place p of an axis it needs
those from row edge - 1 - p on, so that a term is an address. Two of the three terms are the same for every plane: their
sum stays in registers, and each plane adds one number per query. The mask of a rolled grid is made from the sides that
tokens lie on. Products with the tables, logits and sums are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from medseg_kernels.cubic_windows import MASKED
from medseg_kernels.relpos_kernels import load, product

LOG2E = tl.constexpr(1.4426950408889634)
APART = tl.constexpr(MASKED)


@triton.jit
def rows_of(products, line, m, edge):
    """Where the terms of queries `m` with the keys at place 0 of the three axes stand."""
    span = 2 * edge - 1
    start = products + line * (3 * span) + edge - 1
    return start - m // (edge * edge), start + span - (m // edge) % edge, start + 2 * span - m % edge


@triton.jit
def forward_kernel(
    qkv, products, sides, out, lse,
    heads: tl.constexpr, edge: tl.constexpr, masked: tl.constexpr, d: tl.constexpr, first: tl.constexpr,
    rest: tl.constexpr, queries: tl.constexpr, cols: tl.constexpr, scale: tl.constexpr, up: tl.constexpr,
):  # fmt: skip
    """One block of queries of one window and head against all keys of the window."""
    head = tl.program_id(1) % heads
    window = tl.program_id(1) // heads
    size = edge * edge * edge
    m = tl.program_id(0) * queries + tl.arange(0, queries)
    known = m < size
    token = window * size + m
    line = token * heads + head
    e0 = tl.arange(0, first)
    in0 = known[:, None] & (e0 < d)[None, :]
    q_at = qkv + (token * 3 * heads + head)[:, None] * d
    q0 = load(q_at + e0[None, :], in0, up)
    if rest:
        e1 = first + tl.arange(0, rest)
        in1 = known[:, None] & (e1 < d)[None, :]
        q1 = load(q_at + e1[None, :], in1, up)
    n = tl.arange(0, cols * cols)
    ky = n // cols
    kz = n % cols
    real = (ky < edge) & (kz < edge)
    row_x, row_y, row_z = rows_of(products, line, m, edge)
    cells = known[:, None] & real[None, :]
    plane = tl.load(row_y[:, None] + ky[None, :], cells, 0.0) + tl.load(row_z[:, None] + kz[None, :], cells, 0.0)
    if masked:
        side = tl.load(sides + token, known, 0)
    peak = tl.full((queries,), float("-inf"), tl.float32)
    total = tl.zeros((queries,), tl.float32)
    acc0 = tl.zeros((queries, first), tl.float32)
    if rest:
        acc1 = tl.zeros((queries, rest), tl.float32)
    for kx in range(0, edge):
        key = window * size + (kx * edge + ky) * edge + kz
        k_at = qkv + ((key * 3 + 1) * heads + head)[:, None] * d
        s = product(q0, tl.trans(load(k_at + e0[None, :], real[:, None] & (e0 < d)[None, :], up)))
        if rest:
            s += product(q1, tl.trans(load(k_at + e1[None, :], real[:, None] & (e1 < d)[None, :], up)))
        s = s * scale + plane + tl.load(row_x + kx, known, 0.0)[:, None]
        if masked:
            s += tl.where(side[:, None] == tl.load(sides + key, real, 0)[None, :], 0.0, APART)
        s = tl.where(real[None, :], s * LOG2E, float("-inf"))
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
    out_at = out + line[:, None] * d
    tl.store(out_at + e0[None, :], (acc0 / total[:, None]).to(out.dtype.element_ty), in0)
    if rest:
        tl.store(out_at + e1[None, :], (acc1 / total[:, None]).to(out.dtype.element_ty), in1)
    tl.store(lse + line, (peak + tl.log2(total)) / LOG2E, known)


@triton.jit
def dq_kernel(
    gradient, qkv, products, sides, lse, delta, dqkv, dproducts,
    heads: tl.constexpr, edge: tl.constexpr, masked: tl.constexpr, d: tl.constexpr, first: tl.constexpr,
    rest: tl.constexpr, queries: tl.constexpr, cols: tl.constexpr, scale: tl.constexpr, up: tl.constexpr,
):  # fmt: skip
    """Gradients of one block of queries and of its terms: each belongs to one program, nothing is added up outside."""
    head = tl.program_id(1) % heads
    window = tl.program_id(1) // heads
    size = edge * edge * edge
    m = tl.program_id(0) * queries + tl.arange(0, queries)
    known = m < size
    token = window * size + m
    line = token * heads + head
    e0 = tl.arange(0, first)
    in0 = known[:, None] & (e0 < d)[None, :]
    q_at = (token * 3 * heads + head)[:, None] * d
    g_at = gradient + line[:, None] * d
    q0 = load(qkv + q_at + e0[None, :], in0, up)
    g0 = load(g_at + e0[None, :], in0, up)
    dq0 = tl.zeros((queries, first), tl.float32)
    if rest:
        e1 = first + tl.arange(0, rest)
        in1 = known[:, None] & (e1 < d)[None, :]
        q1 = load(qkv + q_at + e1[None, :], in1, up)
        g1 = load(g_at + e1[None, :], in1, up)
        dq1 = tl.zeros((queries, rest), tl.float32)
    n = tl.arange(0, cols * cols)
    ky = n // cols
    kz = n % cols
    real = (ky < edge) & (kz < edge)
    row_x, row_y, row_z = rows_of(products, line, m, edge)
    to_x, to_y, to_z = rows_of(dproducts, line, m, edge)
    cells = known[:, None] & real[None, :]
    plane = tl.load(row_y[:, None] + ky[None, :], cells, 0.0) + tl.load(row_z[:, None] + kz[None, :], cells, 0.0)
    dplane = tl.zeros((queries, cols * cols), tl.float32)
    whole = tl.load(lse + line, known, float("inf"))
    dot = tl.load(delta + line, known, 0.0)
    if masked:
        side = tl.load(sides + token, known, 0)
    for kx in range(0, edge):
        key = window * size + (kx * edge + ky) * edge + kz
        k_at = qkv + ((key * 3 + 1) * heads + head)[:, None] * d
        v_at = k_at + heads * d
        k0 = load(k_at + e0[None, :], real[:, None] & (e0 < d)[None, :], up)
        s = product(q0, tl.trans(k0))
        dp = product(g0, tl.trans(load(v_at + e0[None, :], real[:, None] & (e0 < d)[None, :], up)))
        if rest:
            k1 = load(k_at + e1[None, :], real[:, None] & (e1 < d)[None, :], up)
            s += product(q1, tl.trans(k1))
            dp += product(g1, tl.trans(load(v_at + e1[None, :], real[:, None] & (e1 < d)[None, :], up)))
        s = s * scale + plane + (tl.load(row_x + kx, known, 0.0) - whole)[:, None]
        if masked:
            s += tl.where(side[:, None] == tl.load(sides + key, real, 0)[None, :], 0.0, APART)
        ds = tl.where(cells, tl.exp2(s * LOG2E), 0.0) * (dp - dot[:, None])
        dq0 += product(ds.to(k0.dtype), k0)
        if rest:
            dq1 += product(ds.to(k1.dtype), k1)
        tl.store(to_x + kx, tl.sum(ds, 1), known)
        dplane += ds
    tl.store(dqkv + q_at + e0[None, :], (dq0 * scale).to(dqkv.dtype.element_ty), in0)
    if rest:
        tl.store(dqkv + q_at + e1[None, :], (dq1 * scale).to(dqkv.dtype.element_ty), in1)
    place = tl.arange(0, cols)
    stored = known[:, None] & (place < edge)[None, :]
    square = tl.reshape(dplane, (queries, cols, cols))
    tl.store(to_y[:, None] + place[None, :], tl.sum(square, 2), stored)
    tl.store(to_z[:, None] + place[None, :], tl.sum(square, 1), stored)


@triton.jit
def dkv_kernel(
    gradient, qkv, products, sides, lse, delta, dqkv,
    heads: tl.constexpr, edge: tl.constexpr, masked: tl.constexpr, d: tl.constexpr, first: tl.constexpr,
    rest: tl.constexpr, queries: tl.constexpr, cols: tl.constexpr, scale: tl.constexpr, up: tl.constexpr,
):  # fmt: skip
    """Gradients of one plane of keys and values, from logits computed as k qᵀ: the result of a product is never turned.

    Turning one is what Triton compiled wrongly for Hopper more than once.
    """
    head = tl.program_id(1) % heads
    window = tl.program_id(1) // heads
    size = edge * edge * edge
    kx = tl.program_id(0)
    n = tl.arange(0, cols * cols)
    ky = n // cols
    kz = n % cols
    real = (ky < edge) & (kz < edge)
    key = window * size + (kx * edge + ky) * edge + kz
    k_at = ((key * 3 + 1) * heads + head)[:, None] * d
    v_at = k_at + heads * d
    e0 = tl.arange(0, first)
    in0 = real[:, None] & (e0 < d)[None, :]
    k0 = load(qkv + k_at + e0[None, :], in0, up)
    v0 = load(qkv + v_at + e0[None, :], in0, up)
    dk0 = tl.zeros((cols * cols, first), tl.float32)
    dv0 = tl.zeros((cols * cols, first), tl.float32)
    if rest:
        e1 = first + tl.arange(0, rest)
        in1 = real[:, None] & (e1 < d)[None, :]
        k1 = load(qkv + k_at + e1[None, :], in1, up)
        v1 = load(qkv + v_at + e1[None, :], in1, up)
        dk1 = tl.zeros((cols * cols, rest), tl.float32)
        dv1 = tl.zeros((cols * cols, rest), tl.float32)
    place = tl.arange(0, cols)
    if masked:
        theirs = tl.load(sides + key, real, 0)
    for start in range(0, size, queries):
        m = start + tl.arange(0, queries)
        known = m < size
        token = window * size + m
        line = token * heads + head
        q_at = qkv + (token * 3 * heads + head)[:, None] * d
        g_at = gradient + line[:, None] * d
        q0 = load(q_at + e0[None, :], known[:, None] & (e0 < d)[None, :], up)
        g0 = load(g_at + e0[None, :], known[:, None] & (e0 < d)[None, :], up)
        s = product(k0, tl.trans(q0))
        dp = product(v0, tl.trans(g0))
        if rest:
            q1 = load(q_at + e1[None, :], known[:, None] & (e1 < d)[None, :], up)
            g1 = load(g_at + e1[None, :], known[:, None] & (e1 < d)[None, :], up)
            s += product(k1, tl.trans(q1))
            dp += product(v1, tl.trans(g1))
        row_x, row_y, row_z = rows_of(products, line, m, edge)
        near = (place < edge)[:, None] & known[None, :]
        term_y = tl.load(row_y[None, :] + place[:, None], near, 0.0)
        term_z = tl.load(row_z[None, :] + place[:, None], near, 0.0)
        s = tl.reshape(s, (cols, cols, queries)) * scale + term_y[:, None, :] + term_z[None, :, :]
        rest_of = tl.load(row_x + kx, known, 0.0) - tl.load(lse + line, known, float("inf"))
        s = tl.reshape(s, (cols * cols, queries)) + rest_of[None, :]
        if masked:
            s += tl.where(theirs[:, None] == tl.load(sides + token, known, 0)[None, :], 0.0, APART)
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
