"""How a preset turns intensities into what a network sees: the methods, and the numbers that each of them takes."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol, TypeVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from medseg_cli.preset_section import Finite, Section


class _Range(Protocol):
    low: float
    high: float


RangeT = TypeVar("RangeT", bound=_Range)


def _low_below_high(section: RangeT) -> RangeT:
    if section.low >= section.high:
        raise PydanticCustomError("order", f"low {section.low:g} must be below high {section.high:g}")
    return section


class ZScore(Section):
    """Subtract the mean and divide by the standard deviation of what the network sees."""

    method: Literal["zscore"]


class ClipZScore(Section):
    """Clip to [low, high], subtract `mean`, divide by `std`; all in the scan's own units (HU for CT)."""

    method: Literal["clip-zscore"]
    low: Finite
    high: Finite
    mean: Finite
    std: Annotated[float, Field(gt=0)]

    _ordered = model_validator(mode="after")(_low_below_high)


class Percentile(Section):
    """Map the `low`-th and `high`-th percentile (0..100) of the intensities to 0 and 1, clipped."""

    method: Literal["percentile"]
    low: Annotated[float, Field(ge=0, le=100)]
    high: Annotated[float, Field(ge=0, le=100)]

    _ordered = model_validator(mode="after")(_low_below_high)


class Window(Section):
    """Show `level` - `width` / 2 as black and `level` + `width` / 2 as white, in the scan's own units (HU for CT)."""

    method: Literal["window"]
    level: Finite
    width: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EightBit(Section):
    """Values that all lie within 0..255 are grey values already; others go between the percentiles `low` and `high`."""

    method: Literal["eight-bit"]
    low: Annotated[float, Field(ge=0, le=100)] = 0.5
    high: Annotated[float, Field(ge=0, le=100)] = 99.5

    _ordered = model_validator(mode="after")(_low_below_high)


Intensity = Annotated[ZScore | ClipZScore | Percentile | Window | EightBit, Field(discriminator="method")]
