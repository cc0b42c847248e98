"""Where a preset says its weights are: in a file beside it or in the local store, and what that file builds on."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from medseg_cli.preset_section import Name, Section

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
"""How the names of checkpoint files end."""

CheckpointFile = Annotated[str, Field(pattern="(" + "|".join(map(re.escape, SUFFIXES)) + ")$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BaseWeights(Section):
    """The weights that a training began with, where its own file holds the difference alone.

    Attributes:
        name: in the local store, or of a preset with its weights beside it; None for a file elsewhere.
        file: absolute path of that file; None for a name.
        sha256: of the published file, or of that file.
    """

    name: Name | None = None
    file: CheckpointFile | None = None
    sha256: Sha256

    @model_validator(mode="after")
    def _one_place(self) -> BaseWeights:
        if (self.name is None) == (self.file is None):
            raise PydanticCustomError("order", "give either name or file")
        return self

    @property
    def text(self) -> str:
        """The name, or the file."""
        return self.name or str(self.file)


class Member(Section):
    """Another checkpoint of the same network: its file, as in `ShippedWeights`, and the file's SHA-256."""

    file: CheckpointFile
    sha256: Sha256


class ShippedWeights(Section):
    """Weights in a file beside the preset.

    Attributes:
        file: checkpoint file, relative to the preset's folder (or absolute); what medseg itself writes is safetensors.
        sha256: its SHA-256; None only while a preset is being made: the file is then used unverified.
        base: what the file's tensors belong to, where it holds only those that a training changed.
        members: more checkpoints; the preset's answer is then the mean of all their probabilities.
    """

    file: CheckpointFile
    sha256: Sha256 | None = None
    base: BaseWeights | None = None
    members: tuple[Member, ...] = ()


class CatalogueWeights(Section):
    """Weights in the local store, by the name that `medseg weights list` shows."""

    name: Name


def _weights_kind(value: Any) -> str:
    if isinstance(value, dict):
        return "catalogue" if "name" in value and "file" not in value else "shipped"
    return "catalogue" if isinstance(value, CatalogueWeights) else "shipped"


Weights = Annotated[
    Annotated[ShippedWeights, Tag("shipped")] | Annotated[CatalogueWeights, Tag("catalogue")],
    Discriminator(_weights_kind),
]
