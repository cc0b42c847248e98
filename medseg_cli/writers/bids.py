"""Names of BIDS derivatives, and what a folder of them says about itself.

Source: Brain Imaging Data Structure 1.10, "Derivatives", "Segmentations". Names are those of discrete segmentations,
`<entities of the source>_desc-<...>_dseg`.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medseg_cli import __version__
from medseg_cli.errors import InputError, UsageError
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers.atomic import atomic_output

VERSION = "1.10.0"
DESCRIPTION, IGNORE = "dataset_description.json", ".bidsignore"
SUFFIX = "_dseg"
DATATYPES = frozenset(("anat", "beh", "ct", "dwi", "eeg", "fmap", "func", "ieeg", "meg", "micr", "mrs", "perf", "pet"))
_OF_SUFFIX = {"bold": "func", "sbref": "func", "cbv": "func", "dwi": "dwi", "pet": "pet", "ct": "ct", "asl": "perf"}
"""Data type of a source whose folder does not say it; all others are anatomical."""
_PAIR = re.compile(r"[a-z]+-[0-9A-Za-z+]+")
_LABEL = re.compile(r"[0-9A-Za-z]+")
_OURS = "medseg"
_IGNORED = """\
# Written by medseg: what lies beside the segmentations and is no part of BIDS.
.medseg/
areas.csv
*_areas.csv
cases.*
run.json
report*
*.png
*.nrrd
*.mha
*.mgz
*.npz
*.dcm
*.glb
*.ctbl
*.label.txt
*_explain/
*_uncertainty/
*_stl/
*_ply/
*_obj/
*_labels/
"""


@dataclass(frozen=True)
class Derived:
    """Where the segmentation of a scan belongs.

    Args:
        path: below the folder of the derivatives, without a format's suffix.
        notes: what the user should know about the name, one sentence each.
    """

    path: PurePosixPath
    notes: tuple[str, ...] = ()


def derive(case: str) -> Derived:
    """The name of a scan's segmentation.

    The source's entities stay, in their order; `desc` becomes the last and says "medseg", the source's own description
    and its suffix, so that the segmentations of a T1w and a T2w image of one session have two names. A scan whose name
    is not of BIDS becomes a subject that is called as its whole path, letters and digits only.

    Args:
        case: path of a scan below its dataset without the format's suffix, or its name alone.
    """
    *folders, name = PurePosixPath(case).parts or ("",)
    entities, suffix = _parsed(name)
    notes: tuple[str, ...] = ()
    if not entities:
        entities, suffix = {"sub": _label(case)}, ""
        notes = (f"'{case}' is no BIDS name: the scan is called sub-{entities['sub']}",)
    described = entities.pop("desc", "")
    entities["desc"] = _OURS + described[:1].upper() + described[1:] + suffix[:1].upper() + suffix[1:]
    datatype = folders[-1] if folders and folders[-1] in DATATYPES else _OF_SUFFIX.get(suffix, "anat")
    place = PurePosixPath(*(f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities), datatype)
    return Derived(place / ("_".join(f"{key}-{value}" for key, value in entities.items()) + SUFFIX), notes)


def _parsed(name: str) -> tuple[dict[str, str], str]:
    """Entities and suffix of a BIDS name; no entities where it is none."""
    *pairs, last = name.split("_")
    if _PAIR.fullmatch(last):
        pairs, last = [*pairs, last], ""
    if not pairs or not pairs[0].startswith("sub-") or not all(map(_PAIR.fullmatch, pairs)):
        return {}, ""
    entities = {key: value for key, _, value in (pair.partition("-") for pair in pairs)}
    if len(entities) < len(pairs) or (last and not _LABEL.fullmatch(last)):
        return {}, ""
    return entities, last


def _label(text: str) -> str:
    """Letters and digits of a text: "Müller/scan-2" → "MullerScan2"; a hash where it has none."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    words = _LABEL.findall(plain)
    joined = "".join(words[:1] + [word[:1].upper() + word[1:] for word in words[1:]])
    return joined or hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def check_root(root: Path) -> None:
    """Refuse to write derivatives among raw data.

    Raises:
        UsageError: `root` is a BIDS dataset that is no derivative.
    """
    facts = _described(root)
    if facts is not None and facts.get("DatasetType", "raw") != "derivative":
        raise UsageError(
            f"{root} is a BIDS dataset of {facts.get('DatasetType', 'raw')} data: derivatives belong in a folder of "
            "their own",
            f"-o {root / 'derivatives' / _OURS}/",
        )


def describe(root: Path) -> None:
    """Write `dataset_description.json` and `.bidsignore` where there are none; what is there stays.

    Raises:
        InputError: they cannot be written.
    """
    facts = {
        "Name": "Segmentations by medseg",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _OURS, "Version": __version__}],
    }
    for name, text in ((DESCRIPTION, json.dumps(facts, indent=2) + "\n"), (IGNORE, _IGNORED)):
        path = root / name
        if path.exists():
            continue
        try:
            with atomic_output(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except InputError:
            # Another process of the same batch wrote the same meanwhile.
            if not path.exists():
                raise


def facts(segmentation: Segmentation) -> dict[str, Any]:
    """What BIDS wants in the JSON beside a segmentation, besides our own report."""
    names = ", ".join(label.name for label in segmentation.labels)
    about: dict[str, Any] = {"Description": f"Label map by medseg: {names}", "Manual": False}
    if segmentation.is_random:
        about["Description"] = "RANDOM WEIGHTS: this label map means nothing"
    source = _source(segmentation.scan.provenance.path)
    return {**about, "RawSources": [source]} if source else about


def _source(scan: Path) -> str:
    """The scan as a path within the BIDS dataset that holds it; "" where none does."""
    scan = scan.absolute()
    for folder in list(scan.parents)[:4]:
        if _described(folder) is not None:
            return scan.relative_to(folder).as_posix()
    return ""


def _described(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and "BIDSVersion" in found else None
