"""One scan under one promptable network: pictures, embeddings, decoding, and prompts followed from slice to slice.

What a scan needs encoded it asks for (`SliceRun.answers` is a generator), so that slices of several scans can share a
batch (`slice_batches`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.embeddings import EmbeddingCache, embedding_key
from medseg_cli.frame import Frame
from medseg_cli.intensity import Display
from medseg_cli.pipelines.slice_prompts import Plan, SlicePrompt
from medseg_cli.pipelines.slice_spread import Draws, SliceSpread, opinions
from medseg_cli.pipelines.slice_ultrasound import Insonated
from medseg_cli.propagation import Found, Front, Rules, describe, next_box, stop_reason
from medseg_cli.scan import Scan
from medseg_cli.slices import Plane
from medseg_cli.uncertainty import doubt


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network says about one object in one slice; no larger than the object, for there may be thousands.

    Args:
        shape: (H, W) of the picture.
        place: rows and columns that hold the object, both empty where nothing was found.
        certainty: probability in `place`, uint8, 255 = certain; `INSIDE` and above is the object.
        score: the network's own estimate of the mask's quality, or None.
        doubt: see `uncertainty.doubt`; None where nothing was found.
    """

    INSIDE: ClassVar[int] = 128

    shape: tuple[int, int]
    place: tuple[slice, slice]
    certainty: NDArray[np.uint8]
    score: float | None
    doubt: float | None = None

    @classmethod
    def of(cls, probability: NDArray[np.uint8], score: float | None, doubt: float | None = None) -> Answer:
        """The answer that a picture of probabilities (H, W) gives; a copy."""
        mask = probability >= cls.INSIDE
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        place = (slice(0, 0), slice(0, 0))
        if len(rows):
            place = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        high, wide = probability.shape
        return cls((high, wide), place, probability[place].copy(), score, doubt)

    @property
    def probability(self) -> NDArray[np.uint8]:
        """(H, W), 0 beyond the object's box."""
        whole = np.zeros(self.shape, np.uint8)
        whole[self.place] = self.certainty
        return whole

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool."""
        inside: NDArray[np.bool_] = self.probability >= self.INSIDE
        return inside

    @property
    def empty(self) -> bool:
        """Whether nothing was found."""
        return not self.certainty.size


@dataclass(frozen=True)
class Network:
    """A network and how its input is made; `model` is a `by_slice.SliceNetwork`.

    Args:
        sha256: of its weights, or the seed of random ones, and its configuration: what embeddings are told apart by.
        frame: keyword arguments of `Frame` besides the picture's size.
        dense: whether it takes coarse masks as dense prompts.
        precision: name of the chosen one.
        autocast: a function that returns its context.
        level: logit above which a pixel is the object.
        draws: answers that are compared; None compares none.
    """

    model: Any
    device: torch.device
    sha256: str
    frame: dict[str, Any]
    dense: bool
    precision: str
    autocast: Any
    level: float = 0.0
    draws: Draws | None = None


Embeddings = dict[int, dict[str, Tensor]]
"""Slice index → its embedding on the device."""
Ways = list[list[dict[str, Any]]]
"""Per object, one record per prompted slice and direction: {"from", "to", "because"}, with patience "skipped" too."""


@dataclass(eq=False)
class SliceRun:
    """The slices of one scan as the network sees them, and what was found in them.

    Args:
        network: what looks.
        scan, plane, display: what is looked at.
        cache: embeddings of this and earlier runs.
        batch: slices encoded at a time.
        tissue: what of the pictures is tissue, where they are ultrasound and the preset asks for it.
        found: per object: slice index → answer.
        encoded, reused: slices encoded, and taken from the cache.
        asked: (object, slice) that the network was asked about.
        notes: embeddings that were found but could not be used.
        spread: how far the answers lie apart; None where none are compared.
    """

    network: Network
    scan: Scan
    plane: Plane
    display: Display
    cache: EmbeddingCache
    batch: int
    tissue: Insonated | None = None
    found: list[dict[int, Answer]] = field(default_factory=list)
    encoded: int = 0
    reused: int = 0
    asked: set[tuple[int, int]] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    spread: SliceSpread | None = None

    def answers(self, plans: list[Plan], rules: Rules | None) -> Generator[list[int], Embeddings, Ways]:
        """Answer all prompts of the user, and follow objects to other slices by `rules`; without rules, do not.

        Yields:
            At most `batch` slices, whose embeddings are to be sent.
        """
        self.found = [{} for _ in plans]
        if self.network.draws is not None:
            self.spread = SliceSpread.of(self.plane, len(plans), self.network.level)
        wanted = [(target, index, p) for target, plan in enumerate(plans) for index, p in plan.slices.items()]
        for target, index, answer in (yield from self._look(wanted)):
            self.found[target][index] = answer
        return [[] for _ in plans] if rules is None else (yield from self._propagate(plans, rules))

    def _propagate(self, plans: list[Plan], rules: Rules) -> Generator[list[int], Embeddings, Ways]:
        """Follow every object from the slices whose prompts are not bounded, in both directions at once."""
        fronts = [
            Front(target, index, index, step, index, seed, seed)
            for target, plan in enumerate(plans)
            for index in plan.slices
            if index not in plan.bounded
            if (seed := self._describe(target, index)).mask.any()
            for step in (-1, 1)
        ]
        going = fronts
        while going:
            wanted: dict[tuple[int, int], Front] = {}
            for front in going:
                front.because = self._end(front, rules)
                # Where two fronts of one object meet, the second waits: it tries the slice if the first turns it down.
                if not front.because:
                    wanted.setdefault((front.target, front.at + front.step), front)
            asked = [
                (target, index, self._next(front, plans[target], rules)) for (target, index), front in wanted.items()
            ]
            for target, index, answer in (yield from self._look(asked)):
                front = wanted[target, index]
                found = describe(answer.mask, self._picture(index), self._pixel_mm2, answer.score)
                reason = stop_reason(found, front.before, front.start, rules)
                if reason is None:
                    self.found[target][index] = answer
                    front.took(found)
                else:
                    front.turned_down(reason, rules.patience)
            going = [front for front in going if not front.because]
        return [[f.way(rules) for f in fronts if f.target == target] for target in range(len(plans))]

    def _end(self, front: Front, rules: Rules) -> str:
        index = front.at + front.step
        if not 0 <= index < self.plane.count:
            return "the scan ends"
        if index in self.found[front.target]:
            return f"slice {index} has this object already"
        if rules.max_slices is not None and abs(index - front.seed) > rules.max_slices:
            return f"{rules.max_slices} slices were allowed"
        return ""

    def _next(self, front: Front, plan: Plan, rules: Rules) -> SlicePrompt:
        # What was out of sight for some slices may have gone farther meanwhile.
        box = next_box(front.before.mask, rules.margin * (1 + len(front.missed)))
        minus = plan.outside.get(front.at + front.step, np.zeros((0, 2)))
        return SlicePrompt(boxes=box[None], outside=minus, text=plan.text)

    def _describe(self, target: int, index: int) -> Found:
        answer = self.found[target][index]
        return describe(answer.mask, self._picture(index), self._pixel_mm2, answer.score)

    @property
    def _pixel_mm2(self) -> float:
        high, wide = self.plane.pixel_mm
        return high * wide

    def _picture(self, index: int) -> NDArray[np.uint8]:
        def shown() -> NDArray[np.uint8]:
            return self.display.picture(self.plane.take(self.scan.voxels, index))

        return shown() if self.tissue is None else self.tissue.picture(index, shown)

    @property
    def _frame(self) -> Frame:
        return Frame(
            self.plane.height, self.plane.width, self.network.model.size, self.plane.pixel_mm, **self.network.frame
        )

    def _look(
        self, wanted: list[tuple[int, int, SlicePrompt]]
    ) -> Generator[list[int], Embeddings, list[tuple[int, int, Answer]]]:
        """Answers to prompts (object, slice, prompt); every slice is encoded once for all objects in it."""
        frame = self._frame
        indices = sorted({index for _, index, _ in wanted})
        self.asked.update((target, index) for target, index, _ in wanted)
        answers = []
        for first in range(0, len(indices), self.batch):
            embeddings = yield indices[first : first + self.batch]
            for target, index, prompt in wanted:
                if index in embeddings:
                    answer = self._decode(embeddings[index], prompt, frame)
                    answers.append((target, index, answer))
                    if self.spread is not None:
                        compared = self._answers(embeddings[index], prompt, frame)
                        self.spread.keep(target, index, compared, answer.mask)
        return answers

    def image(self, index: int) -> Tensor:
        """A slice as the network takes it, (3, S, S)."""
        return self._frame.image(self._picture(index))

    def stored(self, indices: list[int]) -> tuple[Embeddings, dict[int, str]]:
        """The embeddings of those of these slices that the cache knows, and the cache's keys of the others."""
        known: Embeddings = {}
        missing: dict[int, str] = {}
        facts = {
            **self.network.frame,
            "size": self._frame.size,
            "pixel_mm": self.plane.pixel_mm,
            "precision": self.network.precision,
        }
        noted = len(self.cache.notes)
        for index in indices:
            drawn = self.network.draws.facts(self.network.model, index) if self.network.draws else {}
            key = embedding_key(self.scan.provenance.sha256, self.network.sha256, facts | drawn, self._picture(index))
            found = self.cache.get(key)
            if found is None:
                missing[index] = key
            else:
                known[index] = {name: value.to(self.network.device) for name, value in found.items()}
        self.notes += self.cache.notes[noted:]
        self.reused += len(known)
        self.encoded += len(missing)
        return known, missing

    def _joined(
        self, model: Any, embedding: dict[str, Tensor], prompt: SlicePrompt, frame: Frame
    ) -> tuple[Tensor, float | None]:
        """Logits (H, W) and score; several boxes of one object are answered one by one and joined."""
        joined, scores = None, []
        for part in _parts(prompt):
            with torch.inference_mode(), self.network.autocast():
                low, score = model.decode(embedding, **self._tensors(part, frame))
            logits = frame.restore(low.float())[0]
            # One by one: the logits of a picture of 8000 pixels take a quarter of a gigabyte.
            joined = logits if joined is None else torch.maximum(joined, logits)
            if score is not None:
                scores.append(float(score[0]))
        assert joined is not None
        return joined, min(scores) if scores else None

    def _answers(self, embedding: dict[str, Tensor], prompt: SlicePrompt, frame: Frame) -> Iterator[Tensor]:
        """Logits (H, W) of all that is compared, one after the other, cut as the mask is."""
        for model, own in opinions(self.network.model, embedding):
            if self.tissue is None:
                yield self._joined(model, own, prompt, frame)[0]
            else:
                yield self.tissue.within(self._joined(model, own, prompt, frame)[0], None)

    def _decode(self, embedding: dict[str, Tensor], prompt: SlicePrompt, frame: Frame) -> Answer:
        joined, score = self._joined(self.network.model, embedding, prompt, frame)
        if self.tissue is not None:
            joined = self.tissue.within(joined, self.network.level)
        inside, exact = joined > self.network.level, joined.sigmoid()
        probability = (exact * 255).round().clamp(0, 255)
        # The threshold is a logit exactly; rounding must not move it.
        probability = torch.where(
            inside, probability.clamp(min=Answer.INSIDE), probability.clamp(max=Answer.INSIDE - 1)
        )
        return Answer.of(probability.to(torch.uint8).cpu().numpy(), score, doubt(exact, inside))

    def _tensors(self, prompt: SlicePrompt, frame: Frame) -> dict[str, Tensor | None]:
        """Keyword arguments of `decode` for one prompt with at most one box."""
        device = self.network.device
        points = np.concatenate([prompt.inside, prompt.outside])
        signs = torch.tensor([1] * len(prompt.inside) + [0] * len(prompt.outside), dtype=torch.int64)
        boxes, masks = prompt.boxes, None
        if prompt.region is not None:
            if not len(boxes) and not (len(prompt.inside) and self.network.dense):
                boxes = next_box(prompt.region, 0.0)[None]
            if self.network.dense:
                masks = frame.region(prompt.region, self.network.model.mask_size)[None].to(device)
        # Networks without ears have no such argument.
        heard = {} if prompt.text is None else {"text": torch.from_numpy(prompt.text)[None].to(device)}
        return heard | {
            "boxes": frame.boxes(boxes).to(device) if len(boxes) else None,
            "points": frame.points(points)[None].to(device) if len(points) else None,
            "labels": signs[None].to(device) if len(points) else None,
            "masks": masks,
        }


