"""Naming the objects of a run: one label per target, with a colour of its own."""

from __future__ import annotations

from medseg_cli.preset import Preset
from medseg_cli.prompt import Prompt
from medseg_cli.segmentation import Label

PALETTE = ("#f4d03f", "#5dade2", "#58d68d", "#ec7063", "#af7ac5", "#eb984e", "#48c9b0", "#f7dc6f", "#85929e", "#d98880")
"""Colours of objects when a run has several."""


def labels_of(prompt: Prompt, preset: Preset) -> tuple[Label, ...]:
    """One label per target, values 1, 2, 3...; a preset's label of the same name lends its code, colour and shape."""
    default = preset.labels[0]
    known = {label.name: label for label in preset.labels}
    names = [target.label or default.name for target in prompt.targets]
    labels: list[Label] = []
    taken: set[str] = set()
    for index, (target, name) in enumerate(zip(prompt.targets, names, strict=True)):
        like = known.get(name, default)
        shown = f"{name} ({target.id})" if names.count(name) > 1 else name
        while shown in taken:
            shown = f"{shown} ({target.id})"
        taken.add(shown)
        color = like.color if len(names) == 1 else PALETTE[index % len(PALETTE)]
        shape = (like.shape or "", like.rim, like.redraw)
        labels.append(Label(index + 1, shown, _rgb(color), like.snomed or "", *shape))
    return tuple(labels)


def empty_targets(found: set[int], prompt: Prompt) -> list[str]:
    """A note for each target whose mask value is not among `found`."""
    return [
        f"object '{target.id}' is empty: nothing was found at its prompt, or another has it"
        if target.clicks or target.boxes or target.region or target.text
        else "nothing was found"
        for value, target in enumerate(prompt.targets, start=1)
        if value not in found
    ]


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(color.lstrip("#"))
    return (red, green, blue)
