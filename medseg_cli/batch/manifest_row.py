"""One row of a manifest → a case: where its scan is, how it is read, what is asked of it."""

from __future__ import annotations

import contextlib
import os
import reprlib
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from medseg_cli.asked import Asked
from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.content import look, reading_of
from medseg_cli.batch.names import name_of, safe
from medseg_cli.errors import InputError, MedsegError, UsageError
from medseg_cli.readers import detect
from medseg_cli.readers.options import ReadOptions

COLUMNS = (
    *("path", "name", "preset", "prompts", "point", "box", "coords", "slice", "mask_prompt", "label", "text", "not"),
    *("series", "channel", "cine", "spacing", "modality"),
)
PROMPTS = ("prompts", "point", "box", "coords", "slice", "mask_prompt", "label", "text", "not")
LONGEST = 9
"""Digits of a whole number that means a channel or a slice."""
SHOWN = 100
"""Characters of a value in a message."""
YES_OR_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
"""What the column cine holds, and what it means; capitals do not matter."""
SEVERAL = ";"
"""Between several points, boxes or texts of one row."""


def case_of(values: dict[str, Any], where: str, folder: Path, reading: ReadOptions, asked: Asked) -> BatchCase:
    """The case of one row; what is wrong with its values is its problem.

    Args:
        values: column → text, or what JSON and YAML have: numbers and lists.
        where: names the row in messages.
        folder: where its paths start.
        reading: how its scan is read where the row does not say.
        asked: its prompts where it has none.

    Raises:
        InputError: no path, or a name that no file could have.
    """
    given = {key: value for key, value in values.items() if value is not None and value != "" and value != []}
    if not isinstance(given.get("path"), str):
        raise InputError(f"{where} names no path", "fill in the column path")
    scan = _path(folder, given["path"])
    id_ = _name(given, scan, folder, where)
    try:
        chosen = _reading(given, scan, reading, where)
        own = _asked(given, folder, where) if any(key in given for key in PROMPTS) else asked
        modality = _modality(given, where)
    except MedsegError as error:
        return BatchCase(id_, scan, reading, asked, _preset(given, folder), error)
    files, problem = _files(scan, where)
    return BatchCase(id_, scan, chosen, own, _preset(given, folder), problem, modality, files)


def shortened(value: Any) -> str:
    """A value as a message shows it: a manifest may hold anything, of any size."""
    text = reprlib.repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _path(folder: Path, text: str) -> Path:
    from medseg_cli.datasets.files import anywhere

    path = Path(text.strip())
    # Where nobody has that home there is no such file, as whoever looks for it says.
    with contextlib.suppress(RuntimeError):
        path = path.expanduser()
    return path if path.is_absolute() else anywhere(folder, text.strip())


def _name(given: dict[str, Any], scan: Path, folder: Path, where: str) -> str:
    """The id: the column name, else the path below the manifest, else the file's name."""
    if "name" not in given:
        below = scan.relative_to(folder) if scan.is_relative_to(folder) else Path(scan.name)
        return name_of(PurePosixPath(below.as_posix()))
    name = str(given["name"]).strip().replace("\\", "/")
    if detect.suffix_of(Path(name)) in detect.SUFFIXES:
        raise InputError(f"{where}: the name {name} has a suffix", "leave it out: --format says what is written")
    if name.startswith("/") or safe(name) != name:
        raise InputError(f"{where}: {name!r} cannot be the name of a file", f"for example {safe(name)}")
    return name


def _preset(given: dict[str, Any], folder: Path) -> str:
    """The preset; a file beside the manifest by its full path."""
    name = str(given.get("preset", "")).strip()
    beside = folder / name
    return (
        str(beside) if name and ("/" in name or name.endswith((".yaml", ".yml"))) and os.path.exists(beside) else name
    )


def _reading(given: dict[str, Any], scan: Path, reading: ReadOptions, where: str) -> ReadOptions:
    from medseg_cli.datasets.facts import spacing_of

    if not os.path.isdir(scan):
        reading = reading_of(scan, reading)
    if "series" in given:
        reading = replace(reading, series=str(given["series"]).strip())
    if "channel" in given:
        reading = replace(reading, channel=_whole(given["channel"], "channel", where))
    if "cine" in given:
        reading = _over_time(given, reading, where)
    return replace(reading, spacing=spacing_of(given["spacing"], where)) if "spacing" in given else reading