def own_scores(found: dict[int, Answer]) -> dict[str, Any] | None:
    """What the network thinks of its masks of one object: mean and least score, and the slice of that; None without."""
    scores = {index: each.score for index, each in found.items() if each.score is not None and not each.empty}
    return _summary(scores, "least") if scores else None


def doubts(found: dict[int, Answer]) -> dict[str, Any] | None:
    """How unsure the masks of one object are: mean and most, and the slice of that; None without a mask."""
    scores = {index: each.doubt for index, each in found.items() if each.doubt is not None}
    return _summary(scores, "most") if scores else None


def _summary(scores: dict[int, float], extreme: Literal["least", "most"]) -> dict[str, Any]:
    chosen = (min if extreme == "least" else max)(scores, key=lambda index: scores[index])
    mean = sum(scores.values()) / len(scores)
    return {"mean": round(mean, 4), extreme: round(scores[chosen], 4), "slice": chosen}


def _parts(prompt: SlicePrompt) -> list[SlicePrompt]:
    """Prompts with at most one box each: a box takes the clicks inside it, clicks in no box stand for themselves."""
    if len(prompt.boxes) < 2:
        return [prompt]
    low, high = prompt.boxes[:, None, :2], prompt.boxes[:, None, 2:]
    member = np.all((prompt.inside >= low - 0.5) & (prompt.inside <= high + 0.5), axis=2)
    parts = [
        SlicePrompt(box[None], prompt.inside[own], prompt.outside, prompt.region, prompt.text)
        for box, own in zip(prompt.boxes, member, strict=True)
    ]
    alone = prompt.inside[~member.any(axis=0)]
    return [*parts, SlicePrompt(inside=alone, outside=prompt.outside, text=prompt.text)] if len(alone) else parts
