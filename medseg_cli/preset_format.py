"""What a preset may say: the pydantic models behind one YAML file, without reading or finding any."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    PrivateAttr,
    model_validator,
)
from pydantic_core import PydanticCustomError

from medseg_cli.preset_intensity import Intensity
from medseg_cli.preset_quality import Quality
from medseg_cli.preset_section import Finite, Name, Section, Text
from medseg_cli.preset_weights import CatalogueWeights, ShippedWeights, Weights

UNION_TAGS = frozenset({"zscore", "clip-zscore", "percentile", "window", "eight-bit", "shipped", "catalogue"})
OWN_ERRORS = frozenset({"unknown_key", "snomed", "order", "labels"})

Millimetres = Annotated[float, Field(gt=0)]


class Preprocessing(Section):
    """How a scan becomes the network's input.

    Attributes:
        spacing: voxel size in mm along the axes of `orientation`; None keeps the scan's own.
        orientation: three-letter code that the voxel axes point to, such as "RAS"; None keeps the scan's own.
        intensity: how intensities are normalised.
        by_modality: the same for scans of one modality (DICOM code such as "CT", or "image" for PNG, JPEG and TIFF),
            instead of `intensity`.
    """

    spacing: tuple[Millimetres, Millimetres, Millimetres] | None = None
    orientation: Annotated[str, Field(pattern="^[RL][AP][SI]$")] | None = None
    intensity: Intensity
    by_modality: dict[str, Intensity] = Field(default_factory=dict)


class Prompts(Section):
    """Which prompts the pipeline takes.

    Attributes:
        kinds: what it understands; none: it segments all of the preset's labels by itself, with `whole_image` as one.
        minus: whether it understands clicks outside the object.
        whole_image: whether a 2-D image without a prompt means its whole area as box.
        objects: what was one object in training: "together" all positive label values of a case, "apart" each value.
    """

    kinds: tuple[Literal["point", "box", "text", "mask"], ...]
    minus: bool = False
    whole_image: bool = False
    objects: Literal["together", "apart"] = "together"

    @property
    def automatic(self) -> bool:
        """Whether it takes no prompt at all."""
        return not self.kinds

    @property
    def tells_apart(self) -> bool:
        """Whether it finds each of its labels without a prompt, and not all of them as one object."""
        return self.automatic and not self.whole_image


_P = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def _dihedral(a: int, b: int) -> int:
    """Product of two elements of the dihedral group of order 10, numbered as Verhoeff's scheme does."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b) % 5
    return 5 + (a - b) % 5 if b < 5 else (a - b) % 5


def _snomed(code: str) -> str:
    """SNOMED CT identifiers end in a Verhoeff check digit: a mistyped code is refused."""
    check = 0
    for position, digit in enumerate(reversed(code)):
        value = int(digit)
        for _ in range(position % 8):
            value = _P[value]
        check = _dihedral(check, value)
    if check:
        raise PydanticCustomError("snomed", f"'{code}' is no SNOMED CT identifier (its check digit does not fit)")
    return code


class Label(Section):
    """One value of the mask.

    Attributes:
        color: "#rrggbb".
        snomed: SNOMED CT concept identifier where one exists.
        shape: "ellipse": the ellipse that fits it is measured, see `biometry`; None: it has no such shape.
        rim: by how much the masks of training reach beyond the border that is measured (a line that was drawn along it
            and filled), as a share of the picture's longer side: the ellipse is made smaller by it.
        redraw: the ellipse that fits it becomes its mask, see `redraw`; only with a shape.
    """

    value: Annotated[int, Field(ge=1, le=65535)]
    name: Text
    color: Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
    snomed: Annotated[str, Field(pattern="^[1-9][0-9]{5,17}$"), AfterValidator(_snomed)] | None = None
    shape: Literal["ellipse"] | None = None
    rim: Annotated[float, Field(ge=0, lt=0.1)] = 0.0
    redraw: bool = False

    @model_validator(mode="after")
    def _check_redraw(self) -> Self:
        if self.redraw and self.shape is None:
            raise ValueError("redraw: true needs a shape, such as shape: ellipse")
        return self


