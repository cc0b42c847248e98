"""Triton kernels of `adapter`, forward and backward; imported only where they run.

A program does everything for a block of rows. What is narrow stays in registers; wide rows are read a few times, all
but the first from the cache, and written once. The middle is two powers of two, 192 is 128 + 64, instead of one that
is larger. Sums are float32; `upcast` is for the interpreter, whose bfloat16 arithmetic is wrong.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def part(pointer, mask):
    """Zero where masked, in float32."""
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def product(a, b, upcast: tl.constexpr):
    """a @ b in float32, a rounded to the dtype of b."""
    if upcast:
        total = tl.dot(a, b.to(tl.float32), input_precision="ieee")
    else:
        total = tl.dot(a.to(b.dtype), b, input_precision="ieee")
    return total


@triton.jit
def block_of(matrix, row, column, stride, rows, columns):
    """matrix[row, column] of a matrix with `rows` rows of `stride` numbers; zero outside."""
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    return tl.load(matrix + row[:, None] * stride + column[None, :], mask=mask, other=0.0)


@triton.jit
def block_across(matrix, row, column, stride, rows, columns):
    """matrix[row, column] turned: (columns, rows)."""
    mask = (row < rows)[None, :] & (column < columns)[:, None]
    return tl.load(matrix + row[None, :] * stride + column[:, None], mask=mask, other=0.0)


@triton.jit
def statistics(x, row, known, channels, eps, block_t: tl.constexpr, block_c: tl.constexpr):
    """Mean and 1 / standard deviation of rows."""
    mean = tl.zeros((block_t,), tl.float32)
    for start in range(0, channels, block_c):
        c = start + tl.arange(0, block_c)
        mean += tl.sum(part(x + row + c[None, :], known & (c < channels)[None, :]), 1)
    mean = mean / channels
    square = tl.zeros((block_t,), tl.float32)
    for start in range(0, channels, block_c):
        c = start + tl.arange(0, block_c)
        mask = known & (c < channels)[None, :]
        away = tl.where(mask, part(x + row + c[None, :], mask) - mean[:, None], 0.0)
        square += tl.sum(away * away, 1)
    return mean, 1.0 / tl.sqrt(square / channels + eps)


@triton.jit
def activated(x, gelu: tl.constexpr):
    """The activation."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476)) if gelu else tl.maximum(x, 0.0)


@triton.jit
def slope(x, gelu: tl.constexpr):
    """Derivative of the activation."""
    if gelu:
        found = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    else:
        found = tl.where(x > 0, 1.0, 0.0)
    return found


