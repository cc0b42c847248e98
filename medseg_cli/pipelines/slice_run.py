"""One scan under one promptable network: pictures, embeddings, answers, and prompts followed from slice to slice.

What a scan needs encoded it asks for (`SliceRun.answers` is a generator), so that slices of several scans can share a
batch (`slice_batches`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.embeddings import EmbeddingCache, embedding_key
from medseg_cli.frame import Frame
from medseg_cli.intensity import Display
from medseg_cli.pipelines.slice_answer import Answer
from medseg_cli.pipelines.slice_network import Network
from medseg_cli.pipelines.slice_prompts import Plan, SlicePrompt
from medseg_cli.pipelines.slice_spread import SliceSpread, opinions
from medseg_cli.pipelines.slice_ultrasound import Insonated
from medseg_cli.propagation import Found, Front, Rules, describe, next_box, stop_reason
from medseg_cli.scan import Scan
from medseg_cli.slices import Plane
from medseg_cli.uncertainty import doubt

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

    def _answers(self, embedding: dict[str, Tensor], prompt: SlicePrompt, frame: Frame) -> Iterator[Tensor]:
        """Logits (H, W) of all that is compared, one after the other, cut as the mask is."""
        for model, own in opinions(self.network.model, embedding):
            logits, _ = self.network.logits(own, prompt, frame, model)
            yield logits if self.tissue is None else self.tissue.within(logits, None)

    def _decode(self, embedding: dict[str, Tensor], prompt: SlicePrompt, frame: Frame) -> Answer:
        joined, score = self.network.logits(embedding, prompt, frame)
        if self.tissue is not None:
            joined = self.tissue.within(joined, self.network.level)
        inside, exact = joined > self.network.level, joined.sigmoid()
        probability = (exact * 255).round().clamp(0, 255)
        # The threshold is a logit exactly; rounding must not move it.
        probability = torch.where(
            inside, probability.clamp(min=Answer.INSIDE), probability.clamp(max=Answer.INSIDE - 1)
        )
        return Answer.of(probability.to(torch.uint8).cpu().numpy(), score, doubt(exact, inside))
