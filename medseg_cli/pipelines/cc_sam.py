"""Pipeline `cc-sam`: clicks, boxes, masks, words or nothing, on ultrasound pictures and frames (our reconstruction)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from medseg_cli.device import Runtime
from medseg_cli.errors import ModelError
from medseg_cli.models.cc_sam.bank import ClassTexts
from medseg_cli.models.cc_sam.checkpoint import random_network
from medseg_cli.models.cc_sam.config import config_of
from medseg_cli.models.cc_sam.losses import BETA
from medseg_cli.models.cc_sam.network import CcSam
from medseg_cli.models.cc_sam.start import load
from medseg_cli.models.cc_sam.table import Table, read_table
from medseg_cli.models.grounding import load_detector
from medseg_cli.pipelines import by_slice
from medseg_cli.pipelines.by_slice import SlicePipeline
from medseg_cli.pipelines.loading import check_trained
from medseg_cli.pipelines.slice_boxes import SliceBoxes
from medseg_cli.pipelines.slice_mirror import first_network
from medseg_cli.pipelines.slice_texts import Embed, SliceTexts
from medseg_cli.pipelines.text_embedding import embedder
from medseg_cli.preset import Preset

LAYOUT = "cc-sam"


class Options(by_slice.Options):
    """Knobs of this pipeline in a preset's `options`.

    Attributes:
        text_table: file with embedded texts, beside the preset; None where the weights hold them, or there are none.
        texts: which texts the weights hold embeddings of, see `models.cc_sam.bank`.
        text_model: folder of a BERT, or a medclip-sam preset, that embeds texts which the table does not hold.
        detector: folder of a Grounding DINO, which finds boxes for what is said; None = words alone.
        beta: final weight of the latents' divergence in the loss of a training; no mask depends on it.
    """

    text_table: str | None = None
    texts: dict[str, ClassTexts] = Field(default_factory=dict)
    text_model: str | None = None
    detector: str | None = None
    beta: float = Field(default=BETA, ge=0)


class CcSamPipeline:
    """`SlicePipeline` with a `CcSam` in it, which hears texts and answers without any prompt."""

    @classmethod
    def from_preset(cls, preset: Preset, runtime: Runtime, random_weights: bool = False) -> SlicePipeline:
        """Load the preset's weights; its `model` is a `CcSamConfig`.

        Raises:
            ModelError: wrong options, missing or misfitting weights, or texts that do not fit them.
        """
        check_trained(preset, LAYOUT, random_weights)
        made = SlicePipeline.from_preset(preset, runtime, random_weights, _network, Options)
        texts = _texts(preset, made)
        return replace(made, texts=texts, boxes=_boxes(preset, texts, made.runtime), promptless=True)


def _network(path: Path | None, preset: Preset, seed: int) -> CcSam:
    return random_network(config_of(preset.model), seed) if path is None else load(path, preset.model)


def _texts(preset: Preset, made: SlicePipeline) -> SliceTexts | None:
    """What listens to words; None for a network that was built without text.

    Raises:
        ModelError: texts and weights that do not agree.
    """
    config = config_of(preset.model)
    if not config.text:
        return None
    # Several checkpoints of one training have the same rows.
    table = read_table(preset, first_network(made.model))
    width = config.text_dim
    if table is not None and table.width != width:
        raise ModelError(f"preset {preset.name} takes embeddings of {width} numbers, its table has {table.width}")
    named = preset.options.get("text_model")
    if not named:
        return SliceTexts(preset.name, table or Table({}, {}))
    beside = preset.path.parent / str(named) if preset.path is not None else Path(str(named))
    name, embed = embedder(str(beside if beside.is_dir() else named))
    return SliceTexts(preset.name, table or Table({}, {}), _of_width(embed, width, name, preset), name)


def _boxes(preset: Preset, texts: SliceTexts | None, runtime: Runtime) -> SliceBoxes | None:
    """What finds what words name; None where the preset names no detector.

    Raises:
        ModelError: a detector that cannot be read, or a network that hears nothing.
    """
    named = preset.options.get("detector")
    if not named:
        return None
    if texts is None:
        raise ModelError(f"preset {preset.name} hears no words, for which a detector could find boxes")
    return SliceBoxes(load_detector(Path(str(named)).expanduser(), runtime.device), texts.table.bank)


def _of_width(embed: Embed, width: int, name: str, preset: Preset) -> Embed:
    """The language model, if its embeddings are as wide as the network's.

    Raises:
        ModelError: with both widths.
    """
    found = embed(["width"])[0].shape[1]
    if found != width:
        raise ModelError(
            f"{name} makes embeddings of {found} numbers, preset {preset.name} takes {width}",
            "use the language model that the preset was trained with",
        )
    return embed
