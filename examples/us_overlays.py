"""What callipers, text and scales do to a segmentation: `python examples/us_overlays.py DATASET -o OUT [--preset P]`.

Marks are drawn on real pictures with Pillow, not with the code that draws them in training. Measured are, on the clean
pictures: tissue that `options.ultrasound` would take away or paint over; on the drawn ones: marks that are found, and
tissue that goes with them; with a preset, Dice of both, with and without the option. OUT gets overlays.json and
overlays.md.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medseg_cli import datasets, device, pipelines, preset
from medseg_cli.burned_in import find_marks, painted
from medseg_cli.errors import InputError
from medseg_cli.evaluation.prompting import Protocol, ask, usual_kind
from medseg_cli.pipelines.slice_ultrasound import MOST_MARKED
from medseg_cli.preset import Preset
from medseg_cli.scan import Scan
from medseg_cli.sector import find_sector
from medseg_cli.stages import Stages

Picture = NDArray[np.uint8]
Draw = Callable[[ImageDraw.ImageDraw, tuple[int, int, int, int], tuple[int, int], tuple[int, int, int]], None]
WHITE, YELLOW = (235, 235, 235), (230, 220, 60)


def callipers(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], size: tuple[int, int], ink: Any) -> None:
    """Two measured lengths across an object's box (x0, y0, x1, y1), numbered."""
    x0, y0, x1, y1 = box
    middle, reach = ((x0 + x1) // 2, (y0 + y1) // 2), max(4, min(size) // 70)
    for number, ends in enumerate((((x0, middle[1]), (x1, middle[1])), ((middle[0], y0), (middle[0], y1))), start=1):
        for x, y in ends:
            pen.line((x - reach, y, x + reach, y), fill=ink, width=2)
            pen.line((x, y - reach, x, y + reach), fill=ink, width=2)
        for share in np.linspace(0, 1, max(2, int(np.hypot(*np.subtract(*ends)) // 7))):
            x, y = (round(a + share * (b - a)) for a, b in zip(*ends, strict=True))
            pen.rectangle((x, y, x + 1, y + 1), fill=ink)
        pen.text((ends[1][0] + reach + 2, ends[1][1] - reach), str(number), fill=ink, font=_font(size))


def ellipse(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], size: tuple[int, int], ink: Any) -> None:
    """A dotted ellipse in an object's box, as a circumference is measured."""
    x0, y0, x1, y1 = box
    for turn in np.arange(0, 2 * np.pi, 12 / max(20, (x1 - x0 + y1 - y0) / 2)):
        x = round((x0 + x1) / 2 + np.cos(turn) * (x1 - x0) / 2)
        y = round((y0 + y1) / 2 + np.sin(turn) * (y1 - y0) / 2)
        pen.rectangle((x, y, x + 1, y + 1), fill=ink)


def text(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], size: tuple[int, int], ink: Any) -> None:
    """Lines of a protocol at the left, and a word on the tissue."""
    wide, high = size
    for line, words in enumerate(("MI 1.1  TIs 0.2", "C5-1  38 Hz", "HC 251.3 mm", "GA 27w3d")):
        pen.text((0.03 * wide, 0.05 * high + 1.4 * line * _font(size).size), words, fill=ink, font=_font(size))
    pen.text((0.45 * wide, 0.9 * high), "LT TRANS", fill=ink, font=_font(size))


def scale(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], size: tuple[int, int], ink: Any) -> None:
    """A depth scale near the right side, on the tissue."""
    wide, high = size
    for number, y in enumerate(range(high // 12, high, high // 12)):
        long = 8 if number % 5 == 0 else 4
        pen.line((wide - 40, y, wide - 40 + long, y), fill=ink)
    pen.rectangle((wide // 4, high // 4, 3 * wide // 4, 3 * high // 4), outline=ink)


KINDS: dict[str, tuple[tuple[Draw, ...], tuple[int, int, int], bool]] = {
    "callipers": ((callipers,), WHITE, False),
    "dotted ellipse": ((ellipse,), WHITE, False),
    "text": ((text,), WHITE, False),
    "scale and box": ((scale,), WHITE, False),
    "all, yellow": ((callipers, ellipse, text, scale), YELLOW, False),
    "all, white": ((callipers, ellipse, text, scale), WHITE, False),
    "all, white, JPEG 85": ((callipers, ellipse, text, scale), WHITE, True),
}
"""What is drawn, in which colour, and whether the picture is compressed afterwards."""


def _font(size: tuple[int, int]) -> Any:
    return ImageFont.load_default(size=max(10, min(size) // 30))


def drawn(picture: Picture, mask: NDArray[np.bool_], kind: str) -> tuple[Picture, NDArray[np.bool_]]:
    """A picture (H, W, 3) with marks round a mask (H, W), and the pixels they cover."""
    draws, ink, compressed = KINDS[kind]
    image = Image.fromarray(picture)
    rows, columns = np.nonzero(mask) if mask.any() else np.array([[picture.shape[0] // 2], [picture.shape[1] // 2]])
    box = (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max()))
    for draw in draws:
        draw(ImageDraw.Draw(image), box, image.size, ink)
    truth = (np.asarray(image) != picture).any(2)
    if compressed:
        packed = io.BytesIO()
        image.save(packed, "jpeg", quality=85)
        image = Image.open(packed).convert("RGB")
    return np.asarray(image), truth


def labelled(case: Any) -> bool:
    """Whether there is an object to measure; a picture without one is left out, aloud."""
    try:
        datasets.load_pair(case)
    except InputError as error:
        sys.stderr.write(f"left out: {error.message}\n")
        return False
    return True


def as_picture(scan: Scan) -> Picture:
    """Voxels of an 8-bit picture as (H, W, 3)."""
    values = scan.voxels[..., 0].transpose(2, 1, 0)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3))).astype(np.uint8)


def with_picture(scan: Scan, picture: Picture) -> Scan:
    """The scan with other voxels, in colour."""
    return replace(scan, voxels=np.ascontiguousarray(picture.transpose(2, 1, 0)[..., None]).astype(np.float32))


def on_clean(picture: Picture, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """What the option takes from a picture on which nothing was drawn, as shares of picture, tissue and object."""
    sector, marks = find_sector(picture.max(2)), find_marks(picture)
    bright = picture.max(2) > 10
    return {
        "sector": sector.found,
        "bright_cut": float((bright & ~sector.inside).sum() / max(1, bright.sum())),
        "object_cut": float((mask & ~sector.inside).sum() / max(1, mask.sum())),
        "painted": float((marks & sector.inside).mean()),
    }


def on_drawn(picture: Picture, mask: NDArray[np.bool_], before: NDArray[np.bool_], kind: str) -> dict[str, float]:
    """Marks found, and tissue painted over with them, as shares of the marks in the sector and of the picture.

    What was found `before` anything was drawn counts as neither.
    """
    shown, truth = drawn(picture, mask, kind)
    inside = find_sector(shown.max(2)).inside
    # Compression spreads a mark's edge: the pixels next to it count as its own.
    near = truth | np.roll(truth, 1, 0) | np.roll(truth, -1, 0) | np.roll(truth, 1, 1) | np.roll(truth, -1, 1)
    marks = find_marks(shown) & inside
    if marks.mean() > MOST_MARKED:
        marks[:] = False
    return {
        "found": float((painted(marks) & inside & truth).sum() / max(1, (truth & inside).sum())),
        "outside": float((truth & ~inside).sum() / truth.sum()),
        "tissue": float((marks & ~near & ~before).mean()),
    }


def dice(found: NDArray[Any], labels: NDArray[Any]) -> float:
    """Of all objects together."""
    both = np.count_nonzero((found > 0) & (labels > 0))
    return 2 * both / max(1, np.count_nonzero(found) + np.count_nonzero(labels))


def on_network(chosen: Preset, cases: list[Any], kind: str) -> list[dict[str, Any]]:
    """Dice of every case: as it is and drawn on, without and with the option."""
    pipes = {}
    for name, options in (("as is", None), ("cleared", {})):
        changed = chosen.model_copy(update={"options": {**chosen.options, "ultrasound": options}})
        pipes[name] = pipelines.build(changed, device.select("auto"))
    rows = []
    for number, case in enumerate(cases):
        scan, labels = datasets.load_pair(case)
        prompt = ask(scan, labels, Protocol(usual_kind(chosen)), number).prompt
        marked, _ = drawn(as_picture(scan), labels[..., 0].T > 0, kind)
        row: dict[str, Any] = {"case": case.id}
        for drawing, shown in (("clean", scan), ("drawn", with_picture(scan, marked))):
            for name, pipe in pipes.items():
                row[f"{drawing}, {name}"] = dice(pipe.segment(shown, prompt, Stages()).mask, labels)
        rows.append(row)
    return rows


def page(facts: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    clean = facts["clean"]
    lines = [
        f"{len(clean)} clean pictures: sector found in {sum(each['sector'] for each in clean)}. Cut off: "
        f"{np.mean([each['bright_cut'] for each in clean]):.4%} of what is brighter than 10, "
        f"{np.mean([each['object_cut'] for each in clean]):.4%} of the objects (most in one picture "
        f"{max(each['object_cut'] for each in clean):.4%}). Painted over: "
        f"{np.mean([each['painted'] for each in clean]):.5%} of the pixels, in "
        f"{sum(each['painted'] > 0 for each in clean)} pictures.",
        "",
        f"Drawn on {len(facts['drawn']['text'])} of them:",
        "",
        "| drawn | outside the sector, blackened | of the rest, painted over | tissue painted over |",
        "|---|---|---|---|",
    ]
    for kind, rows in facts["drawn"].items():
        outside, found, lost = (np.mean([each[key] for each in rows]) for key in ("outside", "found", "tissue"))
        lines.append(f"| {kind} | {outside:.0%} | {found:.0%} | {lost:.4%} |")
    if facts["dice"]:
        lines += ["", f"Dice of {facts['preset']} on {len(facts['dice'])} pictures, all marks drawn in white:", ""]
        lines += ["| picture | mean | least |", "|---|---|---|"]
        for key in [key for key in facts["dice"][0] if key != "case"]:
            values = [row[key] for row in facts["dice"]]
            lines.append(f"| {key} | {np.mean(values):.4f} | {min(values):.4f} |")
    return "\n".join(lines) + "\n"


def main(words: list[str]) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--preset", default="", help="of a 2-D pipeline; without one, no Dice")
    parser.add_argument("--cases", type=int, default=0, help="draw on so many, spread over all; 0 = all")
    asked = parser.parse_args(words)
    cases = list(datasets.read_cases(asked.dataset))
    cases = [case for case in cases if labelled(case)]
    chosen = cases[:: max(1, len(cases) // asked.cases)][: asked.cases] if asked.cases else cases
    facts: dict[str, Any] = {
        "dataset": asked.dataset.name,
        "preset": asked.preset,
        "clean": [],
        "drawn": {},
        "dice": [],
    }
    for case in cases:
        scan, labels = datasets.load_pair(case)
        picture, mask = as_picture(scan), labels[..., 0].T > 0
        facts["clean"].append({"case": case.id} | on_clean(picture, mask))
        before = find_marks(picture)
        for kind in KINDS if case in chosen else ():
            row = {"case": case.id} | on_drawn(picture, mask, before, kind)
            facts["drawn"].setdefault(kind, []).append(row)
    if asked.preset:
        facts["dice"] = on_network(preset.find(asked.preset), chosen, "all, white")
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "overlays.json").write_text(json.dumps(facts, indent=1) + "\n")
    (asked.out / "overlays.md").write_text(page(facts))
    sys.stdout.write(page(facts))


if __name__ == "__main__":
    main(sys.argv[1:])
