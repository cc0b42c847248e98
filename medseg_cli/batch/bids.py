"""What of a BIDS dataset is segmented: anatomical images, CT and PET of the raw data."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from medseg_cli.batch.patterns import matches

DESCRIPTION = "dataset_description.json"
TAKEN = ("anat", "ct", "pet")
DATATYPES = frozenset(
    {*TAKEN, "func", "dwi", "fmap", "perf", "meg", "eeg", "ieeg", "beh", "micr", "nirs", "motion", "mrs"}
)
OTHER_FOLDERS = ("derivatives", "sourcedata", "code", "stimuli", "phenotype")
MASK = re.compile(r"(_|^)(mask|dseg|probseg|defacemask)$|_label-[^_]+")
"""Suffixes and the entity of masks, in a name without its format's suffix."""
FARTHEST = 4
"""Folders between a dataset and what the user may have named of it: sub-01/ses-1/anat."""


@dataclass(frozen=True)
class Bids:
    """A BIDS dataset.

    Args:
        root: its folder, which may lie above INPUT.
        ignored: patterns of its `.bidsignore`.
    """

    root: Path
    ignored: tuple[str, ...] = ()

    def leaves_out(self, relative: str, stem: str) -> str:
        """Why a file is no case, in words; "" where it is one.

        Args:
            relative: path below `root`, with "/".
            stem: its name without the suffix of its format.
        """
        parts = relative.split("/")
        if parts[0] in OTHER_FOLDERS and len(parts) > 1:
            return f"in {', '.join(OTHER_FOLDERS[:-1])} or {OTHER_FOLDERS[-1]} of a BIDS dataset"
        if matches(relative, self.ignored):
            return "named by .bidsignore"
        datatype = next((part for part in parts[1:-1] if part in DATATYPES), "")
        if datatype and datatype not in TAKEN:
            return f"of BIDS data types other than {', '.join(TAKEN)}"
        return "masks of a BIDS dataset" if MASK.search(stem) else ""


def find(folder: Path) -> Bids | None:
    """The BIDS dataset that `folder` is, or is a subject or session of; None where it is no such thing."""
    above = [folder]
    if folder.name.startswith(("sub-", "ses-")) or folder.name in DATATYPES:
        above += list(folder.absolute().parents)[:FARTHEST]
    root = next((each for each in above if _is_root(each)), None)
    if root is None:
        return None
    return Bids(root, _patterns(root / ".bidsignore"))


def _is_root(folder: Path) -> bool:
    try:
        facts = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(facts, dict) and "BIDSVersion" in facts


def _patterns(file: Path) -> tuple[str, ...]:
    """The patterns of a `.bidsignore`; negated ones are passed over, as what they name stays out."""
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError:
        return ()
    words = (line.strip() for line in lines)
    return tuple(word for word in words if word and not word.startswith(("#", "!")))
