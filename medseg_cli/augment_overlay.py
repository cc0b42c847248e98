"""What a sonographer and a machine burn into a picture, drawn at random for training.

Callipers, dotted lines and ellipses, text, rulers, grey bars, body marks and blanked names. They stand on the object
and elsewhere alike, so that a network learns to pass over them and not to look for them. A mask is never changed: the
tissue below a line is what it was. Every draw comes from the generator passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

FINER = 3
"""Lines are drawn on this many times finer pixels and averaged."""
ON_OBJECT = 0.5
"""How often callipers and ellipses lie on the object, where one is given."""
COLOURS = (
    (1, 1, 1),
    (1, 1, 1),
    (1, 1, 1),
    (0.7, 0.7, 0.7),
    (1, 1, 0),
    (0, 1, 0),
    (0, 1, 1),
    (1, 0.6, 0),
    (1, 0.2, 0.2),
)
"""RGB of lines and letters; a grey picture gets their luma."""
LUMA = (0.299, 0.587, 0.114)
"""Rec. 601."""
LETTERS = {
    "0": "01 10 21 23 14 03 01", "1": "01 10 14", "2": "01 10 21 04 24", "3": "00 20 12 23 14 03",
    "4": "14 10 03 23", "5": "20 00 02 12 23 14 04", "6": "20 02 03 14 23 12 02", "7": "00 20 04",
    "8": "12 01 10 21 12 03 14 23 12", "9": "22 12 01 10 21 22 14", "A": "04 01 10 21 24,02 22",
    "B": "00 04 14 23 12 02,00 10 21 12", "C": "21 10 01 03 14 23", "D": "00 04 14 23 21 10 00",
    "E": "20 00 04 24,02 12", "F": "20 00 04,02 12", "G": "21 10 01 03 14 23 22 12", "H": "00 04,20 24,02 22",
    "I": "10 14", "L": "00 04 24", "M": "04 00 12 20 24", "N": "04 00 24 20", "O": "01 10 21 23 14 03 01",
    "P": "04 00 10 21 12 02", "Q": "01 10 21 23 14 03 01,13 24", "R": "04 00 10 21 12 02,12 24",
    "S": "21 10 01 23 14 03", "T": "00 20,10 14", "U": "00 03 14 23 20", "V": "00 14 20", "X": "00 24,20 04",
    "Z": "00 20 04 24", ".": "14 14", "-": "02 22", ":": "11 11,13 13", "/": "20 04",
}  # fmt: skip
"""Strokes of letters: places (x 0..2, y 0..4) joined by lines."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """Where lines of one picture are collected.

    Args:
        height, width: the picture's, in pixels.
        width_px: how thick lines are.
        points: places (N, 2) xy in pixels that lines go through.
    """

    height: int
    width: int
    width_px: float
    points: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def unit(self) -> float:
        """A hundredth of the shorter side in pixels: what sizes of marks are given in."""
        return min(self.height, self.width) / 100

    def line(self, places: NDArray[np.float64], on: float = 1.0, off: float = 0.0) -> None:
        """A line through places (N, 2) xy; with `off` it is dashed: `on` pixels drawn, `off` pixels left out."""
        steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
        along = np.concatenate([[0], np.cumsum(steps)])
        at = np.arange(0, along[-1] + 1e-6, 0.8 / FINER)
        if off:
            at = at[at % (on + off) < on]
        self.points.append(np.stack([np.interp(at, along, places[:, axis]) for axis in (0, 1)], axis=1))

    def text(self, words: str, x: float, y: float, size: float) -> None:
        """Words with their top left corner at (x, y), `size` pixels high."""
        unit = size / 4
        for place, letter in enumerate(words):
            for stroke in LETTERS.get(letter, "").split(","):
                dots = np.array([[int(dot[0]), int(dot[1])] for dot in stroke.split()], dtype=np.float64).reshape(-1, 2)
                if len(dots):
                    self.line(np.array([x + 3.2 * unit * place, y]) + unit * dots)

    def cover(self) -> Tensor:
        """(1, height, width) in 0..1: the share of each pixel that lines cover."""
        fine = np.zeros((FINER * self.height, FINER * self.width), dtype=np.float32)
        if self.points:
            reach = max(1, round(FINER * self.width_px))
            offsets = np.arange(reach) - (reach - 1) / 2
            places = np.concatenate(self.points) * FINER
            for dx in offsets:
                column = np.floor(places[:, 0] + dx).astype(np.int64)
                for dy in offsets:
                    row = np.floor(places[:, 1] + dy).astype(np.int64)
                    inside = (column >= 0) & (column < fine.shape[1]) & (row >= 0) & (row < fine.shape[0])
                    fine[row[inside], column[inside]] = 1
        return F.avg_pool2d(torch.from_numpy(fine)[None], FINER)


def random_overlay(grey: Tensor, rng: Generator, mask: Tensor | None = None) -> Tensor:
    """A picture with one to four kinds of overlays burned in.

    Args:
        grey: (C, h, w) in 0..1, C = 1 or 3.
        rng: every draw.
        mask: (h, w) bool, an object that callipers may measure; None or empty = they measure nothing.

    Returns:
        (C, h, w) in 0..1, a new tensor.
    """
    image = _blanked(grey, rng) if rng.random() < 0.15 else grey
    height, width = grey.shape[1:]
    kinds = rng.permutation(np.array([_callipers, _callipers, _ellipse, _text, _text, _ruler, _body_mark, _bar, _box]))
    for kind in kinds[: int(rng.integers(1, 5))]:
        canvas = Canvas(height, width, float(rng.uniform(0.4, 1.6)) * max(1.0, min(height, width) / 256))
        kind(canvas, mask, rng)
        image = _burned(image, canvas.cover(), rng)
    return image


def _burned(image: Tensor, cover: Tensor, rng: Generator) -> Tensor:
    """One colour drawn over a picture, at times with a dark edge round it."""
    colour = torch.tensor(COLOURS[int(rng.integers(len(COLOURS)))], dtype=image.dtype)[:, None, None]
    if image.shape[0] == 1:
        colour = (colour * torch.tensor(LUMA, dtype=image.dtype)[:, None, None]).sum(0, keepdim=True)
    opacity = float(rng.uniform(0.6, 1.0))
    if rng.random() < 0.25:
        image = image * (1 - opacity * F.max_pool2d(cover, 3, 1, 1))
    return (image * (1 - opacity * cover) + colour * opacity * cover).clamp(0, 1)


def _axes(canvas: Canvas, mask: Tensor | None, rng: Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle (2,) xy and half axes (2, 2), longer first, of an ellipse: about the object's, or anywhere."""
    sides = np.array([canvas.width, canvas.height], dtype=np.float64)
    if mask is not None and rng.random() < ON_OBJECT:
        rows, columns = np.nonzero(mask.numpy())
        if len(rows) > 1:
            places = np.stack([columns, rows], axis=1) + 0.5
            values, vectors = np.linalg.eigh(np.cov(places.T) + 1e-6 * np.eye(2))
            half = 2 * np.sqrt(values[::-1])[:, None] * vectors.T[::-1]
            size = float(np.linalg.norm(half[0]))
            return places.mean(0) + rng.normal(0, 0.03 * size, size=2), half * np.exp(rng.normal(0, 0.06, size=(2, 1)))
    angle, length = rng.uniform(0, np.pi), float(np.exp(rng.uniform(*np.log((4.0, 45.0))))) * canvas.unit
    long = length * np.array([np.cos(angle), np.sin(angle)])
    short = rng.uniform(0.4, 1.0) * length * np.array([-np.sin(angle), np.cos(angle)])
    return rng.uniform(0.1, 0.9, size=2) * sides, np.stack([long, short])


