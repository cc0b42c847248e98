"""What a user sets for one run instead of the preset, put into a copy of it: pipelines read presets only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medseg_cli import pipelines
from medseg_cli.errors import UsageError
from medseg_cli.preset import Preset
from medseg_cli.preset_format import Label
from medseg_cli.windows import parse_window


@dataclass(frozen=True)
class Overrides:
    """Settings of one run; None leaves what the preset says.

    Args:
        slices: plane in which a volume is sliced.
        window: "level/width" or a named window, instead of the preset's grey values for any modality.
        propagate: whether prompts in one slice are followed through its neighbours.
        max_slices: how far, in slices per direction.
        embedding_cache: folder for embeddings.
        batch_slices: slices encoded at a time.
        keep, min_mm3, fill_holes: see `preset_format.Postprocessing`.
        explain: keep what shows where words and scan agree, to be written.
        uncertainty: compare several answers, and map how far they lie apart.
        samples: draws of the latents that are compared.
        text_model: folder of a language model, or a preset with one, for texts that a preset does not know.
        detector: folder of a Grounding DINO that finds boxes for what is said.
        smooth_time: frames of a cine that a mask is smoothed over, an odd number; 0 = none.
        sector: whether ultrasound's surround and burned-in marks are kept from the network and the mask.
        mirror: whether the network is asked about the mirror image of every picture too.
        redraw: whether ellipses become the masks of objects that are ellipses, see `redraw`.
    """

    slices: Literal["finest", "axial", "coronal", "sagittal", "acquisition"] | None = None
    window: str | None = None
    propagate: bool | None = None
    max_slices: int | None = None
    embedding_cache: str | None = None
    batch_slices: int | None = None
    keep: Literal["all", "clicked", "largest"] | None = None
    min_mm3: float | None = None
    fill_holes: bool | None = None
    explain: bool | None = None
    uncertainty: bool | None = None
    samples: int | None = None
    text_model: str | None = None
    detector: str | None = None
    smooth_time: int | None = None
    sector: bool | None = None
    mirror: bool | None = None
    redraw: bool | None = None

    def __post_init__(self) -> None:
        """Check what belongs together.

        Raises:
            UsageError: settings that contradict each other, or a size that is none.
        """
        if self.propagate is False and self.max_slices is not None:
            raise UsageError("--max-slices contradicts --no-propagate", "give one of them")
        if self.min_mm3 is not None and not 0 <= self.min_mm3 < math.inf:
            raise UsageError(f"--min-mm3 {self.min_mm3:g} is no volume", "give 0 or more mm³")
        if self.smooth_time and self.smooth_time % 2 == 0:
            raise UsageError(
                f"--smooth-time {self.smooth_time}: so many frames have no middle",
                f"give {self.smooth_time - 1} or {self.smooth_time + 1}, or 0 for none",
            )
        if self.samples is not None and not self.uncertainty:
            raise UsageError("--samples says how often --uncertainty draws, and that is not asked for", "add it")


def with_options(preset: Preset, chosen: Overrides) -> Preset:
    """A copy of the preset that says what the user chose; `Preset.changes` tells the difference.

    Raises:
        UsageError: a setting of the 2-D models for a preset with a 3-D one, or an unknown window.
        ModelError: the preset's pipeline is unknown.
    """
    if chosen.explain and "text" not in preset.prompts.kinds:
        raise UsageError(
            f"preset {preset.name} takes no text: --explain shows where words and scan agree", "leave --explain out"
        )
    if chosen.explain or chosen.text_model is not None or chosen.detector is not None:
        _check_listening(preset, chosen)
    if chosen.uncertainty:
        _check_answers(preset, chosen)
    sliced = {
        "slices": chosen.slices,
        "window": chosen.window,
        "propagate": chosen.propagate,
        "max-slices": chosen.max_slices,
        "embedding-cache": chosen.embedding_cache,
        "batch-slices": chosen.batch_slices,
        "smooth-time": chosen.smooth_time,
        "no-sector" if chosen.sector is False else "sector": chosen.sector,
        "no-mirror" if chosen.mirror is False else "mirror": chosen.mirror,
        "no-redraw" if chosen.redraw is False else "redraw": chosen.redraw,
    }
    refused = [f"--{name}" for name, value in sliced.items() if value is not None]
    if refused and pipelines.find(preset.pipeline).dims == 3:
        raise UsageError(
            f"preset {preset.name} takes no {' and no '.join(refused)}: its model sees volumes, not slices",
            f"leave {'it' if len(refused) == 1 else 'them'} out, or use a preset of dimension 2 (medseg presets list)",
        )
    cleaning = {"keep": chosen.keep, "min_mm3": chosen.min_mm3, "fill_holes": chosen.fill_holes}
    changed: dict[str, Any] = {
        "options": _options(preset, chosen),
        "postprocessing": preset.postprocessing.model_copy(update=_given(cleaning)),
    }
    if chosen.redraw is not None:
        changed["labels"] = _redrawn(preset, chosen.redraw)
    if chosen.window is not None:
        update = {"intensity": parse_window(chosen.window), "by_modality": {}}
        changed["preprocessing"] = preset.preprocessing.model_copy(update=update)
    return preset.model_copy(update=changed)


def _check_answers(preset: Preset, chosen: Overrides) -> None:
    """Refuse a map of the uncertainty where there is one answer only.

    Raises:
        UsageError: says so.
    """
    entry = pipelines.find(preset.pipeline)
    if entry.latents:
        return
    members = getattr(preset.weights, "members", ())
    if entry.dims == 3 or not entry.ensemble or not members:
        raise UsageError(
            f"preset {preset.name} has one answer only: --uncertainty compares draws of latents or several checkpoints",
            "leave --uncertainty out, or use a preset of pipeline "
            f"{_pipelines(lambda each: each.latents)}, or a 2-D ensemble",
        )
    if chosen.samples is not None:
        raise UsageError(
            f"preset {preset.name} has no latents to draw: its checkpoints are compared, each once",
            "leave --samples out",
        )


def _check_listening(preset: Preset, chosen: Overrides) -> None:
    """Raises: UsageError, where words are heard in another way than the settings mean."""
    words = pipelines.find(preset.pipeline).words
    listening = _pipelines(lambda each: each.words == "prompt")
    if chosen.explain and words != "map":
        raise UsageError(
            f"preset {preset.name} makes no map of where words and scan agree: its network hears words as a prompt",
            "leave --explain out",
        )
    if chosen.text_model is not None and (words != "prompt" or "text" not in preset.prompts.kinds):
        raise UsageError(
            f"preset {preset.name} takes no other language model",
            f"leave --text-model out; it is of pipeline {listening}",
        )
    if chosen.detector is not None and (words != "prompt" or not {"text", "box"} <= set(preset.prompts.kinds)):
        raise UsageError(
            f"preset {preset.name} does not take words and boxes together, as a detector gives them",
            f"leave --detector out; it is of pipeline {listening}",
        )


def _pipelines(wanted: Callable[[pipelines.Entry], bool]) -> str:
    """The names of those pipelines, for a hint."""
    return " or ".join(name for name, each in pipelines.PIPELINES.items() if wanted(each))


def _options(preset: Preset, chosen: Overrides) -> dict[str, Any]:
    options = dict(preset.options)
    simple = {
        "slices": chosen.slices,
        "propagate": chosen.propagate,
        "embedding_cache": chosen.embedding_cache,
        "batch": chosen.batch_slices,
        "explain": chosen.explain,
        "text_model": _folder_or_name(chosen.text_model),
        "detector": chosen.detector,
        "uncertainty": chosen.uncertainty,
        "samples": chosen.samples,
    }
    options.update(_given(simple))
    if chosen.max_slices is not None:
        rules = options.get("propagation") or {}
        options["propagation"] = {**(rules if isinstance(rules, dict) else {}), "max_slices": chosen.max_slices}
    if chosen.smooth_time is not None:
        _check_draws_itself(preset, "smooth-time")
        own = options.get("time") or {}
        # Who counts frames means them, however far apart they are.
        frames = {"window": chosen.smooth_time, "seconds": None}
        options["time"] = {**(own if isinstance(own, dict) else {}), **frames}
    if chosen.sector is not None:
        _check_draws_itself(preset, "sector" if chosen.sector else "no-sector")
        options["ultrasound"] = (options.get("ultrasound") or {}) if chosen.sector else None
    if chosen.mirror is not None:
        _check_draws_itself(preset, "mirror" if chosen.mirror else "no-mirror")
        if chosen.mirror and options.get("fit") != "stretch":
            raise UsageError(
                f"preset {preset.name} pads its pictures, and padding would change sides in a mirror image",
                "leave --mirror out, or use a preset with options.fit: stretch",
            )
        options["mirror"] = chosen.mirror
    return options


def _redrawn(preset: Preset, wanted: bool) -> tuple[Label, ...]:
    """The preset's labels with ellipses as masks where they are ellipses, or without.

    Raises:
        UsageError: none of them is.
    """
    _check_draws_itself(preset, "redraw" if wanted else "no-redraw")
    if not any(label.shape for label in preset.labels):
        raise UsageError(
            f"no label of preset {preset.name} is an ellipse", f"leave --{'' if wanted else 'no-'}redraw out"
        )
    return tuple(label.model_copy(update={"redraw": wanted and label.shape is not None}) for label in preset.labels)


def _check_draws_itself(preset: Preset, flag: str) -> None:
    """Raises: UsageError, where another preset draws the masks."""
    if pipelines.find(preset.pipeline).words == "map":
        raise UsageError(f"preset {preset.name} lets other presets draw its masks, as these say", f"leave --{flag} out")


def _folder_or_name(typed: str | None) -> str | None:
    """A folder by its whole path, for a preset's own are looked for beside it; a name as it is."""
    folder = Path(typed or "").expanduser()
    return str(folder.resolve()) if typed and folder.is_dir() else typed


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
