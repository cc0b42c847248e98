"""What `medseg finetune` is asked to do: a new run as typed, or one that goes on as it was begun."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from medseg_cli import device as devices
from medseg_cli import pipelines
from medseg_cli import preset as presets
from medseg_cli.device import Runtime
from medseg_cli.errors import UsageError
from medseg_cli.pipelines.choices import Choices, Peft
from medseg_cli.preset import Preset
from medseg_cli.training import job
from medseg_cli.training.job import Job
from medseg_cli.training.plan import GAMMA, KEEP, Wishes

LOGGER = logging.getLogger("medseg.finetune")
SOURCES = {
    "cnn_weights": ("cnn", "--cnn-weights is of presets with a frozen CNN beside SAM, which {} has not"),
    "text_table": ("text_table", "--text-table: preset {} hears no words as a prompt"),
    "boxes": ("boxes", "--boxes: preset {} does not learn from a detector's boxes"),
}
"""What only some recipes learn from: the name in `pipelines.Entry.learns`, and why others refuse it."""


@dataclass(frozen=True, kw_only=True)
class Typed:
    """Options that decide what a run becomes, by their names on the command line and with the defaults they have there.

    A run that goes on has its plan already, so that none of them may differ from its default then.
    """

    output: Path | None = None
    preset: str | None = None
    peft: Peft | None = None
    rank: int | None = None
    objects: Literal["together", "apart"] | None = None
    start: Literal["preset", "scratch"] = "preset"
    weights: str | None = None
    epochs: int | None = None
    steps: int | None = None
    batch_size: str | None = None
    accumulate: int | None = None
    learning_rate: float | None = None
    validate_every: int | None = None
    patience: int | None = None
    splits: Path | None = None
    fold: int | None = None
    feature_cache: Literal["auto", "on", "off"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    amp: bool | None = None
    seed: int | None = None
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    cycles: int | None = None
    gamma: float | None = None
    keep: int | None = None
    released_code: bool = False
    shortest_caption: int | None = None
    cnn_weights: str = ""
    text_table: str = ""
    boxes: str = ""


def resumed(run: Path, dataset: Path | None, typed: Typed, device: str, deterministic: bool) -> tuple[Job, Runtime]:
    """A run that goes on, on the kind of device that it was begun on unless another one is asked for.

    Raises:
        UsageError: an option would change what was begun.
        MedsegError: as of `training.job.resumed`.
    """
    changed = [
        f"--{each.name.replace('_', '-')}" for each in fields(typed) if getattr(typed, each.name) != each.default
    ]
    if changed:
        raise UsageError(
            f"--resume goes on as the run was begun: {', '.join(changed)} cannot change that",
            "leave them out, or start another run with -o",
        )
    todo = job.resumed(run, dataset)
    # The same bits come of the same kind of device.
    where = todo.device if device == "auto" else device
    return todo, _runtime(where, todo.plan.precision, None, todo.plan.seed, deterministic or todo.deterministic)


def begun(dataset: Path | None, typed: Typed, device: str, deterministic: bool) -> tuple[Job, Runtime]:
    """A new run.

    Raises:
        UsageError: something is missing, or options contradict each other or the preset.
        MedsegError: as of `training.job.new`.
    """
    if dataset is None or typed.output is None or typed.preset is None:
        raise UsageError(
            "a new run needs DATASET, -o RUN and --preset NAME",
            "medseg finetune DATASET -o RUN --preset NAME, or medseg finetune --resume RUN",
        )
    runtime = _runtime(device, typed.precision, typed.amp, typed.seed or 0, deterministic)
    wishes, base = _wishes(typed, runtime), presets.find(typed.preset)
    by_text = pipelines.find(base.pipeline).words == "map"
    _check_sources(base, typed)
    _check_learning(base, typed, by_text)
    scratch = typed.start == "scratch"
    if scratch and typed.weights is not None:
        raise UsageError("--start scratch contradicts --weights", "give one of them")
    choices, weights = _choices(base, typed, by_text), typed.weights or ""
    todo = job.new(
        dataset, typed.preset, scratch, wishes, typed.output, choices, typed.splits, typed.fold, weights=weights
    )
    return todo, runtime


def number_or_auto(option: str, text: str, least: int) -> int | None:
    """The number, None for "auto".

    Raises:
        UsageError: neither.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{option} '{text}' is neither auto nor a whole number from {least} on")
    return int(text)


