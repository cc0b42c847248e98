"""The page of a batch as one HTML file that fetches nothing: a table of cases, and a viewer for each.

Scripts and style are allowed by their hashes, so that no text of a case can become one; everything else that a page
could load is forbidden but pictures inside it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from medseg_cli.batch_page import embed, table
from medseg_cli.batch_page.case_data import ORDER, Case, gather, in_order, to_script
from medseg_cli.batch_page.embed import BUDGET_MIB, MIB
from medseg_cli.batch_page.style import CSS
from medseg_cli.segmentation import RANDOM_WEIGHTS
from medseg_cli.writers.atomic import atomic_output

NAME = "report.html"
SCRIPTS = ("text.js", "viewer.js", "case.js", "table.js")
"""Ours, in the order in which they need each other; together they are one script of the page."""
RESEARCH = "Research use only, not a medical device: look at every mask."
SKELETON = "dialog.html"
HEAD_BYTES, CASE_BYTES = 2000, 1200
"""At most what the page takes besides its parts, and what a case takes besides its data: elements, facts of the view,
and why there is no viewer."""


def write_page(
    out: Path,
    records: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
    budget_mib: float = BUDGET_MIB,
) -> Path:
    """Write the page of one output folder into it, see `write_cases`.

    Args:
        out: the batch's output folder, which records' paths are relative to.
        records: of all cases, as `Record.to_json` gives them.
        facts: of the run.
        budget_mib: size that the page may have.

    Returns:
        Where the page is.

    Raises:
        InputError: it cannot be written.
    """
    return write_cases(gather(out, records), out / NAME, facts, budget_mib)


def write_cases(cases: Sequence[Case], path: Path, facts: Mapping[str, Any], budget_mib: float = BUDGET_MIB) -> Path:
    """Write a page; it appears whole, and replaces an earlier one.

    Args:
        cases: of `gather`.
        path: where to.
        facts: of the run: `title`, `warnings` (a list of sentences, shown as such), and anything else, which is listed
            by its key.
        budget_mib: size that the page may have. What it costs are viewers, those of the last cases of the table first.

    Returns:
        `path`.

    Raises:
        InputError: it cannot be written.
    """
    pieces = _page(in_order(cases), path.resolve().parent, facts, int(budget_mib * MIB))
    with atomic_output(path, overwrite=True) as part, part.open("wb") as file:
        file.writelines(piece.encode("utf-8", "backslashreplace") for piece in pieces)
    return path


def _page(cases: Sequence[Case], beside: Path, facts: Mapping[str, Any], budget: int) -> Iterator[str]:
    niivue, licences = _read("niivue/niivue.umd.js"), _read("niivue/LICENSES.txt")
    script = '(() => {\n"use strict";\n' + "\n".join(_read(f"script/{name}") for name in SCRIPTS) + "\n})();\n"
    title = str(facts.get("title") or f"Batch {beside.name}")
    fixed = [_top(title, cases, facts), *table.table(cases), _read(f"script/{SKELETON}")]
    room = (
        budget
        - HEAD_BYTES
        - sum(len(text.encode(errors="replace")) for text in (niivue, licences, script, CSS, *fixed))
    )
    room -= sum(len(to_script(case, "", beside)) + CASE_BYTES for case in cases)
    shown = embed.choose(cases, room, budget)
    has_viewer = any(each.viewer for each in shown)
    yield _head(title, [script, niivue] if has_viewer else [script])
    yield "<body><main>\n"
    yield from fixed[:-1]
    yield _below(cases, shown, budget)
    yield f"</main>\n{fixed[-1]}\n"
    for number, (case, each) in enumerate(zip(cases, shown, strict=True)):
        content = to_script(case, each.why_not, beside)
        yield f'<script type="application/json" id="case-{number}">{content}</script>\n'
        yield from embed.scripts(number, case, each)
    if has_viewer:
        yield f'<script type="text/plain">{licences}</script>\n<script>{niivue}</script>\n'
    yield f"<script>{script}</script>\n</body></html>\n"


def _read(name: str) -> str:
    """A file of this package."""
    return (files("medseg_cli.batch_page") / name).read_text(encoding="utf-8")


def _head(title: str, scripts: Sequence[str]) -> str:
    allowed = " ".join(_hash(text) for text in scripts)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,"><style>{CSS}</style></head>\n'
    )


def _hash(text: str) -> str:
    """As Content-Security-Policy names a script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _top(title: str, cases: Sequence[Case], facts: Mapping[str, Any]) -> str:
    warnings = [str(each) for each in facts.get("warnings") or ()]
    random = sum(case.random_weights for case in cases)
    if random:
        whose = "" if random == len(cases) else f" ({random} of {len(cases)} cases)"
        warnings.insert(0, RANDOM_WEIGHTS.replace("this mask means", "these masks mean") + whose)
    boxes = "".join(f'<div class="warn" role="note">{escape(text)}</div>' for text in warnings)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f'<h1>{escape(title)}</h1><p class="soft">{len(cases)} case{"" if len(cases) == 1 else "s"}, '
        f"page made {made}. {RESEARCH}</p>{boxes}{_counts(cases)}{_facts(facts)}"
        '<div class="find"><input type="search" id="find" aria-label="Search cases" '
        'placeholder="Search: case, flag, object, reason"><span class="soft" id="found" role="status"></span></div>\n'
    )


def _counts(cases: Sequence[Case]) -> str:
    """One button per status, which filters."""
    buttons = [f'<button type="button" data-show="" aria-pressed="true"><b>{len(cases)}</b>all</button>']
    for status in ORDER:
        count = sum(case.status == status for case in cases)
        if count:
            buttons.append(
                f'<button type="button" data-show="{status}" aria-pressed="false"><b>{count}</b>'
                f'<span class="status {status}">{status}</span></button>'
            )
    return f'<div class="counts" role="group" aria-label="Filter by status">{"".join(buttons)}</div>'


def _facts(facts: Mapping[str, Any]) -> str:
    lines = [
        f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd>{escape(_words(value))}</dd>"
        for key, value in facts.items()
        if key not in ("title", "warnings") and value not in (None, "", [], (), {})
    ]
    if not lines:
        return ""
    return f'<details class="facts"><summary>About this run</summary><dl class="panel">{"".join(lines)}</dl></details>'


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(_words(each) for each in value)
    return str(value)


def _below(cases: Sequence[Case], shown: Sequence[embed.Shown], budget: int) -> str:
    """How many cases have a viewer, and what the others lack."""
    viewers, viewable = sum(each.viewer for each in shown), sum(case.view is not None for case in cases)
    if viewers == viewable:
        return (
            f'<p class="note">{viewers} of {len(cases)} cases have a viewer. Nothing is fetched: it works offline.</p>'
        )
    return (
        f'<p class="note">{viewers} of {len(cases)} cases have a viewer, those at the top first: this page may have '
        f"{budget / MIB:g} MiB. <code>medseg report OUT --viewer-budget MIB</code> makes one with more of them.</p>"
    )
