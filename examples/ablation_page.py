"""The page of `ablate_cc_sam.py`: what was done and two tables, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

PROMPTS = {"click": "median-click", "box": "box", "text": "text", "none": "none"}
"""Column → `--prompt`."""


def page_of(facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The page: what was done, and its tables.

    Args:
        facts: of the run, as OUT/ablation.json has them.
        rows: one for each network, as its row.json has it.
    """
    remark = (
        "One seed each, and a short training of small networks: a difference within the intervals says nothing, and "
        "none of these rows says what a full training would give."
    )
    if facts["start"] == "random":
        remark += (
            " From random weights the whole network but the CNN learns, so that adapters are not what makes a frozen "
            "transformer trainable here, but a little more width."
        )
    lines = [*_done(facts), *_overlaps(rows), "", *_distances(rows), "", remark]
    return "\n".join(lines) + "\n"


def _done(facts: dict[str, Any]) -> Iterator[str]:
    """What was done, before the first table."""
    pictures = facts["pictures"]
    begun = "random weights" if facts["start"] == "random" else f"the weights {facts['start']}"
    yield from (
        "# What each part of CC-SAM is good for",
        "",
        "CC-SAM has no public code: fusion, prompts and training are our reconstruction, and so is what its parts are "
        "worth here.",
        "",
        f"`{facts['command']}`, {facts['date']}, {facts['hardware']}. Data: {facts['data']}, {pictures['train']} "
        f"pictures to train, {pictures['test']} held back (split seed 0). Every network was trained for "
        f"{facts['steps']} steps of {facts['batch_size']} pictures from {begun}, seed {facts['seed']}. The frozen CNN: "
        f"{facts['cnn']}.",
        "",
    )


def _overlaps(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Dice of every way of asking, with what training took."""
    yield from (
        "Dice is the mean over the held-back pictures, on their own pixels, with the 95 % bootstrap interval in "
        "brackets. Click: SAMUS's, the middle pixel of the reference; box: exactly round the reference; both flatter, "
        "because nobody clicks or draws so well. Text: the phrase of the class. None: nothing is said.",
        "",
        "| fusion | text | adapters | parameters that learn | training | click | box | text | none |",
        "|---|---|---|---:|---:|---|---|---|---|",
    )
    for row in rows:
        cells = [*_switches(row), f"{row['learnt']:,}", f"{row['seconds']:.0f} s"]
        cells += [_bracketed(row["dice"][name], row["dice_interval"].get(name)) for name in PROMPTS]
        yield f"| {' | '.join(cells)} |"


def _distances(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """True distances, and what SAMUS's code takes for one."""
    yield from (
        "Distances with a click and without a prompt, in SAMUS's frame of 256 pixels: HD95 between outlines, and what "
        "SAMUS's code calls HD, which compares rows of pixels and is no distance (docs/evaluate.md).",
        "",
        "| fusion | text | adapters | HD95, click | HD95, none | row-wise, click | row-wise, none |",
        "|---|---|---|---:|---:|---:|---:|",
    )
    for row in rows:
        cells = [*_switches(row), *(figure(row["hd95_frame_px"][name], 1) for name in ("click", "none"))]
        cells += [figure(row["samus_protocol"][name]["hd_rowwise"]["mean"], 1) for name in ("click", "none")]
        yield f"| {' | '.join(cells)} |"


def _switches(row: dict[str, Any]) -> list[str]:
    return [row["fusion"], _yes(row["text"]), _yes(row["adapters"])]


def _bracketed(value: float | None, interval: Sequence[float | None] | None) -> str:
    if value is None or interval is None or interval[0] is None:
        return figure(value)
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


def figure(value: float | None, digits: int = 3) -> str:
    """A number of a table; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def _yes(on: bool) -> str:
    return "yes" if on else "no"