class Postprocessing(Section):
    """What is done to each object's mask: parts kept, smallest part in mm3, holes filled."""

    keep: Literal["all", "clicked", "largest"] = "all"
    min_mm3: Annotated[float, Field(ge=0)] = 0.0
    fill_holes: bool = False


class Accuracy(Section):
    """One measured number: what, how much, on which data, and the command that measured it."""

    metric: Text
    value: Finite
    data: Text
    command: Text


class HalfPrecision(Section):
    """What computing in bfloat16 did to one measured number: without it `--precision auto` does not choose bf16.

    Attributes:
        metric: the more the better, such as "Dice, mean".
        fp32, bf16: its value in both precisions, on the same data.
        data, command: as in `Accuracy`; the command with both --precision fp32 and bf16.
    """

    metric: Text
    fp32: Finite
    bf16: Finite
    data: Text
    command: Text

    @property
    def loss(self) -> float:
        """By how much bf16 is worse; below 0 where it is better."""
        return self.fp32 - self.bf16


def _flat(data: dict[str, Any]) -> dict[str, Any]:
    """The keys of a mapping's mappings as "outer.inner"; deeper ones stay whole."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(
            {f"{key}.{inner}": each for inner, each in value.items()} if isinstance(value, dict) else {key: value}
        )
    return flat


class Preset(Section):
    """One validated preset.

    Attributes:
        model: constructor arguments of `medseg_cli.load_model(pipeline, ...)`.
        weights: None where there are none yet: `medseg finetune` makes them, and a preset that has them.
        labels: what the mask's values mean; empty only without weights, to be named by the dataset.
        options: knobs of the pipeline, validated by the pipeline's own `Options`.
        licence, source, citation: of the weights.
        bf16: what bfloat16 was measured to do to these weights' masks; None where nobody measured it.
        quality: what results and scans are expected to be like; None where nobody measured it.
    """

    name: Name
    title: Text
    pipeline: Name
    modality: Annotated[tuple[Text, ...], Field(min_length=1)]
    dims: Literal[2, 3]
    model: dict[str, JsonValue] = Field(default_factory=dict)
    weights: Weights | None
    preprocessing: Preprocessing
    prompts: Prompts
    labels: tuple[Label, ...]
    postprocessing: Postprocessing = Postprocessing()
    options: dict[str, JsonValue] = Field(default_factory=dict)
    licence: Text
    source: Text
    citation: str = ""
    accuracy: tuple[Accuracy, ...] = ()
    bf16: HalfPrecision | None = None
    quality: Quality | None = None

    _path: Path | None = PrivateAttr(default=None)
    _read: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """The YAML file it was read from; None for a preset made in memory."""
        return self._path

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the file it was read from, as JSON: "section.key" → value, None where it was taken out.

        Empty for a preset made in memory.
        """
        now = _flat(self.model_dump(mode="json")) if self._read else {}
        before = _flat(self._read)
        return {key: now.get(key) for key in now | before if now.get(key) != before.get(key)}

    @property
    def weights_file(self) -> Path | None:
        """Where the weights beside the preset are expected; None when they are in the local store."""
        if not isinstance(self.weights, ShippedWeights):
            return None
        folder = self._path.parent if self._path else Path()
        return folder / self.weights.file

    @property
    def weights_name(self) -> str:
        """Name of the weights in the local store; "" when they lie beside the preset."""
        return self.weights.name if isinstance(self.weights, CatalogueWeights) else ""

    @property
    def weights_sha256(self) -> str | None:
        """SHA-256 that the weights beside the preset must have; None when it is not stated."""
        return self.weights.sha256 if isinstance(self.weights, ShippedWeights) else None

    @model_validator(mode="after")
    def _distinct_labels(self) -> Preset:
        if not self.labels and self.weights is not None:
            raise PydanticCustomError("labels", "labels: must name what these weights segment")
        for what, seen in (("value", [x.value for x in self.labels]), ("name", [x.name for x in self.labels])):
            if len(set(seen)) != len(seen):
                raise PydanticCustomError("labels", f"labels: every {what} must be used once, found {seen}")
        strange = sorted(set(self.quality.labels if self.quality else ()) - {x.value for x in self.labels})
        if strange:
            raise PydanticCustomError("labels", f"quality: labels name value {strange[0]}, which no label has")
        return self
