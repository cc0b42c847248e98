"""How an image-text network learns: pictures and captions that belong together, by DHN-NCE (MedCLIP-SAM, section 2.3).

Nothing is frozen. The paper's rate is for BiomedCLIP's weights; random ones learn at a hundred times that. What a
validation measures is retrieval: of how many pictures, among fifty, the nearest caption is their own; besides, of how
many it is one of the two nearest, and the same from captions to pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg_cli.datasets import Case
from medseg_cli.datasets.pairs import open_image
from medseg_cli.errors import InputError, UsageError
from medseg_cli.intensity import display_of
from medseg_cli.models.clip.checkpoint import build, random_network
from medseg_cli.models.clip.config import config_of
from medseg_cli.models.clip.losses import dhn_nce
from medseg_cli.models.clip.maps import normalised, square
from medseg_cli.models.clip.network import recompute
from medseg_cli.models.clip.words import Words
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.defaults import Defaults
from medseg_cli.pipelines.text_words import file_of, words_beside
from medseg_cli.preset import Preset
from medseg_cli.readers import load_scan
from medseg_cli.slices import plane_of

CROP = (0.9, 1.0)
"""Shares of a picture's area that a training sample shows (the published recipe)."""
RETRIEVED = 50
"""Pictures among which each finds its caption in a validation (the paper's count)."""
LARGE = 50_000_000
"""Parameters from which on activations are computed again on the way back, unless the user says otherwise: those of 64
pictures and captions would take BiomedCLIP, of 196 million, tens of gigabytes."""
ALSO = ("retrieval top-2", "text retrieval top-1", "text retrieval top-2")
"""Measured besides the top-1 from pictures to captions; "text": from captions to pictures."""
LARGEST = 1.5
"""Pictures are kept at most so many times the network's square, which crops need."""


@dataclass(frozen=True, eq=False)
class Captioned:
    """A picture (H, W, 3) uint8 and all phrasings of its caption."""

    picture: NDArray[np.uint8]
    phrasings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Pair:
    """What the network sees of a picture, (3, S, S) 0 to 1, one phrasing, and all of them."""

    image: Tensor
    text: str
    phrasings: frozenset[str]