@triton.jit
def forward_kernel(
    x, down_w, down_b, up_w, up_b, norm_w, norm_b, y, count, channels, middle, scale, eps,
    gelu: tl.constexpr, has_norm: tl.constexpr, residual: tl.constexpr, upcast: tl.constexpr,
    first: tl.constexpr, second: tl.constexpr, block_t: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """The result of `block_t` rows."""
    t = tl.program_id(0) * block_t + tl.arange(0, block_t)
    row = t[:, None] * channels
    known = (t < count)[:, None]
    if has_norm:
        mean, rstd = statistics(x, row, known, channels, eps, block_t, block_c)
    r = tl.arange(0, first)
    left = tl.zeros((block_t, first), tl.float32)
    if second > 0:
        s = first + tl.arange(0, second)
        right = tl.zeros((block_t, second), tl.float32)
    for start in range(0, channels, block_c):
        c = start + tl.arange(0, block_c)
        value = part(x + row + c[None, :], known & (c < channels)[None, :])
        if has_norm:
            factor = part(norm_w + c, c < channels)
            value = (value - mean[:, None]) * rstd[:, None] * factor[None, :] + part(norm_b + c, c < channels)[None, :]
        left += product(value, block_across(down_w, r, c, channels, middle, channels), upcast)
        if second > 0:
            right += product(value, block_across(down_w, s, c, channels, middle, channels), upcast)
    left = activated(left + part(down_b + r, r < middle)[None, :], gelu)
    if second > 0:
        right = activated(right + part(down_b + s, s < middle)[None, :], gelu)
    for start in range(0, channels, block_c):
        c = start + tl.arange(0, block_c)
        total = product(left, block_across(up_w, c, r, middle, channels, middle), upcast)
        if second > 0:
            total += product(right, block_across(up_w, c, s, middle, channels, middle), upcast)
        total = (total + part(up_b + c, c < channels)[None, :]) * scale
        mask = known & (c < channels)[None, :]
        if residual:
            total += part(x + row + c[None, :], mask)
        tl.store(y + row + c[None, :], total.to(y.dtype.element_ty), mask=mask)


@triton.jit
def back_through(
    before, dmiddle, down_b, weight_sum, bias_sum, after, dbefore, ddown_b, t, r, count, middle, scale,
    gelu: tl.constexpr, has_norm: tl.constexpr,
):  # fmt: skip
    """Gradient before the activation; what the row's norm needs of it; both sides of the activation are stored."""
    inside = (t < count)[:, None] & (r < middle)[None, :]
    biased = before + part(down_b + r, r < middle)[None, :]
    gradient = tl.where(inside, dmiddle * scale * slope(biased, gelu), 0.0)
    place = t[:, None] * middle + r[None, :]
    tl.store(after + place, activated(biased, gelu).to(after.dtype.element_ty), mask=inside)
    tl.store(dbefore + place, gradient.to(dbefore.dtype.element_ty), mask=inside)
    tl.store(ddown_b + tl.program_id(0) * middle + r, tl.sum(gradient, 0), mask=r < middle)
    if has_norm:
        along = tl.sum(gradient * part(weight_sum + r, r < middle)[None, :], 1)
        across = tl.sum(gradient * (before - part(bias_sum + r, r < middle)[None, :]), 1)
    else:
        along = tl.sum(gradient, 1)
        across = along
    return gradient, along, across


@triton.jit
def backward_kernel(
    gradient, x, down_w, down_b, up_w, norm_w, norm_b, weight_sum, bias_sum, dx, normed, after, dbefore, ddown_b, dup_b,
    count, channels, middle, scale, eps,
    gelu: tl.constexpr, has_norm: tl.constexpr, residual: tl.constexpr, upcast: tl.constexpr,
    first: tl.constexpr, second: tl.constexpr, block_t: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """Gradient of `block_t` rows of x, what the gradients of the weights are products of, and this block's share of
    the biases' gradients, a row of `ddown_b` and `dup_b`.
    """
    t = tl.program_id(0) * block_t + tl.arange(0, block_t)
    row = t[:, None] * channels
    known = (t < count)[:, None]
    if has_norm:
        mean, rstd = statistics(x, row, known, channels, eps, block_t, block_c)
    r = tl.arange(0, first)
    left = tl.zeros((block_t, first), tl.float32)
    dleft = tl.zeros((block_t, first), tl.float32)
    if second > 0:
        s = first + tl.arange(0, second)
        right = tl.zeros((block_t, second), tl.float32)
        dright = tl.zeros((block_t, second), tl.float32)
    for start in range(0, channels, block_c):
        c = start + tl.arange(0, block_c)
        mask = known & (c < channels)[None, :]
        value = part(x + row + c[None, :], mask)
        if has_norm:
            value = tl.where(mask, (value - mean[:, None]) * rstd[:, None], 0.0)
            tl.store(normed + row + c[None, :], value.to(normed.dtype.element_ty), mask=mask)
            value = value * part(norm_w + c, c < channels)[None, :] + part(norm_b + c, c < channels)[None, :]
        out = part(gradient + row + c[None, :], mask)
        tl.store(dup_b + tl.program_id(0) * channels + c, tl.sum(out, 0), mask=c < channels)
        left += product(value, block_across(down_w, r, c, channels, middle, channels), upcast)
        dleft += product(out, block_of(up_w, c, r, middle, channels, middle), upcast)
        if second > 0:
            right += product(value, block_across(down_w, s, c, channels, middle, channels), upcast)
            dright += product(out, block_of(up_w, c, s, middle, channels, middle), upcast)
    dleft, along, across = back_through(
        left, dleft, down_b, weight_sum, bias_sum, after, dbefore, ddown_b, t, r, count, middle, scale, gelu, has_norm
    )
    if second > 0:
        dright, more_along, more_across = back_through(
            right, dright, down_b, weight_sum, bias_sum, after, dbefore, ddown_b, t, s, count, middle, scale,
            gelu, has_norm,
        )  # fmt: skip
        along += more_along
        across += more_across
    for start in range(0, channels, block_c):
        c = start + tl.arange(0, block_c)
        mask = known & (c < channels)[None, :]
        total = product(dleft, block_of(down_w, r, c, channels, middle, channels), upcast)
        if second > 0:
            total += product(dright, block_of(down_w, s, c, channels, middle, channels), upcast)
        if has_norm:
            away = (part(x + row + c[None, :], mask) - mean[:, None]) * rstd[:, None]
            total = total * part(norm_w + c, c < channels)[None, :]
            total = rstd[:, None] * (total - along[:, None] / channels - away * across[:, None] / channels)
        if residual:
            total += part(gradient + row + c[None, :], mask)
        tl.store(dx + row + c[None, :], total.to(dx.dtype.element_ty), mask=mask)
