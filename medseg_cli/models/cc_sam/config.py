"""`CcSamConfig`: every number and switch of our reconstruction of CC-SAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from medseg_cli.errors import ModelError
from medseg_cli.models.cc_sam.bank import KEY
from medseg_cli.models.samus import config as samus
from medseg_cli.models.samus.config import SamusConfig

Fusion = Literal["vaf", "convex", "cross", "gate", "none", "samus"]
Cnn = Literal["frozen", "samus", "none"]
Taps = Literal["pyramid", "c3"]
Block = Literal["basic", "bottleneck"]

STAGES = 4
"""Stages of the frozen ResNet, C2 to C5."""


@dataclass(frozen=True)
class CcSamConfig:
    """Sizes and switches; the defaults are our reconstruction of the published network.

    Args:
        samus: the transformer, its adapters, the prompt encoder and the decoder, which CC-SAM has from SAMUS.
        cnn: "frozen", a ResNet that is never trained; "samus", SAMUS's trained branch; "none".
        cnn_block, cnn_layers, cnn_stem: the ResNet: kind of its blocks, blocks in each stage, channels of its first
            convolution. The defaults are ResNet-50.
        fusion: how the transformer's global blocks listen to the CNN. "vaf", variational attention, weighted by
            certainty; "convex", the same with both sides weighted; "cross", attention of the means, no gate; "gate",
            the gate without attention; "none"; "samus", SAMUS's attention and refinement.
        taps: "pyramid", one stage of the ResNet for each of the four global blocks; "c3", its second stage for all.
        fusion_dim, latent_dim: width of values and hidden layers, and of the Gaussian latents (r and z).
        adapters: whether the five feature adapters are there.
        text: whether a token of text, or of its absence, stands among the prompts.
        text_dim: width of the text embeddings that come in.
        text_rows: (class, embedded texts of it) for each class whose texts lie in the weights; () = in a file.
    """

    samus: SamusConfig = field(default_factory=SamusConfig)
    cnn: Cnn = "frozen"
    cnn_block: Block = "bottleneck"
    cnn_layers: tuple[int, ...] = (3, 4, 6, 3)
    cnn_stem: int = 64
    fusion: Fusion = "vaf"
    taps: Taps = "pyramid"
    fusion_dim: int = 192
    latent_dim: int = 96
    adapters: bool = True
    text: bool = True
    text_dim: int = 768
    text_rows: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        problems = []
        heads, ends = self.samus.num_heads, self.samus.global_attn_indexes
        if self.fusion_dim % heads or self.latent_dim % heads:
            problems.append(
                f"fusion_dim {self.fusion_dim} and latent_dim {self.latent_dim} are not divisible by {heads}"
            )
        if (self.cnn == "none") != (self.fusion == "none"):
            problems.append(f"cnn '{self.cnn}' and fusion '{self.fusion}': without the one there is no other")
        if self.fusion == "samus" and (self.cnn != "samus" or not self.adapters):
            problems.append("fusion 'samus' goes with cnn 'samus' and adapters")
        if self.cnn == "frozen" and self.taps == "pyramid" and len(ends) != STAGES:
            problems.append(f"taps 'pyramid' needs {STAGES} global blocks, not {len(ends)}: take 'c3'")
        if len(self.cnn_layers) != STAGES:
            problems.append(f"cnn_layers {self.cnn_layers} are not {STAGES} numbers")
        if problems:
            raise ModelError("cc-sam configuration: " + "; ".join(problems))

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels after each of the ResNet's stages."""
        return tuple(self.cnn_stem * (4 if self.cnn_block == "bottleneck" else 1) * 2**stage for stage in range(STAGES))


_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "cnn": get_args(Cnn),
    "cnn_block": get_args(Block),
    "fusion": get_args(Fusion),
    "taps": get_args(Taps),
    "adapters": (True, False),
    "text": (True, False),
}


def config_of(values: Mapping[str, Any]) -> CcSamConfig:
    """The configuration that a preset's `model` states, SAMUS's numbers beside ours; the rest is the default.

    Raises:
        ModelError: unknown names, values of the wrong kind, or values that do not go together.
    """
    own = {each.name for each in fields(CcSamConfig)} - {"samus"}
    mine = {name: value for name, value in values.items() if name in own}
    rest = samus.config_of({name: value for name, value in values.items() if name not in own})
    for name, value in mine.items():
        if name in _CHOICES:
            good, known = value in _CHOICES[name], ", ".join(map(str, _CHOICES[name]))
        elif name == "text_rows":
            good = isinstance(value, Mapping) and all(
                KEY.fullmatch(str(key)) and type(rows) is int and rows > 0 for key, rows in value.items()
            )
            known = "class: number of its texts"
        elif name == "cnn_layers":
            good = isinstance(value, list | tuple) and all(type(each) is int and each > 0 for each in value)
            known = "four whole numbers above 0"
        else:
            good, known = type(value) is int and value > 0, "a whole number above 0"
        if not good:
            raise ModelError(f"cc-sam configuration: {name} cannot be {value!r}", f"it is one of: {known}")
    if "text_rows" in mine:
        mine["text_rows"] = tuple(mine["text_rows"].items())
    if "cnn_layers" in mine:
        mine["cnn_layers"] = tuple(mine["cnn_layers"])
    return CcSamConfig(samus=rest, **mine)