def _callipers(canvas: Canvas, mask: Tensor | None, rng: Generator) -> None:
    """One or two measured lengths: marks at both ends, mostly with a dotted line between and a number beside."""
    middle, axes = _axes(canvas, mask, rng)
    size = float(rng.uniform(1.0, 2.6)) * canvas.unit
    shape = rng.choice(["plus", "plus", "cross", "tee"])
    dotted, numbered = rng.random() < 0.7, rng.random() < 0.4
    on, off = rng.uniform(0.4, 2.0), rng.uniform(1.5, 5.0)
    for number, axis in enumerate(axes[: int(rng.integers(1, 3))]):
        along = axis / max(1e-6, float(np.linalg.norm(axis)))
        across = np.array([-along[1], along[0]])
        arms = {"plus": np.eye(2), "cross": np.array([[0.7, 0.7], [0.7, -0.7]]), "tee": np.stack([across, 0.3 * along])}
        for end in (middle - axis, middle + axis):
            for arm in arms[str(shape)]:
                canvas.line(np.stack([end - size * arm, end + size * arm]))
        if dotted:
            canvas.line(np.stack([middle - axis, middle + axis]), on, off)
        if numbered:
            x, y = middle + axis + 1.5 * size
            canvas.text(str(number + 1), float(x), float(y), 1.6 * size)


def _ellipse(canvas: Canvas, mask: Tensor | None, rng: Generator) -> None:
    """A dotted or drawn outline, as a circumference is measured, mostly with marks at its ends."""
    middle, axes = _axes(canvas, mask, rng)
    turn = np.linspace(0, 2 * np.pi, 90)[:, None]
    off = rng.uniform(1.5, 6.0) if rng.random() < 0.8 else 0.0
    canvas.line(middle + np.cos(turn) * axes[0] + np.sin(turn) * axes[1], rng.uniform(0.4, 2.5), off)
    if rng.random() < 0.6:
        size = float(rng.uniform(1.0, 2.2)) * canvas.unit
        for end in (middle - axes[0], middle + axes[0], middle - axes[1], middle + axes[1]):
            for arm in np.eye(2):
                canvas.line(np.stack([end - size * arm, end + size * arm]))


