"""A plain U-Net of nnU-Net's kind: MONAI's DynUNet, without the parts of it that a state dict would hold twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError
from medseg_cli.models.strict import load_strictly

Steps = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class DynunetConfig:
    """Sizes of the network.

    Args:
        classes: output channels, background included.
        filters: channels of each resolution, finest first.
        kernels: edge of the convolutions of each resolution, along each axis.
        strides: by how much each resolution is coarser than the one before; the first is 1.
    """

    classes: int
    filters: tuple[int, ...]
    kernels: Steps
    strides: Steps

    def __post_init__(self) -> None:
        problems = []
        if self.classes < 2:
            problems.append(f"{self.classes} classes: background and one label are two")
        if len(self.filters) < 3 or not len(self.filters) == len(self.kernels) == len(self.strides):
            problems.append("filters, kernels and strides must be of one length, 3 or more")
        if any(edge not in (1, 3, 5, 7) for kernel in self.kernels for edge in kernel):
            problems.append("kernels must have edges of 1, 3, 5 or 7")
        if any(step not in (1, 2) for stride in self.strides for step in stride) or set(self.strides[0]) != {1}:
            problems.append("strides must be 1 or 2, those of the first resolution 1")
        if any(count < 1 for count in self.filters):
            problems.append("filters must be 1 or more")
        if problems:
            raise ModelError("dynunet configuration: " + "; ".join(problems))

    @property
    def multiple(self) -> tuple[int, int, int]:
        """What the input's size must be a multiple of, along each axis."""
        i, j, k = (int(torch.tensor(self.strides)[:, axis].prod()) for axis in range(3))
        return (i, j, k)


def config_of(values: Mapping[str, Any]) -> DynunetConfig:
    """The configuration in a preset's `model`.

    Raises:
        ModelError: unknown or missing keys, or values that mean nothing.
    """
    known = {field.name for field in fields(DynunetConfig)}
    if missing := sorted(known - values.keys()):
        raise ModelError(
            f"dynunet configuration lacks {', '.join(missing)}",
            "medseg finetune DATASET -o RUN --preset dynunet-baseline plans it from your data",
        )
    if unknown := sorted(values.keys() - known):
        raise ModelError(f"dynunet configuration: unknown {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        kernels, strides = (tuple(_triple(each) for each in values[name]) for name in ("kernels", "strides"))
        return DynunetConfig(int(values["classes"]), tuple(int(each) for each in values["filters"]), kernels, strides)
    except (TypeError, ValueError) as error:
        raise ModelError(f"dynunet configuration: {error}") from error


def _triple(values: Any) -> tuple[int, int, int]:
    i, j, k = (int(value) for value in values)
    return (i, j, k)


class Dynunet(nn.Module):
    """MONAI's DynUNet blocks, called one after the other.

    MONAI's own module registers every block a second time in a recursive list for TorchScript; state dicts would hold
    each tensor twice, which safetensors refuses. A test holds this forward pass against MONAI's.
    """

    def __init__(self, config: DynunetConfig) -> None:
        super().__init__()
        self.config = config
        strides = [list(each) for each in config.strides]
        kernels = [list(each) for each in config.kernels]
        whole = DynUNet(3, 1, config.classes, kernels, strides, strides[1:], filters=list(config.filters))
        self.input_block, self.downsamples, self.bottleneck = whole.input_block, whole.downsamples, whole.bottleneck
        self.upsamples, self.output_block = whole.upsamples, whole.output_block
        # Every resolution but the two coarsest says what it sees, as in nnU-Net.
        heads = range(1, len(config.filters) - 2)
        self.heads = nn.ModuleList(nn.Conv3d(config.filters[level], config.classes, kernel_size=1) for level in heads)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        """Image (B, 1, I, J, K), sizes multiples of `config.multiple` → logits (B, classes, I, J, K).

        While training: a list, finest first, each next one coarser by its stride.
        """
        features = [self.input_block(image)]
        for block in self.downsamples:
            features.append(block(features[-1]))
        deep = self.bottleneck(features[-1])
        seen = []
        for block, skip in zip(self.upsamples, reversed(features), strict=True):
            deep = block(deep, skip)
            seen.append(deep)
        finest: Tensor = self.output_block(deep)
        if not self.training:
            return finest
        coarser = seen[-2::-1]
        return [finest, *(head(each) for head, each in zip(self.heads, coarser, strict=False))]


def build(checkpoint: Path | None, values: Mapping[str, Any]) -> Dynunet:
    """A network in eval mode, weights from `checkpoint` (random ones when None).

    Raises:
        ModelError: a wrong configuration, an unreadable file, or tensors that do not fit.
    """
    config = config_of(values)
    if checkpoint is None:
        return random_network(config, 0).eval()
    with torch.device("meta"):
        model = Dynunet(config)
    hint = "use the preset.yaml that stands beside these weights"
    load_strictly(model, read_tensors(checkpoint), checkpoint, "dynunet", hint)
    return model.eval()


def random_network(config: DynunetConfig, seed: int) -> Dynunet:
    """The network with weights drawn from `seed` alone; the caller's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Dynunet(config)
