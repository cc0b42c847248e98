"""What every pipeline takes from a preset before it builds its network: its own options, and the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from medseg_cli.errors import ModelError
from medseg_cli.preset import Preset
from medseg_cli.weights import resolve
from medseg_cli.weights.catalogue import entry

Options = TypeVar("Options", bound=BaseModel)


def options_of(preset: Preset, kind: type[Options]) -> Options:
    """The preset's `options` as the pipeline's own class.

    Raises:
        ModelError: names the first that is wrong.
    """
    try:
        return kind.model_validate(preset.options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"preset {preset.name}: options.{where}: {first['msg']}") from error


def check_trained(preset: Preset, layout: str, random_weights: bool) -> None:
    """Refuse a preset that is the beginning of a training: its weights are another method's.

    Args:
        preset: names its weights, or holds them itself.
        layout: of the pipeline's own weights, as in the catalogue.
        random_weights: they take the place of the preset's.

    Raises:
        ModelError: with the command that trains it.
    """
    begun_with = entry(preset.weights_name)
    if not random_weights and begun_with is not None and begun_with.layout != layout:
        raise ModelError(
            f"preset {preset.name} segments nothing yet: its weights are {begun_with.method}'s",
            f"medseg finetune DATASET -o RUN --preset {preset.name}, then use --preset RUN",
        )


def members_of(preset: Preset) -> tuple[Path, ...]:
    """The verified files of an ensemble's other checkpoints; () for a network alone.

    Raises:
        ModelError: missing or damaged weights.
    """
    return tuple(each.path for each in resolve(preset).members)


def weights_of(preset: Preset, random_weights: bool) -> tuple[Path | None, dict[str, Any]]:
    """The verified weights file, None for random weights; and what reports say about it.

    Raises:
        ModelError: missing or damaged weights.
    """
    if random_weights:
        return None, {"name": "random", "sha256": None, "random": True, "licence": None}
    found = resolve(preset)
    facts = {"name": found.name, "sha256": found.sha256, "random": False, "licence": found.licence}
    if found.members:
        facts["members"] = [each.sha256 for each in found.members]
    if found.base is not None:
        facts["base"] = {"name": found.base.name, "sha256": found.base.sha256, "licence": found.base.licence}
    return found.path, facts