def _text(canvas: Canvas, _: Tensor | None, rng: Generator) -> None:
    """One to five lines of letters and digits, mostly near a corner."""
    size = float(rng.uniform(2.0, 5.0)) * canvas.unit
    lines = int(rng.integers(1, 6)) if rng.random() < 0.6 else 1
    x, y = rng.uniform(0.02, 0.7) * canvas.width, rng.uniform(0.02, 0.9) * canvas.height
    if rng.random() < 0.6:
        x = rng.choice([0.02, 0.7]) * canvas.width
        y = float(rng.choice([0.02 * canvas.height, 0.97 * canvas.height - 1.6 * size * lines]))
    for line in range(lines):
        words = "".join(rng.choice(np.array([*LETTERS, " "]), size=int(rng.integers(2, 14))))
        canvas.text(words, float(x), float(y + 1.6 * size * line), size)


def _ruler(canvas: Canvas, _: Tensor | None, rng: Generator) -> None:
    """Ticks along a side or two, each fifth or tenth longer, at times with numbers."""
    step, long = float(rng.uniform(1.5, 8.0)) * canvas.unit, int(rng.choice([1, 5, 10]))
    size, inset = float(rng.uniform(0.5, 2.0)) * canvas.unit, float(rng.uniform(0.0, 12.0)) * canvas.unit
    numbered = rng.random() < 0.4
    for upright in rng.permutation(np.array([True, False]))[: 1 if rng.random() < 0.7 else 2]:
        length, across = (canvas.height, canvas.width) if upright else (canvas.width, canvas.height)
        side = inset if rng.random() < 0.5 else across - inset
        for number, at in enumerate(np.arange(rng.uniform(0, step), length, step)):
            half = size if number % long == 0 else 0.4 * size
            ends = np.array([[side - half, at], [side + half, at]])
            canvas.line(ends if upright else ends[:, ::-1])
            if numbered and number % long == 0:
                x, y = (side + 2 * size, at) if upright else (at, side - 4 * size)
                canvas.text(str(number // long), float(x), float(y), 1.5 * size)


def _body_mark(canvas: Canvas, _: Tensor | None, rng: Generator) -> None:
    """A small outline of a body's part in a corner, with the probe drawn across it."""
    size = float(rng.uniform(4.0, 9.0)) * canvas.unit
    inset = rng.uniform(1.0, 2.0) * size
    middle = np.array([rng.choice([inset, canvas.width - inset]), rng.choice([inset, canvas.height - inset])])
    turn = np.linspace(0, 2 * np.pi, 40)
    stretch = rng.uniform(0.6, 1.0, size=2) * size
    canvas.line(middle + np.stack([np.cos(turn), np.sin(turn)], axis=1) * stretch)
    if rng.random() < 0.5:
        canvas.line(middle + np.stack([np.cos(turn), np.sin(turn)], axis=1) * 0.15 * size)
    angle = rng.uniform(0, np.pi)
    probe = 0.4 * size * np.array([np.cos(angle), np.sin(angle)])
    place = middle + rng.uniform(-0.6, 0.6, size=2) * stretch
    canvas.line(np.stack([place - probe, place + probe]))


def _bar(canvas: Canvas, _: Tensor | None, rng: Generator) -> None:
    """The bright end of a machine's scale of grey values, along a side."""
    wide, high = float(rng.uniform(1.0, 3.0)) * canvas.unit, float(rng.uniform(0.15, 0.5)) * canvas.height
    x = rng.choice([0.01, 0.95]) * canvas.width
    y = rng.uniform(0.0, 0.5) * canvas.height
    for offset in np.arange(0, wide, 0.5):
        canvas.line(np.array([[x + offset, y], [x + offset, y + high]]))


def _box(canvas: Canvas, _: Tensor | None, rng: Generator) -> None:
    """A dashed or drawn rectangle, as a region of colour flow or elastography is marked."""
    low, sides = rng.uniform(0.0, 0.5, size=2), rng.uniform(0.15, 0.5, size=2)
    x0, y0 = low * [canvas.width, canvas.height]
    x1, y1 = (low + sides) * [canvas.width, canvas.height]
    off = rng.uniform(1.0, 4.0) if rng.random() < 0.5 else 0.0
    canvas.line(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]), rng.uniform(1.0, 4.0), off)


def _blanked(image: Tensor, rng: Generator) -> Tensor:
    """A black rectangle in a corner, as names are taken out of pictures."""
    height, width = image.shape[1:]
    image = image.clone()
    high, wide = (max(1, int(n * rng.uniform(0.08, 0.3))) for n in (height, width))
    rows = slice(0, high) if rng.random() < 0.5 else slice(height - high, height)
    columns = slice(0, wide) if rng.random() < 0.5 else slice(width - wide, width)
    image[:, rows, columns] = 0
    return image
