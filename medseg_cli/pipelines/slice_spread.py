"""How far several answers of one network lie apart, per pixel: latents drawn again and again, or an ensemble's members.

A network with latents (`has_latents`) encodes each slice `samples` times more, from noise that the run's seed, the
slice and the number of the draw decide alone; more samples continue the same series. Several checkpoints answer for
themselves. The mask is that of the plain run in either case: the answers only say how far it can be trusted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.errors import UsageError
from medseg_cli.pipelines.maps import Maps
from medseg_cli.pipelines.slice_ensemble import SliceEnsemble
from medseg_cli.segmentation import Spread
from medseg_cli.slices import Plane

HIGHEST = 0.5
"""Largest standard deviation that numbers between 0 and 1 can have."""


@dataclass(frozen=True)
class Draws:
    """Which answers are compared.

    Args:
        samples: draws of the latents, of every network that has any.
        seed: of the run.
    """

    samples: int
    seed: int

    def noise(self, index: int, number: int) -> torch.Generator:
        """The generator, on the CPU, of one draw in one slice."""
        name = hashlib.sha256(f"{self.seed} {index} {number}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(name[:8]))

    def facts(self, model: Any, index: int) -> dict[str, int]:
        """What an embedding of `encode` depends on besides that of the plain run."""
        return {"samples": self.samples, "seed": self.seed, "slice": index} if has_latents(model) else {}

    def encode(self, model: Any, images: Tensor, indices: Sequence[int]) -> dict[str, Tensor]:
        """What `opinions` needs of B slices besides `model.encode(images)`.

        Args:
            model: a `by_slice.SliceNetwork`; one with latents has `encodings`, see `models.cc_sam.network.CcSam`.
            images: (B, 3, S, S).
            indices: of the slices in their scans.
        """
        if isinstance(model, SliceEnsemble):
            return {
                f"{number}.{name}": value
                for number, member in enumerate(model.members)
                for name, value in self.encode(member, images, indices).items()
            }
        if not has_latents(model):
            return {}
        noises = ([self.noise(index, number) for index in indices] for number in range(self.samples))
        return {
            f"draw.{number}.{name}": value
            for number, drawn in enumerate(model.encodings(images, noises))
            for name, value in drawn.items()
        }


def has_latents(model: Any) -> bool:
    """Whether a network, or one of an ensemble, has latents that can be drawn."""
    if isinstance(model, SliceEnsemble):
        return any(has_latents(member) for member in model.members)
    return bool(getattr(model, "has_latents", False))


def check_comparable(model: Any, preset: str) -> None:
    """Refuse a network that has one answer only.

    Raises:
        UsageError: says so.
    """
    if not has_latents(model) and not isinstance(model, SliceEnsemble):
        raise UsageError(
            f"preset {preset} has one answer only: --uncertainty compares draws of latents or several checkpoints",
            "leave --uncertainty out, or use a CC-SAM with fusion vaf, convex or gate, or an ensemble",
        )


def opinions(model: Any, embedding: Mapping[str, Tensor]) -> Iterator[tuple[Any, dict[str, Tensor]]]:
    """(network, embedding) of every answer that an encoded slice allows; see `Draws.encode`."""
    if isinstance(model, SliceEnsemble):
        for number, member in enumerate(model.members):
            yield from opinions(member, _below(embedding, f"{number}."))
        return
    drawn = {name.split(".")[1] for name in embedding if name.startswith("draw.")}
    if not drawn:
        yield model, dict(embedding)
    for number in range(len(drawn)):
        yield model, _below(embedding, f"draw.{number}.")


def _below(embedding: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in embedding.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Compared:
    """The answers about one object in one slice.

    Args:
        sizes: pixels of each answer.
        shared: of these, pixels that the mask has too.
        inside: pixels of the mask.
        doubt: standard deviations summed over the mask, and over the whole slice.
        most: the highest.
    """

    sizes: NDArray[np.int64]
    shared: NDArray[np.int64]
    inside: int
    doubt: tuple[float, float]
    most: float


@dataclass(frozen=True, eq=False)
class SliceSpread:
    """The answers about the slices of one scan.

    Args:
        maps: per object the standard deviation of the probability over the answers.
        level: logit above which a pixel is the object.
        found: per object: slice index → what was compared.
    """

    maps: Maps
    level: float
    found: list[dict[int, Compared]]

    @classmethod
    def of(cls, plane: Plane, objects: int, level: float) -> SliceSpread:
        """Nothing compared so far."""
        return cls(Maps.of(plane, objects), level, [{} for _ in range(objects)])

    @torch.inference_mode()
    def keep(self, target: int, index: int, answers: Iterable[Tensor], mask: NDArray[np.bool_]) -> None:
        """Compare answers about an object in a slice, of which one at a time is in memory.

        Args:
            target: number of the object, from 0.
            index: of the slice.
            answers: logits (H, W) each; they are overwritten.
            mask: (H, W), what the plain run found.
        """
        sizes, shared, mean, squares = [], [], None, None
        for count, logits in enumerate(answers, start=1):
            inside = logits > self.level
            sizes.append(int(inside.sum()))
            shared.append(int((inside & torch.from_numpy(mask).to(inside.device)).sum()))
            probability = logits.sigmoid_()
            # Welford's sums: the answers need not be there all at once.
            if mean is None or squares is None:
                mean, squares = probability, torch.zeros_like(probability)
            else:
                off = probability - mean
                mean.add_(off, alpha=1 / count)
                squares.addcmul_(off, probability.sub_(mean))
        assert squares is not None
        spread = squares.div_(len(sizes)).clamp_(min=0).sqrt_().cpu().numpy()
        self.maps.keep(target + 1, index, spread)
        self.found[target][index] = Compared(
            np.array(sizes),
            np.array(shared),
            int(mask.sum()),
            (float(spread[mask].sum(dtype=np.float64)), float(spread.sum(dtype=np.float64))),
            float(spread.max()),
        )

    def result(self, kept: Sequence[Iterable[int]], of: str, picture: Callable[[int], NDArray[np.uint8]]) -> Spread:
        """What was compared in the slices that count.

        Args:
            kept: per object, the slices that the mask has of it; others were looked at and turned down.
            of: what the answers are.
            picture: slice → (H, W, 3), as the network saw it.
        """
        pictures, scores = {}, {}
        for value, (found, indices) in enumerate(zip(self.found, kept, strict=True), start=1):
            good = {index: found[index] for index in sorted(set(indices) & found.keys())}
            for index in found.keys() - good.keys():
                self.maps.drop(value, index)
            scores[value] = summary(good)
            if good:
                best = max(good, key=lambda index: good[index].doubt[1])
                pictures[value] = self.maps.over(value, best, picture(best), HIGHEST)
        answers = max((len(each.sizes) for found in self.found for each in found.values()), default=0)
        return Spread(self.maps.values, pictures, of, answers, scores)


def summary(found: Mapping[int, Compared]) -> dict[str, Any]:
    """How far the answers about one object lie apart, over all of its slices; JSON-ready.

    Answer 1 of a slice counts together with answer 1 of the others, and so on: each is one whole mask.
    """
    sizes: NDArray[np.int64] = sum((each.sizes for each in found.values()), np.zeros(1, np.int64))
    shared: NDArray[np.int64] = sum((each.shared for each in found.values()), np.zeros(1, np.int64))
    inside = sum(each.inside for each in found.values())
    both = np.where(sizes + inside > 0, sizes + inside, 1)
    dice = np.where(sizes + inside > 0, 2 * shared / both, 1.0)
    worst = max(found, key=lambda index: found[index].most, default=None)
    mean = float(sizes.mean())
    return {
        "agreement": {"mean": round(float(dice.mean()), 6), "least": round(float(dice.min()), 6)},
        "mean_voxels": round(mean, 3),
        "sd_voxels": round(float(sizes.std()), 3),
        "variation": round(float(sizes.std()) / mean, 6) if mean > 0 else None,
        "sd_inside": round(sum(each.doubt[0] for each in found.values()) / inside, 6) if inside else None,
        "sd_most": round(found[worst].most, 6) if worst is not None else None,
        "slice": worst,
    }
