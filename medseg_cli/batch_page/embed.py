"""Which cases get a viewer within the bytes that a page may have, and their files as text that HTML can hold."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg_cli.batch_page.case_data import Case

MIB = 1 << 20
BUDGET_MIB = 150.0
"""Size of a page if nobody says otherwise; browsers open that in seconds."""
TYPES = {".webp": "image/webp", ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


@dataclass(frozen=True)
class Shown:
    """What is embedded of a case.

    Args:
        viewer: scan and mask.
        picture: the preview.
        why_not: why there is no viewer; "" where there is one.
    """

    viewer: bool
    picture: bool
    why_not: str


def choose(cases: Sequence[Case], room: int, budget: int) -> list[Shown]:
    """What is embedded of each case, in the order of `cases`: the first get viewers until the room is used up.

    Args:
        cases: the most important first.
        room: bytes that are left for viewers and pictures.
        budget: bytes of the whole page, for the reason.
    """
    chosen = []
    for case in cases:
        if case.view is None:
            chosen.append(Shown(False, False, _without_view(case)))
            continue
        files = case.view["files"]
        picture = encoded_size(files["picture"])
        viewer = encoded_size(files["scan"]) + encoded_size(files["mask"])
        if picture + viewer <= room:
            room -= picture + viewer
            chosen.append(Shown(True, True, ""))
            continue
        why = (
            f"There is no viewer for this case: the page may have {budget / MIB:g} MiB, which others have used up. "
            "medseg report OUT --viewer-budget MIB makes a page with more."
        )
        chosen.append(Shown(False, picture <= room, why))
        room -= picture if picture <= room else 0
    return chosen


def _without_view(case: Case) -> str:
    if case.status in ("failed", "skipped"):
        return ""
    return "There is no viewer for this case: the run kept no view of it, or its files in .medseg/views are gone."


def encoded_size(path: Path) -> int:
    """Bytes of a file as base64."""
    return -(-path.stat().st_size // 3) * 4


def encoded(path: Path) -> str:
    """A file as base64."""
    return base64.b64encode(path.read_bytes()).decode("ascii")


def data_url(path: Path) -> str:
    """A picture as text that `src` takes; "" for a kind that browsers do not show."""
    kind = TYPES.get(path.suffix.lower())
    return f"data:{kind};base64,{encoded(path)}" if kind else ""


def scripts(number: int, case: Case, shown: Shown) -> Iterator[str]:
    """Inert script elements with the files of case `number`; its view is not None where anything is shown."""
    if case.view is None:
        return
    wanted = [("scan", shown.viewer), ("mask", shown.viewer), ("picture", shown.picture)]
    for kind in (kind for kind, is_shown in wanted if is_shown):
        yield f'<script type="text/plain" id="{kind}-{number}">{encoded(case.view["files"][kind])}</script>\n'
