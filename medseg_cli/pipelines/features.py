"""What an image encoder makes of pictures in a training: kept where it is frozen, made anew where it learns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg_cli.embeddings import EmbeddingCache, embedding_key
from medseg_cli.errors import UsageError
from medseg_cli.models.tuning import encoder_rests
from medseg_cli.pipelines.choices import Choices
from medseg_cli.weights.store import checked_hash
from medseg_cli.writers.atomic import out_of_space

VIEWS = 8
"""Views of a slice where features are kept: fewer are faster, more are less easily learnt by heart."""
MEMORY = 256 * 2**20
"""Bytes of features in memory; the rest is read from the folder."""

SPARE = 2 * 2**30
"""Bytes of the disk that features leave free: checkpoints and the result go there too."""

LOGGER = logging.getLogger("medseg.training")


class Features:
    """Features by the picture they are made of."""

    def __init__(self, folder: Path | None, weights: str) -> None:
        """Keep them in `folder`, or in memory alone; `weights` names the encoder."""
        self._cache = EmbeddingCache(MEMORY, folder)
        self._weights = weights
        self._full = False
        self.computed = 0
        """How many were not there."""

    def of(self, network: Any, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """The features of each image (3, S, S), leading dimension 1, on the network's device."""
        assert encoder_rests(network), "features of an encoder that learns were to be kept"
        return [self._of(network, image) for image in images]

    def _of(self, network: Any, image: Tensor) -> dict[str, Tensor]:
        device = next(network.parameters()).device
        half = str(torch.get_autocast_dtype(device.type)) if torch.is_autocast_enabled(device.type) else "fp32"
        pixels = np.frombuffer(image.contiguous().numpy().tobytes(), np.uint8)
        key = embedding_key("", self._weights, {"precision": half, "shape": list(image.shape)}, pixels)
        found = self._cache.get(key)
        if found is None:
            self.computed += 1
            # One by one: in a batch the last bits could depend on its other images, and on what was there already.
            with torch.no_grad():
                found = {name: value.float().cpu() for name, value in network.encode(image[None].to(device)).items()}
            self._cache.put(key, found, memory_only=self._is_full())
        # Of one order and alignment in memory, wherever they come from: the last bits of what follows depend on both.
        return {name: value.to(device).clone(memory_format=torch.contiguous_format) for name, value in found.items()}

    def _is_full(self) -> bool:
        """Whether features are kept in memory alone from now on, because the disk is nearly full."""
        folder = self._cache.folder
        if folder is not None and not self._full and out_of_space(folder, SPARE):
            self._full = True
            LOGGER.warning(
                "less than %d GiB are free for %s: further features are kept in memory alone", SPARE // 2**30, folder
            )
        return self._full


def kept_features(choices: Choices, start: Path | None, views: int) -> Features | None:
    """Where the features of few views are kept; None where every view is a new one."""
    if not views:
        return None
    assert start is not None
    return Features(choices.features, checked_hash(start))


def embeddings(network: Any, images: Sequence[Tensor], kept: Features | None) -> list[dict[str, Tensor]]:
    """The features of each image (3, S, S), leading dimension 1: kept ones, or encoded in one batch."""
    if kept is not None:
        return kept.of(network, images)
    encoded = network.encode(torch.stack(list(images)).to(next(network.parameters()).device))["image"]
    return [{"image": encoded[index : index + 1]} for index in range(len(images))]


def views_of(choices: Choices, encoder_is_whole: bool) -> int:
    """From how many views of a slice pictures are drawn, so that features can be used again; 0 = each is a new one.

    Args:
        choices: what the user wants.
        encoder_is_whole: the weights leave nothing of the encoder to be trained from scratch.

    Raises:
        UsageError: kept features were asked for, of an encoder that changes.
    """
    rests = choices.peft == "decoder" and encoder_is_whole
    if choices.feature_cache == "on" and not rests:
        why = "its weights lack parts of the encoder" if choices.peft == "decoder" else "--peft decoder freezes it"
        raise UsageError(f"--feature-cache on needs an image encoder that is not trained: {why}", "leave it out")
    return VIEWS if rests and choices.feature_cache != "off" else 0


def refuse_cache(choices: Choices) -> None:
    """What a recipe of volumes says to kept features: those of a single crop would fill a hundred megabytes.

    Raises:
        UsageError: they were asked for.
    """
    if choices.feature_cache == "on":
        raise UsageError("--feature-cache on is for methods that see pictures, not volumes", "leave it out")


def without_kept(recipe: Any) -> dict[str, Any]:
    """A recipe's `__getstate__`, without features and views: a process that draws samples makes its own."""
    return {name: value for name, value in recipe.__dict__.items() if name not in ("_features", "_samples")}
