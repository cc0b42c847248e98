"""Loading CC-SAM's weights strictly, and beginning with those of SAM, SAMUS and a ResNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg_cli.checkpoint_file import read_tensors
from medseg_cli.errors import ModelError
from medseg_cli.models.cc_sam.config import CcSamConfig, config_of
from medseg_cli.models.cc_sam.network import CcSam
from medseg_cli.models.sam_unet.start import to_resnet
from medseg_cli.models.samus.start import from_sam
from medseg_cli.models.strict import load_strictly
from medseg_cli.weights.layouts import identify

_HINT = "a CC-SAM is loaded with the configuration it was trained with; there are no official ones"
_DROPPED = ("cnn_embed.", ".Space_Adapter.", ".refine_Adapter.")
"""What of SAMUS has no place beside the frozen CNN."""
_CNN = "image_encoder.cnn."


@dataclass(frozen=True)
class Start:
    """Where the tensors of a network to train came from.

    Args:
        copied: taken from a file as they were.
        resized: position tables that were brought to 63 rows.
        dropped: in a file, and of no use here.
        new: in no file; they keep their random weights.
    """

    copied: tuple[str, ...]
    resized: tuple[str, ...]
    dropped: tuple[str, ...]
    new: tuple[str, ...]


def build(checkpoint: Path | None, values: Mapping[str, Any]) -> CcSam:
    """A `CcSam` in eval mode, weights from a checkpoint of ours (random ones when None).

    Raises:
        ModelError: unknown configuration, unreadable file, or tensors that do not fit, with the first differing keys.
    """
    config = config_of(values)
    if checkpoint is None:
        return random_network(config, 0).eval()
    weights = read_tensors(checkpoint)
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ModelError(f"{checkpoint} holds no named tensors", _HINT)
    # Not on the meta device: the ResNet's mean and deviation are no part of a checkpoint.
    model = random_network(config, 0)
    load_strictly(model, weights, checkpoint, "cc-sam", _HINT)
    return model.eval()


def random_network(config: CcSamConfig, seed: int) -> CcSam:
    """The network with weights drawn from `seed` alone; the caller's random numbers are left as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CcSam(config)


def begin_with(values: Mapping[str, Any], seed: int, files: Sequence[Path] = ()) -> tuple[CcSam, Start]:
    """A network to train: drawn from `seed`, then overwritten by what the files hold; the CNN alone is frozen.

    Args:
        values: the configuration, by the names of `CcSamConfig` and `SamusConfig`.
        seed: of the parts that no file covers.
        files: a SAM or a SAMUS of the transformer's size, and for the frozen CNN a ResNet of torchvision's names or a
            SAM-UNet, whose ResNet is taken.

    Raises:
        ModelError: a file of another layout, or one whose tensors have other shapes or no place here.
    """
    model = random_network(config_of(values), seed)
    own = model.state_dict()
    copied: dict[str, Tensor] = {}
    resized: list[str] = []
    dropped: list[str] = []
    for path in files:
        found = identify(read_tensors(path))
        if found.layout == "sam-unet":
            weights = {f"{_CNN}{key}": value for key, value in to_resnet(found.tensors).items()}
        elif found.layout.startswith("sam-"):
            weights = from_sam(found.tensors, model.config.samus)
            resized += [key for key, value in weights.items() if value.shape != found.tensors[key].shape]
        elif found.layout == "samus":
            weights = found.tensors
        elif found.layout.startswith("resnet"):
            weights = {f"{_CNN}{key}": value for key, value in found.tensors.items()}
        else:
            raise ModelError(f"{path} has the layout '{found.layout}', with which CC-SAM cannot begin", _HINT)
        idle = {key for key in weights if key not in own and (_is_idle(key) or key.startswith(f"{_CNN}fc."))}
        unknown = sorted(weights.keys() - own.keys() - idle)
        wrong = [key for key in weights if key in own and weights[key].shape != own[key].shape]
        if unknown or wrong:
            raise ModelError(
                f"{path} does not fit cc-sam: {len(unknown)} keys have no place here {unknown[:3]}, "
                f"{len(wrong)} have another shape {wrong[:3]}",
                _HINT,
            )
        dropped += sorted(idle)
        copied |= {key: value.float() for key, value in weights.items() if key in own}
    model.load_state_dict(copied, strict=False)
    new = tuple(key for key in own if key not in copied)
    return model, Start(tuple(key for key in copied if key not in resized), tuple(resized), tuple(dropped), new)


def _is_idle(key: str) -> bool:
    return any(part in key for part in _DROPPED)
