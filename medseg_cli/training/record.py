"""What a run folder says about its run: enough to go on with it, and to do it again."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from medseg_cli.datasets import Split
from medseg_cli.errors import InputError, ModelError
from medseg_cli.pipelines.choices import Choices
from medseg_cli.training.plan import Plan
from medseg_cli.versions import versions
from medseg_cli.writers.atomic import atomic_output

RECORD = "run.json"
SPLIT = "split.json"
COMMAND = "command.txt"

LOGGER = logging.getLogger("medseg.training")

TrackerName = Literal["tensorboard", "mlflow", "wandb", "none"]


@dataclass(frozen=True)
class Record:
    """How a run was begun.

    Args:
        command: the command line.
        dataset: absolute path.
        preset: as it was named; absolute where that was a path.
        preset_text: the preset itself, as YAML.
        start: SHA-256 of the weights it began with; "" = random ones.
        choices, plan: as resolved.
        tracker: where curves went besides the run folder.
        versions: of medseg and of the libraries that decide the result.
        accelerator: kind of device, by Fabric's name; "" = not recorded.
        deterministic: whether only algorithms were used that give the same bits again.
        weights: what the command named instead of the preset's; absolute where that was a path, "" = nothing.
    """

    command: str
    dataset: str
    preset: str
    preset_text: str
    start: str
    choices: Choices
    plan: Plan
    tracker: TrackerName
    versions: dict[str, str | None]
    accelerator: str = ""
    deterministic: bool = False
    weights: str = ""


def begin(run: Path, record: Record, preset_name: str, split: Split) -> None:
    """Write record, split and command of a new run.

    Raises:
        InputError: the folder cannot be written.
    """
    facts = {"dataset": Path(record.dataset).name, "preset": preset_name, **ids_of(split)}
    write_text(run / SPLIT, json.dumps(facts, indent=1) + "\n")
    write_text(run / COMMAND, record.command + "\n")
    write_text(run / RECORD, json.dumps(asdict(record), indent=1) + "\n")


def read(run: Path) -> Record:
    """The record of a run.

    Raises:
        InputError: the folder holds no run.
        ModelError: its record cannot be read.
    """
    path = run / RECORD
    if not path.is_file():
        raise InputError(f"{run} holds no run: there is no {RECORD}", "give the folder that medseg finetune -o made")
    again = "start again with another -o"
    try:
        return TypeAdapter(Record).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelError(f"{path} cannot be read: {where + ': ' if where else ''}{first['msg']}", again) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}", again) from error


def continued(run: Path, asked: Record, preset_name: str, split: Split, moved: bool) -> Record:
    """The record of a run that goes on as `asked`, which must be as it was begun.

    Args:
        run: its folder.
        asked: what the command says now.
        preset_name: name of the preset.
        split: who trains and validates now.
        moved: the dataset may have another name.

    Raises:
        ModelError: naming what differs, or record or split cannot be read.
    """
    begun, path = read(run), run / SPLIT
    try:
        before: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{run} holds a checkpoint, but {path.name} cannot be read: {error}", "use another -o"
        ) from error
    dataset = before.get("dataset") if moved else Path(asked.dataset).name
    now = {"dataset": dataset, "preset": preset_name, **ids_of(split)}
    differing = [key for key in now if before.get(key) != now[key]]
    differing += [key for key, value in asdict(asked.choices).items() if asdict(begun.choices)[key] != value]
    differing += ["start"] if asked.start != begun.start else []
    if differing:
        raise ModelError(
            f"{run} holds a run with another {', '.join(differing)}", "use the same options, or another folder with -o"
        )
    if begun.preset_text != asked.preset_text:
        raise ModelError(
            f"preset {begun.preset} is not what it was when {run} was begun",
            f"restore it ({RECORD} holds its text), or start again with another -o",
        )
    for what, then, today in (
        ("device", begun.accelerator, asked.accelerator),
        ("--deterministic", begun.deterministic, asked.deterministic),
    ):
        if then not in ("", today):
            LOGGER.warning(
                "%s was %s when the run was begun, and is %s now: its last bits may differ", what, then, today
            )
    return begun


def ids_of(split: Split) -> dict[str, list[str]]:
    """Names of the cases of each part."""
    return {
        "train": [case.id for case in split.train],
        "validation": [case.id for case in split.validation],
        "test": [case.id for case in split.test],
    }


def installed() -> dict[str, str | None]:
    """Versions that a record names."""
    return versions()


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    with atomic_output(path, overwrite=True) as part:
        part.write_text(text, encoding="utf-8")
