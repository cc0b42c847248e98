"""What a start of `medseg finetune` is to do: a new run as asked, or a run that was begun."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medseg_cli import preset
from medseg_cli.errors import InputError, ModelError
from medseg_cli.pipelines.choices import Choices
from medseg_cli.preset import Preset
from medseg_cli.training import record
from medseg_cli.training.plan import Plan, Wishes
from medseg_cli.training.record import TrackerName
from medseg_cli.weights import resolve
from medseg_cli.weights.choice import override
from medseg_cli.weights.store import known_names


@dataclass(frozen=True)
class Job:
    """A run, before its dataset is read.

    Args:
        dataset: folder or listing.
        base: preset to train; `preset` is how it was named.
        start: weights to begin with, None = random ones; `start_sha256` is "" then.
        plan: the plan, or what is wished of it.
        run: its folder.
        choices: what is trained, and what an object is.
        splits, fold: who trains and validates; both None = drawn by the seed.
        moved: whether the dataset may have another name than the run says.
        tracker: where curves go unless the command says otherwise.
        device: the kind that the run was begun on, as --device takes it; "auto" for a new run.
        deterministic: whether the run was begun so.
        weights: those it begins with instead of the preset's, which `base` has already; "" = the preset's own.
    """

    dataset: Path
    base: Preset
    preset: str
    start: Path | None
    start_sha256: str
    plan: Plan | Wishes
    run: Path
    choices: Choices
    splits: Path | None = None
    fold: int | None = None
    moved: bool = False
    tracker: TrackerName = "tensorboard"
    device: str = "auto"
    deterministic: bool = False
    weights: str = ""


def new(
    dataset: Path,
    preset_name: str,
    scratch: bool,
    wishes: Wishes,
    run: Path,
    choices: Choices,
    splits: Path | None,
    fold: int | None,
    *,
    weights: str = "",
) -> Job:
    """A run as asked; one that is in the folder already is resumed.

    Raises:
        ModelError: no such preset, or its weights are missing.
    """
    base = _base(preset_name, weights, choices)
    # A name goes before a folder of that name, as in `preset.find`; a path must hold wherever the run goes on.
    named = preset_name if preset_name in preset.names() else str(Path(preset_name).expanduser().resolve())
    if weights and weights not in known_names():
        weights = str(Path(weights).expanduser().resolve())
    begins = None if scratch or base.weights is None else resolve(base)
    return Job(
        dataset,
        base,
        named,
        begins.path if begins else None,
        begins.sha256 if begins else "",
        wishes,
        run,
        choices,
        splits,
        fold,
        weights=weights,
    )


def resumed(run: Path, dataset: Path | None) -> Job:
    """A run that was begun, as its folder says.

    Args:
        run: its folder.
        dataset: where the dataset is now; None = where it was.

    Raises:
        InputError: the folder holds no run, or the dataset is gone.
        ModelError: its preset or the weights it began with are missing or not what they were.
    """
    before = record.read(run)
    where = dataset or Path(before.dataset)
    if not where.exists():
        raise InputError(f"{where}, the dataset of {run}, does not exist", f"medseg finetune DATASET --resume {run}")
    base = _base(before.preset, before.weights, before.choices)
    start, sha256 = None, ""
    if before.start:
        begins = resolve(base)
        start, sha256 = begins.path, begins.sha256
        if sha256 != before.start:
            raise ModelError(
                f"{run} began with weights of SHA-256 {before.start[:12]}..., those of preset {base.name} are now "
                f"{sha256[:12]}...",
                "restore them, or start again with another -o",
            )
    split = run / record.SPLIT
    return Job(
        where,
        base,
        before.preset,
        start,
        sha256,
        before.plan,
        run,
        before.choices,
        split,
        moved=True,
        tracker=before.tracker,
        device=before.accelerator or "auto",
        deterministic=before.deterministic,
        weights=before.weights,
    )


def _base(preset_name: str, weights: str, choices: Choices) -> Preset:
    """The preset, with the weights and the table of texts that are to take the place of its own."""
    base = preset.find(preset_name)
    if choices.text_table:
        base = base.model_copy(update={"options": {**base.options, "text_table": choices.text_table}})
    return override(base, weights) if weights else base
