"""SAMUS: `MainPatient/train.txt`, `val.txt`, `test.txt` and `class.json` beside folders with `img/` and `label/`."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.datasets.case import Case, Dataset, Finding, LabelMap, Part
from medseg_cli.datasets.files import inside, read_json, scans_in, stem
from medseg_cli.errors import InputError

LISTS = "MainPatient"
PARTS: tuple[tuple[str, Part], ...] = (("train", "train"), ("val", "validation"), ("test", "test"))
LINE = "a line of train and val is CLASS/SET/NAME, a line of test SET/NAME"


def is_there(folder: Path) -> bool:
    """Whether a folder has SAMUS' lists."""
    return any(_lists(folder, start) for start, _ in PARTS)


def read(folder: Path) -> Dataset:
    """One case per image that the lists name; an image that is listed once per class is one case with its label map.

    Raises:
        InputError: a line that names no file, or a class.json that is none.
    """
    counts = _classes(folder / LISTS / "class.json")
    cases: dict[tuple[str, str, Part], Case] = {}
    for start, part in PARTS:
        for listing in _lists(folder, start):
            for number, line in enumerate(_lines(listing), start=1):
                place, name = _place(line, f"{listing}, line {number}", part)
                if (place, name, part) not in cases:
                    cases[place, name, part] = _case(folder, place, name, part, counts, listing)
    places = {place for place, _, _ in cases}
    notes, findings = [], []
    for place in sorted(places - set(counts)):
        text = f"{folder / LISTS / 'class.json'} does not name {place}, which the lists use"
        findings.append(Finding("listing", text, f'add "{place}": how many classes, background counted', None))
    most = max((counts.get(place, 2) for place in places), default=2)
    if len(places) > 1:
        notes.append(f"{len(places)} sets share their label values: {', '.join(sorted(places))}")
    labels = LabelMap({value: f"class {value}" for value in range(1, most)})
    return Dataset(tuple(cases.values()), "SAMUS", labels, tuple(notes), tuple(findings))


def _lists(folder: Path, start: str) -> list[Path]:
    place = folder / LISTS
    return sorted([*place.glob(f"{start}.txt"), *place.glob(f"{start}-*.txt")]) if place.is_dir() else []


def _lines(listing: Path) -> list[str]:
    try:
        return [line.strip() for line in listing.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except ValueError as error:
        raise InputError(f"{listing} is no text in UTF-8: {error}", LINE) from error


def _classes(path: Path) -> dict[str, int]:
    """Set → number of its classes, background counted; {} where there is no class.json."""
    counts = read_json(path) if path.is_file() else {}
    wrong = next((name for name, count in counts.items() if not isinstance(count, int) or count < 2), None)
    if wrong is not None:
        raise InputError(f"{path}: {wrong} has {counts[wrong]!r} classes", "at least 2: background and the object")
    return counts


def _place(line: str, where: str, part: Part) -> tuple[str, str]:
    """(set, name) of a line."""
    fields = line.split("/")
    fields = fields if part == "test" else fields[1:] if fields[0].isdigit() else []
    if len(fields) != 2 or not all(fields):
        raise InputError(f"{where} is {line!r}", LINE)
    return fields[0], fields[1]


def _case(folder: Path, place: str, name: str, part: Part, counts: dict[str, int], listing: Path) -> Case:
    files = [_named(inside(folder, f"{place}/{kind}", listing), name) for kind in ("img", "label")]
    inside(folder, f"{place}/img/{name}", listing)
    return Case(f"{place}_{name}", files[0], files[1], part=part, binary=counts.get(place) == 2)


def _named(folder: Path, name: str) -> Path:
    """The file of a name that may lack its suffix."""
    if (folder / name).is_file() or not folder.is_dir():
        return folder / name
    return next((path for path in scans_in(folder) if stem(path) == name), folder / f"{name}.png")