def _runtime(device: str, precision: str, amp: bool | None, seed: int, deterministic: bool) -> Runtime:
    """The runtime of a training.

    Args:
        amp: True = the device's mixed precision, False = fp32, None = `precision` says.

    Raises:
        UsageError: --amp and --precision together.
    """
    if amp is not None and precision != "auto":
        raise UsageError(f"--{'' if amp else 'no-'}amp contradicts --precision {precision}", "give one of them")
    chosen = devices.select(device, "fp32" if amp is False else precision, seed, deterministic)
    if amp and chosen.precision == "fp32":
        word = "bf16" if chosen.device.type == "cpu" else "fp16"
        chosen = devices.select(device, word, seed, deterministic)
    return chosen


def _wishes(typed: Typed, runtime: Runtime) -> Wishes:
    """What is wished of the plan; errors as of `Wishes`."""
    return Wishes(
        epochs=typed.epochs,
        steps=typed.steps,
        batch_size=None if typed.batch_size is None else number_or_auto("--batch-size", typed.batch_size, 1) or "auto",
        accumulate=typed.accumulate or 1,
        learning_rate=typed.learning_rate,
        validate_every=typed.validate_every,
        patience=typed.patience or 0,
        seed=typed.seed or 0,
        precision=runtime.precision,
        cycles=typed.cycles or 1,
        gamma=typed.gamma or GAMMA,
        keep=typed.keep or KEEP,
        released_rate=typed.released_code and typed.cycles is not None,
    )


def _check_sources(base: Preset, typed: Typed) -> None:
    """Refuse what a preset's recipe cannot learn from.

    Raises:
        UsageError: says why.
    """
    learns = set(pipelines.find(base.pipeline).learns)
    if "box" not in base.prompts.kinds:
        learns -= {"boxes"}
    for option, (name, why) in SOURCES.items():
        if getattr(typed, option) and name not in learns:
            raise UsageError(why.format(base.name), "leave it out")


def _check_learning(base: Preset, typed: Typed, by_text: bool) -> None:
    """Refuse what has no meaning for a preset; `by_text`: it learns pictures and captions.

    Raises:
        UsageError: says why.
    """
    if typed.objects == "together" and base.prompts.tells_apart:
        raise UsageError(f"--objects together: preset {typed.preset} tells every label apart", "leave it out")
    if typed.objects is not None and by_text:
        raise UsageError(
            f"--objects {typed.objects}: preset {typed.preset} learns captions, which have none", "leave it out"
        )
    if typed.gradient_checkpointing == "on" and not by_text:
        raise UsageError(
            f"--gradient-checkpointing on is for image-text networks, and preset {typed.preset} has none",
            "use --amp or a smaller --batch-size with --accumulate",
        )
    if typed.released_code and not by_text and typed.cycles is None:
        raise UsageError(
            f"--released-code: nothing of preset {typed.preset}'s training differs from it", "leave it out"
        )
    if typed.cycles is None and (typed.gamma is not None or typed.keep is not None):
        raise UsageError(f"{'--keep' if typed.gamma is None else '--gamma'} is of --cycles", "add --cycles 3")
    if typed.rank is not None and typed.peft != "lora":
        LOGGER.warning("--rank %s has no effect: it is of --peft lora", typed.rank)


def _choices(base: Preset, typed: Typed, by_text: bool) -> Choices:
    """Files by their whole paths, so that a run goes on wherever it is resumed; a name in the store as it is."""
    cnn = Path(typed.cnn_weights).expanduser()
    return Choices(
        typed.peft or "method",
        typed.rank or Choices.rank,
        typed.objects or base.prompts.objects,
        typed.feature_cache,
        released_loss=typed.released_code and by_text,
        checkpointing=typed.gradient_checkpointing,
        shortest_caption=typed.shortest_caption or 0,
        cnn=str(cnn.resolve()) if typed.cnn_weights and cnn.is_file() else typed.cnn_weights,
        text_table=_whole(typed.text_table),
        boxes=_whole(typed.boxes),
    )


def _whole(path: str) -> str:
    return str(Path(path).expanduser().resolve()) if path else ""
