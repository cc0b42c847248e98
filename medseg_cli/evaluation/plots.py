"""Plots as SVG text. Their colours are CSS variables of the page, so that they follow its light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, LEFT, RIGHT, ROW, TOP, FOOT = 560, 160, 20, 30, 12, 40
SCATTER_WIDTH, SCATTER_HEIGHT = 560, 300
NAME_LETTERS = 24
POINTS_SHOWN = 400
"""Points of one box; of more, evenly chosen ones are drawn."""


@dataclass(frozen=True)
class Strip:
    """The values of one row of a box plot.

    Args:
        name: beside it.
        values: at least one.
        cases: what each value belongs to.
        kind: "mine" or "other", for the colour.
    """

    name: str
    values: Sequence[float]
    cases: Sequence[str]
    kind: str = "mine"


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to pixels."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    @property
    def ticks(self) -> list[float]:
        """Round values, about five."""
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


def boxes(strips: Sequence[Strip], label: str, bounds: tuple[float | None, float | None] = (None, None)) -> str:
    """Lying boxes: the quartiles, the median, whiskers from the 5th to the 95th percentile, a dot per object.

    Args:
        strips: from top to bottom.
        label: of the axis.
        bounds: ends of the axis that are known beforehand.
    """
    everything = np.concatenate([np.asarray(strip.values, float) for strip in strips])
    axis = _axis(everything, bounds, LEFT, WIDTH - RIGHT)
    height = TOP + ROW * len(strips) + FOOT
    parts = [_grid(axis, TOP, height - FOOT, label)]
    for number, strip in enumerate(strips):
        parts.append(_strip(strip, axis, TOP + ROW * (number + 0.5)))
    return _svg(WIDTH, height, parts, f"box plot of {label}")


def _strip(strip: Strip, axis: Axis, y: float) -> str:
    values = np.asarray(strip.values, float)
    p05, p25, p50, p75, p95 = (axis.at(float(value)) for value in np.percentile(values, (5, 25, 50, 75, 95)))
    name = strip.name if len(strip.name) <= NAME_LETTERS else f"{strip.name[: NAME_LETTERS - 1]}…"
    parts = [
        f'<text class="name" x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>',
        f'<line class="whisker {strip.kind}" x1="{p05:.1f}" y1="{y:.1f}" x2="{p95:.1f}" y2="{y:.1f}"/>',
        f'<rect class="box {strip.kind}" x="{p25:.1f}" y="{y - 9:.1f}" width="{max(p75 - p25, 1):.1f}" height="18" '
        'rx="2"/>',
    ]
    shown = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS_SHOWN)).astype(int))
    for place in shown:
        # The same place in every report: a golden-ratio sequence looks random and is not.
        lift = ((place * 0.618034) % 1 - 0.5) * 14
        title = f"{strip.cases[place]}: {values[place]:.4g}"
        parts.append(
            f'<circle class="dot {strip.kind}" cx="{axis.at(float(values[place])):.1f}" cy="{y + lift:.1f}" r="2.6">'
            f"<title>{escape(title)}</title></circle>"
        )
    parts.append(f'<line class="median {strip.kind}" x1="{p50:.1f}" y1="{y - 9:.1f}" x2="{p50:.1f}" y2="{y + 9:.1f}"/>')
    return "".join(parts)


def bland_altman(
    reference: Sequence[float], found: Sequence[float], cases: Sequence[str], unit: str, other: str
) -> str:
    """Difference of two sizes over their mean, with the mean difference and the limits of agreement (± 1.96 SD).

    Args:
        reference, found: sizes of the same objects.
        cases: what each belongs to.
        unit: of the sizes.
        other: what `reference` is, in a word or two.
    """
    one, two = np.asarray(reference, float), np.asarray(found, float)
    middle, apart = (one + two) / 2, two - one
    bias, spread = float(apart.mean()), float(apart.std(ddof=1)) if len(apart) > 1 else 0.0
    limits = (bias - 1.96 * spread, bias, bias + 1.96 * spread)
    across = _axis(middle, (None, None), 80, SCATTER_WIDTH - 130)
    up = _axis(np.array([*apart, *limits, 0.0]), (None, None), SCATTER_HEIGHT - FOOT, TOP)
    parts = [_grid(across, TOP, SCATTER_HEIGHT - FOOT, f"mean of prediction and {other}, {unit}")]
    for tick in up.ticks:
        parts.append(f'<text class="tick" x="72" y="{up.at(tick) + 4:.1f}" text-anchor="end">{_text(tick)}</text>')
    middle_y = (TOP + SCATTER_HEIGHT - FOOT) / 2
    parts.append(
        f'<text class="tick" transform="translate(18 {middle_y:.1f}) rotate(-90)" text-anchor="middle">'
        f"prediction − {escape(other)}, {escape(unit)}</text>"
    )
    names = ("−1.96 SD", "mean", "+1.96 SD")
    for name, value in zip(names, limits, strict=True):
        y = up.at(value)
        css = "bias" if name == "mean" else "limit"
        parts.append(f'<line class="{css}" x1="80" y1="{y:.1f}" x2="{SCATTER_WIDTH - 130}" y2="{y:.1f}"/>')
        if spread or name == "mean":
            parts.append(f'<text class="tick" x="{SCATTER_WIDTH - 122}" y="{y + 4:.1f}">{name} {_text(value)}</text>')
    zero = up.at(0.0)
    parts.append(f'<line class="zero" x1="80" y1="{zero:.1f}" x2="{SCATTER_WIDTH - 130}" y2="{zero:.1f}"/>')
    for x, y, case in zip(middle, apart, cases, strict=True):
        parts.append(
            f'<circle class="dot mine" cx="{across.at(float(x)):.1f}" cy="{up.at(float(y)):.1f}" r="3.2">'
            f"<title>{escape(f'{case}: {y:+.4g} {unit}')}</title></circle>"
        )
    return _svg(SCATTER_WIDTH, SCATTER_HEIGHT, parts, f"Bland-Altman plot, {unit}")


def _grid(axis: Axis, top: float, bottom: float, label: str) -> str:
    parts = []
    for tick in axis.ticks:
        x = axis.at(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{_text(tick)}</text>')
    middle = (axis.start + axis.stop) / 2
    parts.append(f'<text class="tick" x="{middle:.1f}" y="{bottom + 34}" text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)


def _axis(values: np.ndarray, bounds: tuple[float | None, float | None], start: float, stop: float) -> Axis:
    low, high = float(values.min()), float(values.max())
    room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
    first = low - room if bounds[0] is None else bounds[0]
    last = high + room if bounds[1] is None else bounds[1]
    if last <= first:
        last = first + 1.0
    return Axis(first, last, start, stop)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))


def _text(value: float) -> str:
    return f"{value:.3g}".replace("-", "−") if abs(value) >= 1e-12 else "0"


def _svg(width: int, height: float, parts: Sequence[str], title: str) -> str:
    body = "".join(parts)
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )
