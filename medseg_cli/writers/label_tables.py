"""Names and colours of a label map's values, as text beside it: for ITK-SNAP, for 3D Slicer, and as BIDS has them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from medseg_cli.segmentation import RANDOM_WEIGHTS, Label, Segmentation
from medseg_cli.writers.atomic import atomic_output

BIDS_MAPPING = {
    "background": (0, "BG"),
    "grey matter": (1, "GM"),
    "gray matter": (1, "GM"),
    "white matter": (2, "WM"),
    "cerebrospinal fluid": (3, "CSF"),
    "bone": (4, "B"),
    "soft tissue": (5, "ST"),
    "non-brain": (6, "NB"),
    "lesion": (7, "L"),
    "cortical grey matter": (8, "CGM"),
    "cortical gray matter": (8, "CGM"),
    "subcortical grey matter": (9, "SGM"),
    "subcortical gray matter": (9, "SGM"),
    "brainstem": (10, "BS"),
    "cerebellum": (11, "CBM"),
}
"""Name → number and abbreviation in the table of common image-derived labels of the BIDS specification."""

_ITK_SNAP = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    MSH:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""


def write_itk_snap(segmentation: Segmentation, path: Path, overwrite: bool = False) -> tuple[str, ...]:
    """ITK-SNAP's label descriptions (Segmentation > Import Label Descriptions); see `formats.Format.target`."""
    lines = ['    0     0    0    0        0  0  0    "Clear Label"']
    for label in segmentation.labels:
        red, green, blue = label.color
        name = _line(label.name).replace('"', "'")
        lines.append(f'{label.value:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{name}"')
    stamp = f"# {RANDOM_WEIGHTS}\n" if segmentation.is_random else ""
    return _store(_ITK_SNAP + stamp + "\n".join(lines) + "\n", path, overwrite)


def write_slicer(segmentation: Segmentation, path: Path, overwrite: bool = False) -> tuple[str, ...]:
    """Slicer's colour table; see `formats.Format.target`. Names have no blanks there: they become underscores."""
    head = [f"# Color table file {path.name}", f"# {len(segmentation.labels) + 1} values"]
    head += [f"# {RANDOM_WEIGHTS}"] if segmentation.is_random else []
    rows = ["0 Background 0 0 0 0"]
    for label in segmentation.labels:
        red, green, blue = label.color
        rows.append(f"{label.value} {'_'.join(label.name.split())} {red} {green} {blue} 255")
    return _store("\n".join([*head, *rows]) + "\n", path, overwrite)


def write_tsv(segmentation: Segmentation, path: Path, overwrite: bool = False) -> tuple[str, ...]:
    """The table that BIDS wants beside a discrete segmentation; see `formats.Format.target`."""
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
    table.writerow(["index", "name", "abbreviation", "color", "mapping"])
    taken: set[str] = set()
    for label in segmentation.labels:
        number, short = BIDS_MAPPING.get(label.name.strip().lower(), (None, ""))
        short = _unique(short or _initials(label), label, taken)
        color = "#{:02x}{:02x}{:02x}".format(*label.color)
        table.writerow([label.value, _line(label.name), short, color, "n/a" if number is None else number])
    return _store(text.getvalue(), path, overwrite)


def _initials(label: Label) -> str:
    """First letters of several words, the first three of one: "left lung" → "LL", "liver" → "LIV"."""
    words = ["".join(filter(str.isalnum, word)) for word in label.name.replace("-", " ").replace("_", " ").split()]
    words = [word for word in words if word]
    short = "".join(word[0] for word in words) if len(words) > 1 else "".join(words)[:3]
    return short.upper() or f"L{label.value}"


def _unique(short: str, label: Label, taken: set[str]) -> str:
    """An abbreviation that no label before has: BIDS wants them unique."""
    while short in taken:
        short = f"{short}{label.value}"
    taken.add(short)
    return short


def _line(name: str) -> str:
    return " ".join(name.split())


def _store(text: str, path: Path, overwrite: bool) -> tuple[str, ...]:
    with atomic_output(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return ()
