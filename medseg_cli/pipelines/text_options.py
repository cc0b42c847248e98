"""What a preset of pipeline medclip-sam may say in its `options`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from medseg_cli.models.clip import maps
from medseg_cli.pipelines.text_classes import Concept
from medseg_cli.pipelines.text_presence import Presence
from medseg_cli.pipelines.text_regions import Asking, Coarse
from medseg_cli.slices import PlaneName


class Saliency(BaseModel):
    """How maps are made; see `models.clip.maps.How`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: maps.Method = "m2ib"
    layer: int = Field(default=7, ge=0)
    beta: float = Field(default=0.1, ge=0)
    steps: int = Field(default=10, ge=1)
    copies: int = Field(default=10, ge=1)
    top: int = Field(default=300, ge=1)
    geometry: maps.Geometry = "squash"
    crops: int = Field(default=1, ge=1, le=8)
    windows: tuple[Annotated[float, Field(gt=0.02, le=1)], ...] = Field(default=(0.2, 0.35), min_length=1)

    @property
    def how(self) -> maps.How:
        """The same as the maps take it."""
        return maps.How(**self.model_dump())


class Options(BaseModel):
    """Knobs of this pipeline in a preset's `options`.

    Attributes:
        words: vocabulary of a small text tower; () = in a file beside the weights, or open_clip's own.
        vocabulary: a file beside the preset, or the name of the weights in the store whose vocabulary it is.
        saliency, coarse, prompts: the chain from texts to prompts.
        segmenter: preset that draws the mask; None = the coarse mask is the result.
        presence: how "not there" is found; None = everything is always there, as published.
        concepts: what a small model knows; () = any text.
        slices: the plane in which a volume is sliced.
        batch: pictures that are compared with the texts at a time.
        explain: keep the maps, to be written beside the mask.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: tuple[str, ...] = ()
    vocabulary: str | None = None
    saliency: Saliency = Saliency()
    coarse: Coarse = Coarse()
    prompts: Asking = Asking()
    segmenter: str | None = None
    presence: Presence | None = Presence()
    concepts: tuple[Concept, ...] = ()
    slices: PlaneName = "finest"
    batch: int = Field(default=16, ge=1)
    explain: bool = False