@dataclass(frozen=True)
class ClipRecipe:
    """Samples and loss for one preset of pipeline medclip-sam.

    Args:
        preset: sizes, vocabulary and grey values.
        start: weights to begin with; None = seeded random weights.
        choices: everything is trained; the loss, and how memory is saved.
    """

    preset: Preset
    start: Path | None
    choices: Choices = field(default_factory=Choices)

    @property
    def defaults(self) -> Defaults:
        """The paper's rate and batch for BiomedCLIP's weights; decay and warm-up of the released script."""
        rate = 1e-6 if self.start is not None else 5e-4
        return Defaults(
            learning_rate=rate,
            weight_decay=0.1,
            batch_size=64,
            epochs=32,
            warmup=0.05,
            metric="retrieval top-1",
            also=ALSO,
            together=RETRIEVED,
        )

    def model(self, seed: int) -> nn.Module:
        """The network with its initial weights.

        Raises:
            ModelError: missing or misfitting weights.
            UsageError: a part of it was to be frozen, or features were to be kept.
        """
        if self.choices.feature_cache == "on":
            raise UsageError("--feature-cache on: both towers of an image-text network learn", "leave it out")
        if self.choices.peft not in ("method", "full"):
            raise UsageError(
                f"--peft {self.choices.peft} is not of image-text networks: the method trains both towers",
                "leave it out",
            )
        if self.start is None:
            network = random_network(config_of(self.preset.model), seed)
        else:
            network = build(self.start, self.preset.model).requires_grad_(True)
        large = sum(each.numel() for each in network.parameters()) >= LARGE
        if self.choices.checkpointing == "on" or (self.choices.checkpointing == "auto" and large):
            recompute(network)
        return network

    def groups(self, network: nn.Module) -> list[dict[str, Any]]:
        """All parameters but the scale, which the loss does not use: it has a temperature of its own."""
        return [{"params": [value for name, value in network.named_parameters() if name != "logit_scale"]}]

    def load(self, case: Case) -> Captioned:
        """A picture in memory, at most `LARGEST` times the network's square.

        Raises:
            InputError: unreadable, no caption, or a volume of several slices.
        """
        if not case.phrasings:
            raise InputError(f"{case.image} has no caption", "docs/datasets.md says how captions are listed")
        scan = open_image(case, load_scan)
        plane = plane_of(scan, "finest")
        if plane.count != 1 or scan.voxels.shape[0] not in (1, 3):
            raise InputError(
                f"{case.image} has {plane.count} slices of {scan.voxels.shape[0]} channels",
                "captions belong to pictures: write single slices, grey or RGB",
            )
        picture = display_of(scan, self.preset).picture(plane.take(scan.voxels, 0))
        return Captioned(_smaller(picture, round(LARGEST * self._size)), case.phrasings)

    def sample(self, volume: Captioned, rng: Generator) -> Pair:
        """A random crop of nearly all of the picture, and one phrasing."""
        height, width = volume.picture.shape[:2]
        edge = float(np.sqrt(rng.uniform(*CROP)))
        high, wide = max(1, round(height * edge)), max(1, round(width * edge))
        top, left = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
        text = volume.phrasings[int(rng.integers(len(volume.phrasings)))]
        return self._pair(volume.picture[top : top + high, left : left + wide], text, volume)

    def fixed_sample(self, volume: Captioned, rng: Generator) -> Pair:
        """The whole picture and its first phrasing."""
        return self._pair(volume.picture, volume.phrasings[0], volume)

    def loss(self, model: nn.Module, samples: list[Pair]) -> Tensor:
        """DHN-NCE of a batch; pictures that share a phrasing are no negatives of each other.

        Raises:
            UsageError: a single pair, which has no negatives.
        """
        if len(samples) < 2:
            raise UsageError(
                "the loss of image-text networks compares the pairs of a batch with each other, and this one has 1",
                "give a larger --batch-size; --amp and --gradient-checkpointing on save memory",
            )
        images, texts = self._features(model, samples)
        if self.choices.released_loss:
            return dhn_nce(images, texts, released_code=True)
        return dhn_nce(images, texts, same=_same(samples))

    def score(self, model: nn.Module, samples: list[Pair]) -> list[tuple[float, ...]]:
        """Retrieval of each picture's caption among those of all samples, and of each caption's picture: 1 or 0.

        Captions that a picture has among its phrasings are its own. Order as `defaults.metric` and `ALSO`.
        """
        images, texts = self._features(model, samples)
        unit = nn.functional.normalize
        cosines = unit(images.float(), dim=-1) @ unit(texts.float(), dim=-1).T
        own = torch.tensor([[text.text in picture.phrasings for text in samples] for picture in samples])
        found = [*retrieved(cosines.cpu(), own), *retrieved(cosines.cpu().T, own.T)]
        return list(zip(*found, strict=True))

    @property
    def beside(self) -> tuple[Path, ...]:
        """The vocabulary's file, which must lie beside weights."""
        found = file_of(self.preset, self.start)
        return () if found is None else (found,)

    def _features(self, model: nn.Module, samples: list[Pair]) -> tuple[Tensor, Tensor]:
        device = next(model.parameters()).device
        config = config_of(self.preset.model)
        images = normalised(torch.stack([each.image for each in samples]).to(device), config.mean, config.std)
        tokens, _ = self._words([each.text for each in samples])
        return model.encode_image(images), model.encode_text(tokens.to(device))  # type: ignore[operator]

    def _pair(self, picture: NDArray[np.uint8], text: str, volume: Captioned) -> Pair:
        return Pair(square(picture, self._size, "squash"), text, frozenset(volume.phrasings))

    @property
    def _size(self) -> int:
        return config_of(self.preset.model).image_size

    @cached_property
    def _words(self) -> Words:
        return words_beside(self.preset, self.start)

    def __getstate__(self) -> dict[str, Any]:
        """Without the vocabulary, which each process reads for itself."""
        return {key: value for key, value in self.__dict__.items() if key != "_words"}


def retrieved(scores: Tensor, own: Tensor) -> tuple[list[float], list[float]]:
    """Of each row, whether its best column is one of its own, and whether one of its best two is: 1 or 0.

    Args:
        scores: (N, M), the more the better.
        own: (N, M) bool.
    """
    best = own.gather(1, scores.topk(min(2, scores.shape[1]), dim=1).indices)
    return best[:, 0].float().tolist(), best.any(1).float().tolist()


def _same(samples: list[Pair]) -> Tensor:
    """(B, B) which samples share a phrasing, each with itself among them."""
    return torch.tensor([[bool(a.phrasings & b.phrasings) for b in samples] for a in samples])


def _smaller(picture: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """The picture, its longer side at most `longest` pixels."""
    height, width = picture.shape[:2]
    if max(height, width) <= longest:
        return picture
    scale = longest / max(height, width)
    image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float()[None]
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    resized = nn.functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    small: NDArray[np.uint8] = resized[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
    return small
