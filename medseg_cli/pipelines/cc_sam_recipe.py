"""How CC-SAM learns: clicks, boxes, coarse masks, texts and nothing at all, on one network (our reconstruction)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medseg_cli.datasets import Case
from medseg_cli.datasets.boxes import cached_boxes
from medseg_cli.errors import UsageError
from medseg_cli.models.cc_sam.bank import known_texts
from medseg_cli.models.cc_sam.config import config_of
from medseg_cli.models.cc_sam.losses import loss
from medseg_cli.models.cc_sam.network import CcSam
from medseg_cli.models.cc_sam.start import begin, is_cc_sam
from medseg_cli.models.cc_sam.table import Table, read_table
from medseg_cli.models.samus.config import SIZE
from medseg_cli.models.tuning import decide, rest, tune
from medseg_cli.pipelines.cc_sam import Options
from medseg_cli.pipelines.cc_sam_prompts import TOLD, Place, Told, drawn_place, tell
from medseg_cli.pipelines.choices import Choices
from medseg_cli.pipelines.defaults import Defaults
from medseg_cli.pipelines.features import without_kept
from medseg_cli.pipelines.loading import options_of
from medseg_cli.pipelines.samus_recipe import official_defaults
from medseg_cli.pipelines.slice_held import Held
from medseg_cli.pipelines.slice_samples import Sample, SliceSamples
from medseg_cli.pipelines.slice_study import Study
from medseg_cli.preset import Preset
from medseg_cli.weights.store import locate

QUALITY = 0.1
"""Weight of the error of the predicted IoU, where that head is trained; SAMUS has it frozen, as SAM left it."""
SEEN = 384
"""Longer side of a view in pixels, so that a picture of 3 to 2 has 256 on the other."""
RANDOM = "random"
"""What stands for a frozen CNN with random weights."""


@dataclass(frozen=True, eq=False)
class Prompted:
    """A picture (3, 256, 256) as the network takes it, and its prompts."""

    image: Tensor
    told: tuple[Told, ...]


@dataclass(frozen=True, eq=False)
class Asked:
    """A validation picture with the prompts that it is scored with, in the order of `defaults.also`."""

    held: Held
    told: tuple[Told, ...]


@dataclass(frozen=True)
class CcSamRecipe:
    """Samples and loss for one preset of pipeline cc-sam.

    Args:
        preset: which prompts it takes, its texts, intensities, and how pictures lie in the frame.
        start: weights to begin with: a CC-SAM, a SAMUS or a SAM; None = seeded random weights.
        choices: what is trained, what an object is, and the frozen CNN.
    """

    preset: Preset
    start: Path | None
    choices: Choices = field(default_factory=Choices)

    @property
    def defaults(self) -> Defaults:
        """SAMUS's rate for weights that were trained; a random network learns faster."""
        also = tuple(f"Dice {_said(*each)}" for each in self._scored)
        return replace(official_defaults(scratch=self.start is None), also=also)

    def model(self, seed: int) -> CcSam:
        """The network with its initial weights, tuned as chosen; the CNN never learns.

        Raises:
            ModelError: missing or misfitting weights.
            UsageError: no weights for the frozen CNN, or random weights were to be frozen.
        """
        network, fresh = begin(self.preset.model, seed, self._files())
        table = read_table(self.preset)
        if table is not None and network.text_rows is not None:
            network.text_rows.fill(table)
        kind = decide(self.choices.peft, network.config.samus.embed_dim, self.start is None)
        tune(network, kind, self.choices.rank, seed, fresh, self.start)
        return network

    def load(self, case: Case) -> Study:
        """A case in memory; errors as of `SliceSamples.load`."""
        return self._samples.load(case)

    def sample(self, study: Study, rng: Generator) -> Prompted:
        """A random view of a random slice with prompts; errors as of `SliceSamples.look`."""
        found = self._detected(study)
        look = self._samples.look(study, rng, np.stack(list(found.values())) if found else None)
        regions = torch.from_numpy(np.concatenate([look.masks, look.beside])).float()
        framed = self._samples.framed(Sample(look.image, torch.zeros(len(regions), 4), regions))
        high, wide = framed.masks.shape[1:]
        seen = F.pad(framed.masks, (0, SIZE - wide, 0, SIZE - high)).numpy() > 0.5
        detected = dict(zip(found, seen[len(look.masks) :], strict=True))
        kinds, told = self.preset.prompts, []
        for turn, (mask, value) in enumerate(zip(seen, look.values, strict=False)):
            if not mask.any():
                continue
            texts = self._has_text(value)
            unplaced = turn == 0 and (texts or value == 0)
            place: Place = "none" if unplaced else drawn_place(kinds.kinds, rng)
            # Which of several objects is meant has to be said somehow.
            text = texts and (rng.random() < TOLD or (place == "none" and value != 0))
            told.append(tell(mask, value, place, text, kinds.minus, rng, detected=detected.get(value)))
        return Prompted(framed.image, tuple(told))

    def fixed_sample(self, study: Study, rng: Generator) -> tuple[Asked, ...]:
        """Some slices as they are: what validation sees."""
        found = []
        for held in self._samples.fixed(study, rng):
            mask = held.frame.region(held.mask[0].numpy(), SIZE)[0].numpy() > 0
            told = (tell(mask, 0, place, text, False, rng, middle=True) for place, text in self._scored)
            found.append(Asked(held, tuple(told)))
        return tuple(found)

    def loss(self, model: CcSam, samples: list[Prompted]) -> Tensor:
        """`paced_loss` at the end of a training."""
        return self.paced_loss(model, samples, 1.0)

    def paced_loss(self, model: CcSam, samples: list[Prompted], done: float) -> Tensor:
        """Loss over all prompts of a batch of pictures; `done` is the share of the training that is behind."""
        rest(model)
        device = next(model.parameters()).device
        encoded = model.image_encoder(torch.stack([each.image for each in samples]).to(device), sampled=model.training)
        every = [(row, told) for row, each in enumerate(samples) for told in each.told]
        logits, quality, targets = [], [], []
        for alike in _alike(every):
            image = encoded.image[[row for row, _ in alike]]
            prompts = self._prompts(model, [told for _, told in alike])
            low, scores = model.decode({"image": image}, **prompts)
            logits.append(low.float())
            quality.append(scores.float())
            targets.append(torch.stack([told.mask for _, told in alike]).to(device))
        low, wanted = torch.cat(logits), torch.cat(targets)
        total = loss(low[:, None], wanted[:, None], encoded.divergence, done, self._beta)
        if next(model.mask_decoder.iou_prediction_head.parameters()).requires_grad:
            total = total + QUALITY * (torch.cat(quality) - _iou(low.detach() > 0, wanted > 0.5)).square().mean()
        return total

    def score(self, model: CcSam, samples: list[tuple[Asked, ...]]) -> list[tuple[float, ...]]:
        """Dice of each picture's masks on its own pixels: the mean over the ways of asking, then each of them."""
        device = next(model.parameters()).device
        found = []
        for asked in (each for study in samples for each in study):
            embedding = model.encode(asked.held.image[None].to(device))
            each = []
            for told in asked.told:
                logits, _ = model.decode(embedding, **self._prompts(model, [told]))
                each.append(asked.held.dice(logits))
            found.append((sum(each) / len(each), *each))
        return found

    def _prompts(self, model: CcSam, told: Sequence[Told]) -> dict[str, Tensor | None]:
        """Keyword arguments of `decode` for prompts that are told alike."""
        device, first = next(model.parameters()).device, told[0]
        placed = {
            "points": torch.stack([each.points for each in told]) if first.place == "point" else None,
            "labels": torch.stack([each.labels for each in told]) if first.place == "point" else None,
            "boxes": torch.stack([each.box for each in told]) if first.place in ("box", "mask") else None,
            "masks": torch.stack([each.coarse for each in told]) if first.place == "mask" else None,
            "text": None if first.text is None else torch.stack([self._vector(model, each) for each in told]),
        }
        if all(value is None for value in placed.values()) and len(told) > 1:
            # Without any prompt `decode` would answer once.
            placed |= {"points": torch.zeros(len(told), 0, 2), "labels": torch.zeros(len(told), 0)}
        return {name: None if value is None else value.to(device) for name, value in placed.items()}

    def _detected(self, study: Study) -> dict[int, NDArray[np.bool_]]:
        """What a detector's boxes cover of a picture (H, W), by label value; nothing without a file of boxes."""
        plane, found = study.planes[0], {}
        if not self._boxes or plane.count > 1:
            return {}
        values = [0] if self.preset.prompts.whole_image else [label.value for label in self.preset.labels]
        for value in values:
            key = self._key(value)
            box = self._boxes.get((Path(study.name).name, key)) if key else None
            if box is not None:
                x0, y0, x1, y1 = np.rint(np.array(box) * ([plane.width, plane.height] * 2)).astype(int)
                found[value] = np.zeros((plane.height, plane.width), dtype=bool)
                found[value][y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
        return found

    def _vector(self, model: CcSam, told: Told) -> Tensor:
        """(E,) of the text that a prompt's draw chooses: 0 is the first description."""
        assert told.text is not None
        value, draw = told.text
        assert self._texts is not None
        key = self._key(value)
        own = model.text_rows
        rows = self._texts.vectors[key] if own is None else own.get_buffer(key)
        return rows[min(int(draw * len(rows)), len(rows) - 1)]

    def _has_text(self, value: int) -> bool:
        return bool(self._key(value)) and config_of(self.preset.model).text

    def _key(self, value: int) -> str:
        """The class whose texts mean a label value; "" where there is none."""
        found = None if self._texts is None else self._texts.find(self._name(value))
        return found[0] if found else ""

    def _name(self, value: int) -> str:
        """What the preset calls a label value; all together have a name where there is only one."""
        names = {label.value: label.name for label in self.preset.labels}
        if value == 0 and len(names) == 1:
            return next(iter(names.values()))
        return names.get(value, "")

    def _files(self) -> list[Path]:
        """The files that a training begins with.

        Raises:
            UsageError: the frozen CNN has no weights and nobody said that it may do without.
        """
        files = [] if self.start is None else [self.start]
        chosen = self.choices.cnn
        if config_of(self.preset.model).cnn != "frozen":
            if chosen:
                raise UsageError(f"--cnn-weights {chosen}: preset {self.preset.name} has no frozen CNN", "leave it out")
            return files
        if self.start is not None and is_cc_sam(self.start, self.preset.model):
            return files
        if not chosen:
            raise UsageError(
                f"preset {self.preset.name} has a frozen CNN, and nothing says what it knows",
                "--cnn-weights FILE: torchvision's or RadImageNet's ResNet-50, or a SAM-UNet's weights; or "
                f"--cnn-weights {RANDOM}",
            )
        if chosen == RANDOM:
            return files
        return [*files, Path(chosen) if Path(chosen).is_file() else locate(chosen).path]

    @property
    def _scored(self) -> tuple[tuple[Place, bool], ...]:
        """What a validation asks with: (place, with a text)."""
        kinds = self.preset.prompts.kinds
        known: list[tuple[Place, bool]] = [(each, False) for each in ("point", "box") if each in kinds]  # type: ignore[misc]
        known += [("none", True)] if self._has_text(0) else []
        return (*known, ("none", False)) if self.preset.prompts.whole_image else tuple(known)

    @cached_property
    def _texts(self) -> Table | None:
        """The preset's texts, without embeddings where these lie in the weights; None without."""
        table, bank = read_table(self.preset), known_texts(self.preset)
        return table if table is not None or bank is None else Table(bank, {})

    @cached_property
    def _boxes(self) -> Mapping[tuple[str, str], tuple[float, float, float, float] | None]:
        """A detector's boxes; none without a file of them.

        Raises:
            UsageError: they are named by classes, and the preset has none.
        """
        if not self.choices.boxes:
            return {}
        if self._texts is None:
            raise UsageError(
                f"--boxes {self.choices.boxes}: preset {self.preset.name} has no texts, whose classes name the boxes",
                "give --text-table, or leave it out",
            )
        return cached_boxes(Path(self.choices.boxes))

    @cached_property
    def _beta(self) -> float:
        return options_of(self.preset, Options).beta

    @cached_property
    def _samples(self) -> SliceSamples:
        return SliceSamples(self.preset, SIZE, longest=SEEN, kind=Options)

    __getstate__ = without_kept


def _alike(prompts: Sequence[tuple[int, Told]]) -> list[list[tuple[int, Told]]]:
    """Prompts that can be decoded together: told in the same way, with as many clicks, with or without text."""
    groups: dict[tuple[str, int, bool], list[tuple[int, Told]]] = {}
    for row, told in prompts:
        groups.setdefault((told.place, len(told.points), told.text is None), []).append((row, told))
    return list(groups.values())


def _said(place: Place, text: bool) -> str:
    """How a validation asks, for people."""
    return {"point": "click", "none": "text alone" if text else "no prompt"}.get(place, place)


def _iou(found: Tensor, wanted: Tensor) -> Tensor:
    """(N,) of masks (N, h, w) bool; 1 where both are empty."""
    both, either = (found & wanted).sum((1, 2)), (found | wanted).sum((1, 2))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)