def _over_time(given: dict[str, Any], reading: ReadOptions, where: str) -> ReadOptions:
    """The third axis as the row says; what it says goes before --cine and --channel of the run."""
    said = YES_OR_NO.get(str(given["cine"]).strip().lower())
    if said is None:
        raise InputError(f"{where}: cine {shortened(given['cine'])} is neither yes nor no", "write yes or no")
    if said and "channel" in given:
        raise InputError(
            f"{where}: cine reads all frames, channel {shortened(given['channel'])} one", "give one of them"
        )
    return replace(reading, cine=said, channel=None) if said else replace(reading, cine=False)


def _whole(value: Any, what: str, where: str) -> int:
    text = str(value).strip()
    if not (text.isascii() and text.isdigit() and len(text) <= LONGEST):
        raise InputError(f"{where}: {what} {shortened(value)} is no number from 0 upwards", f"number a {what} from 0")
    return int(text)


def _asked(given: dict[str, Any], folder: Path, where: str) -> Asked:
    """The row's own prompts, their numbers checked.

    Raises:
        InputError, UsageError: a prompt that cannot be one; names the row.
    """
    from medseg_cli.prompt import Frame

    frame = str(given.get("coords", "ijk")).strip().lower()
    known = next((each for each in get_args(Frame) if each == frame), None)
    if known is None:
        raise InputError(f"{where}: coords {frame!r} is unknown", "use ijk, ras or lps")
    asked = Asked(
        _several(given.get("point"), 3),
        _several(given.get("box"), 6),
        known,
        str(given.get("label", "")).strip(),
        _path(folder, str(given["prompts"])) if "prompts" in given else None,
        _path(folder, str(given["mask_prompt"])) if "mask_prompt" in given else None,
        _whole(given["slice"], "slice", where) if "slice" in given else None,
        _texts(given.get("text"), "text", where),
        nots=_texts(given.get("not"), "not", where),
    )
    try:
        asked.prompt()
    except MedsegError as error:
        raise type(error)(f"{where}: {error.message}", error.hint) from error
    if asked.mask is not None and not os.path.exists(asked.mask):
        raise InputError(f"{where}: there is no mask {asked.mask}", "check the column mask_prompt")
    return asked


def _several(value: Any, most: int) -> tuple[str, ...]:
    """One or more places as the command line writes them: "x,y,z", from text, from numbers or from lists of either."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(SEVERAL) if part.strip())
    if isinstance(value, list) and len(value) <= most and all(isinstance(each, int | float) for each in value):
        return (",".join(f"{each!r}" for each in value),)
    if isinstance(value, list):
        return tuple(text for each in value for text in _several(each, most))
    return (str(value),)


def _texts(value: Any, column: str, where: str) -> tuple[str, ...]:
    """One or more texts as --text takes them, from text with semicolons, from a list, or from names and their texts.

    Raises:
        InputError: something else.
    """
    if value is None:
        return ()
    pairs = [("", value)]
    if isinstance(value, dict):
        pairs = [(f"{name}=", each) for name, each in value.items()]
    texts = []
    for name, each in pairs:
        listed = each if isinstance(each, list) else each.split(SEVERAL) if isinstance(each, str) else None
        if listed is None or not all(isinstance(text, str) for text in listed):
            raise InputError(
                f"{where}: {column} {shortened(each)} is no text", 'for example "lungs=both lungs; heart=the heart"'
            )
        texts += [f"{name}{text.strip()}" for text in listed if text.strip()]
    return tuple(texts)


def _modality(given: dict[str, Any], where: str) -> str:
    from medseg_cli.readers.modality import parse_modality

    if "modality" not in given:
        return ""
    try:
        return parse_modality(str(given["modality"]))
    except UsageError as error:
        raise UsageError(f"{where}: {error.message.removeprefix('--')}", error.hint) from error


def _files(scan: Path, where: str) -> tuple[tuple[Path, ...], MedsegError | None]:
    """All files of the scan, and what their first bytes say is wrong."""
    if not os.path.exists(scan):  # `Path.exists` raises where a name is too long to be one
        return (), InputError(f"{where}: there is no scan {scan}", "check the column path")
    if scan.is_dir():
        from medseg_cli.readers.dicom.files import from_folder

        try:
            return tuple(source.path for source in from_folder(scan).sources), None
        except InputError as error:
            return (), error
    what, members, fault = look(scan)
    if what == "other":
        fault = InputError(f"{where}: {scan} is of no kind that medseg reads", f"readable are {detect.READABLE}")
    return members or (scan,), fault
