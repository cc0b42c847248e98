"""From the prompt options of `medseg segment` to a `Prompt` in the scan, with every mistake found before the work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medseg_cli.preset import Preset
    from medseg_cli.prompt import Box, Click, Frame, Prompt, Target
    from medseg_cli.scan import Scan

KINDS = {
    "point": ("clicks", "--point X,Y,Z"),
    "box": ("boxes", "--box X0,Y0,X1,Y1"),
    "mask": ("masks", "--mask-prompt MASK"),
    "text": ("text", '--text "WHAT"'),
}
"""Kind of prompt in a preset → what people call it, and the option."""


@dataclass(frozen=True)
class Asked:
    """The prompt options as typed."""

    points: tuple[str, ...]
    boxes: tuple[str, ...]
    coords: Frame
    label: str
    table: Path | None
    mask: Path | None
    slice: int | None
    texts: tuple[str, ...] = ()
    text_table: Path | None = None
    nots: tuple[str, ...] = ()

    def prompt(self) -> Prompt:
        """What can be said without the scan: all but the mask.

        Raises:
            UsageError: options that exclude each other, or that are no numbers.
            InputError: a table that cannot be used.
        """
        from medseg_cli.errors import UsageError
        from medseg_cli.prompt import Prompt, Target
        from medseg_cli.prompt_file import PRINTABLE, parse_box, parse_point, read_prompts
        from medseg_cli.prompt_text import texts_of

        if not self.label.isprintable():
            raise UsageError(f"--label {self.label!r} holds characters that cannot be printed", PRINTABLE)
        clicks = tuple(parse_point(point, self.coords) for point in self.points)
        boxes = tuple(parse_box(box, self.coords) for box in self.boxes)
        if self.texts or self.text_table is not None or self.nots:
            if self.table is not None:
                raise UsageError("--text does not go with --prompts", "say it in words alone, or point alone")
            return self._told(texts_of(self.texts, self.text_table, self.nots), clicks, boxes)
        if self.table is not None:
            others = {"--point": self.points, "--box": self.boxes, "--label": self.label, "--mask-prompt": self.mask}
            given = [name for name, value in others.items() if value]
            if given:
                raise UsageError(
                    f"--prompts does not go with {' or '.join(given)}", "put every click and box into the table"
                )
            return read_prompts(self.table, self.coords)
        return Prompt((Target("1", self.label, clicks, boxes),) if clicks or boxes else ())

    @property
    def pointing(self) -> list[str]:
        """The options that say where one object is, or what it is called, as far as they are given."""
        options = {"--point": self.points, "--box": self.boxes, "--mask-prompt": self.mask, "--label": self.label}
        return [name for name, value in options.items() if value]

    def _told(self, said: Prompt, clicks: tuple[Click, ...], boxes: tuple[Box, ...]) -> Prompt:
        """Words, and what else is known about the one object that they mean.

        Raises:
            UsageError: several objects, any of which could be meant.
        """
        from medseg_cli.errors import UsageError
        from medseg_cli.prompt import Prompt

        if self.pointing and len(said.targets) > 1:
            raise UsageError(
                f"--text means {len(said.targets)} objects, and {' and '.join(self.pointing)} could mean any of them",
                "several phrasings of one object have one name: --text head=... --text head=...",
            )
        if self.label and said.targets[0].label:
            raise UsageError(f"--label and --text both name what is meant ({said.targets[0].label})", "leave one out")
        return Prompt(
            tuple(replace(each, label=each.label or self.label, clicks=clicks, boxes=boxes) for each in said.targets)
        )


def check_kinds(preset: Preset, prompt: Prompt, asked: Asked) -> None:
    """Refuse, before anything is read, prompts that the preset's model does not take.

    Raises:
        UsageError: says what it takes.
    """
    from medseg_cli import pipelines
    from medseg_cli.errors import UsageError
    from medseg_cli.pipelines.text_known import check_texts

    kinds = preset.prompts.kinds
    clicks = [click for target in prompt.targets for click in target.clicks]
    boxes = [box for target in prompt.targets for box in target.boxes]
    said = any(target.text for target in prompt.targets)
    used = {"point": bool(clicks), "box": bool(boxes), "mask": asked.mask is not None, "text": said}
    refused = [KINDS[kind][0] for kind, given in used.items() if given and kind not in kinds]
    takes = ", ".join(f"{name} ({option})" for kind, (name, option) in KINDS.items() if kind in kinds)
    if said and asked.pointing and pipelines.find(preset.pipeline).words == "map":
        raise UsageError(
            f"--text does not go with {' or '.join(asked.pointing)}", "say it in words alone, or point alone"
        )
    if refused and preset.prompts.automatic:
        raise UsageError(f"preset {preset.name} takes no prompt: it segments by itself", "leave the prompt out")
    if refused:
        raise UsageError(f"preset {preset.name} takes no {' and no '.join(refused)}", f"it takes: {takes}")
    check_texts(preset, prompt)
    if not any(used.values()) and not (preset.prompts.whole_image or preset.prompts.automatic):
        options = [option for kind, (_, option) in KINDS.items() if kind in kinds]
        needs = "clicks" if kinds == ("point",) else "a prompt"
        raise UsageError(f"preset {preset.name} needs {needs}", f"add {' or '.join(options)} or --prompts FILE.csv")
    if not preset.prompts.minus and not all(click.positive for click in clicks):
        raise UsageError(
            f"preset {preset.name} does not understand clicks outside the object (minus clicks)",
            "leave them out, or use a preset that takes them (medseg presets show NAME)",
        )
    flat = [click.position for click in clicks if len(click.position) == 2]
    flat += [box.first for box in boxes if len(box.first) == 2]
    if _is_3d(preset) and (flat or asked.slice is not None):
        raise UsageError(
            f"preset {preset.name} works on volumes: prompts need three coordinates, and --slice does not apply",
            "give x,y,z; z is 0 for a 2-D image",
        )
    _check_lone(asked, placed=bool(clicks or boxes))


def _check_lone(asked: Asked, *, placed: bool) -> None:
    """Refuse what is said about a prompt that is not there."""
    from medseg_cli.errors import UsageError

    hint = "add --box X0,Y0,X1,Y1, or leave it out"
    if asked.slice is not None and not placed:
        raise UsageError("--slice says where x,y lie, and there is no such prompt", hint)
    if asked.coords != "ijk" and not placed:
        raise UsageError("--coords says what the numbers of a prompt mean, and there is no such prompt", hint)
    if asked.label and not placed and asked.mask is None and not (asked.texts or asked.text_table):
        raise UsageError("--label names what a prompt points at, and there is no prompt", hint)


def place(prompt: Prompt, asked: Asked, preset: Preset, scan: Scan) -> Prompt:
    """The whole prompt in `scan`: the mask read, places in a slice completed, all of it found to lie inside.

    Raises:
        InputError: a prompt outside the scan, a box that is none, a mask that does not fit.
        UsageError: --slice for three coordinates, no prompt for a volume, or several objects where one is meant.
    """
    from medseg_cli import pipelines
    from medseg_cli.errors import UsageError
    from medseg_cli.prompt import Prompt, locate, locate_box
    from medseg_cli.prompt_mask import read_regions
    from medseg_cli.slices import in_volume, plane_of

    if not _is_3d(preset):
        plane = plane_of(scan, preset.options.get("slices", "finest"))  # type: ignore[arg-type]
        told = bool(prompt.targets) or asked.mask is not None or preset.prompts.automatic
        told |= preset.prompts.whole_image and pipelines.find(preset.pipeline).promptless
        if not told and plane.count > 1 and not scan.cine:
            raise UsageError(
                f"preset {preset.name} needs no prompt for one image, but {scan.provenance.path} is a volume of "
                f"{plane.count} {plane.name} slices",
                "add --box X0,Y0,X1,Y1 --slice N, or --box X0,Y0,Z0,X1,Y1,Z1",
            )
        prompt = in_volume(prompt, scan, plane, asked.slice)
    for target in prompt.targets:
        for click in target.clicks:
            locate(click, scan)
        for box in target.boxes:
            locate_box(box, scan)
    if asked.mask is None:
        return prompt
    return Prompt(_joined(prompt.targets, read_regions(asked.mask, scan), asked))


def _joined(typed: tuple[Target, ...], drawn: tuple[Target, ...], asked: Asked) -> tuple[Target, ...]:
    """Clicks and boxes together with the objects of a mask; one object gets them all."""
    from medseg_cli.errors import UsageError

    if len(drawn) > 1 and (typed or asked.label):
        given = [
            name
            for name, value in (
                ("--point", asked.points),
                ("--box", asked.boxes),
                ("--label", asked.label),
                ("--text", asked.texts),
            )
            if value
        ]
        raise UsageError(
            f"{asked.mask} holds {len(drawn)} objects, and {' and '.join(given)} could mean any of them",
            "give a mask of one object, or leave the rest out",
        )
    if len(drawn) > 1:
        return drawn
    if typed:
        return (replace(typed[0], region=drawn[0].region),)
    return (replace(drawn[0], id="1", label=asked.label),)


def focus(prompt: Prompt, scan: Scan) -> tuple[float, float, float] | None:
    """Voxel ijk that the user pointed at first: a click, else the middle of a box; None where there is neither."""
    from medseg_cli.prompt import locate, locate_box

    for target in prompt.targets:
        for click in target.clicks:
            return locate(click, scan)
        for box in target.boxes:
            (i0, j0, k0), (i1, j1, k1) = locate_box(box, scan)
            return ((i0 + i1) / 2, (j0 + j1) / 2, (k0 + k1) / 2)
    return None


def _is_3d(preset: Preset) -> bool:
    from medseg_cli import pipelines

    return pipelines.find(preset.pipeline).dims == 3
