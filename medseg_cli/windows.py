"""Display windows for CT: the ones with a name, and what `--window` means.

Names stand for the values that viewers ship as their presets; they differ from house to house, so reports carry the
numbers.
"""

from __future__ import annotations

import difflib
import math

from medseg_cli.errors import InputError, UsageError
from medseg_cli.preset_intensity import Window
from medseg_cli.scan import Scan

WINDOWS: dict[str, tuple[float, float]] = {
    "abdomen": (60, 400),
    "angio": (300, 600),
    "bone": (400, 1800),
    "brain": (40, 80),
    "liver": (60, 160),
    "lung": (-600, 1500),
    "mediastinum": (50, 350),
    "soft-tissue": (40, 400),
    "stroke": (40, 40),
    "subdural": (75, 215),
}
"""Name → (level, width) in HU."""


def parse_window(text: str) -> Window:
    """The window that `--window` means: "level/width" in the scan's own units, or a name of `WINDOWS`.

    Raises:
        UsageError: anything else; an unknown name lists the known ones.
    """
    typed = text.strip()
    level, slash, width = typed.partition("/")
    if not slash and not _is_number(typed):
        name = typed.lower()
        if name not in WINDOWS:
            close = difflib.get_close_matches(name, WINDOWS, n=1)
            raise UsageError(
                f"--window '{text}' is no window" + (f" (did you mean {close[0]}?)" if close else ""),
                f"give LEVEL/WIDTH such as 40/400, or one of: {', '.join(WINDOWS)}",
            )
        return Window(method="window", level=WINDOWS[name][0], width=WINDOWS[name][1])
    if not _is_number(level) or not _is_number(width) or float(width) <= 0:
        raise UsageError(
            f"--window '{text}' is not LEVEL/WIDTH with a width above 0",
            "two numbers in the scan's units, such as --window 40/400: -160 is black, 240 is white",
        )
    return Window(method="window", level=float(level), width=float(width))


def check_named(text: str, scan: Scan) -> None:
    """Refuse a named window, which is in HU, for a scan that is known not to be CT.

    Raises:
        InputError: the scan says that it is something else, or is a picture file.
    """
    if text.strip().lower() not in WINDOWS:
        return
    level, width = WINDOWS[text.strip().lower()]
    picture = scan.provenance.format == "image"
    if picture or scan.modality not in ("", "CT"):
        kind = "a picture without Hounsfield units" if picture else f"a {scan.modality} scan"
        raise InputError(
            f"window {text.strip()} ({level:g}/{width:g} HU) is for CT, {scan.provenance.path} is {kind}",
            "give LEVEL/WIDTH in the scan's own units, or leave --window out for the preset's choice",
        )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
