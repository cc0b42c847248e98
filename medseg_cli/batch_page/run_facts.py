"""What the page says of a run, from the `run.json` that the run left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TOLD = ("preset", "input", "command", "started", "finished", "seconds", "software")
"""Keys of `run.json` that the page lists."""


def of_run(out: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that `page.write_page` takes.

    Args:
        out: output folder of the run.
        summary: of the last run, as in `run.json`; {} where that is not known.
    """
    warnings = [f"The last run ended early: {summary['ended']}."] if summary.get("ended") else []
    told = {key: summary[key] for key in TOLD if summary.get(key) is not None}
    return {"title": f"Batch {out.resolve().name}", "warnings": warnings, **told}


def read_summary(out: Path) -> dict[str, Any]:
    """`run.json` of an output folder; {} where there is none that can be read."""
    try:
        found = json.loads((out / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
