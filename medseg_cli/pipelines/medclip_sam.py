"""Pipeline medclip-sam: a text → a mask, zero-shot, on images and slices (arXiv 2403.20253, 2409.19483).

Text and picture are compared by an image-text network: is the thing there (`text_presence`), and where do picture and
text agree (`models.clip.maps`). Its map becomes a coarse mask, that becomes boxes or clicks (`text_regions`), and
another preset, the segmenter, draws the mask. The published chains never answer "not there": `presence: null`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg_cli.device import Runtime
from medseg_cli.errors import InputError, ModelError, UsageError
from medseg_cli.intensity import display_of
from medseg_cli.models.clip import maps
from medseg_cli.models.clip.checkpoint import build, random_network
from medseg_cli.models.clip.config import ClipConfig, config_of
from medseg_cli.models.clip.network import tower_of
from medseg_cli.models.clip.words import Words
from medseg_cli.pipelines.loading import options_of, weights_of
from medseg_cli.pipelines.maps import Maps
from medseg_cli.pipelines.objects import labels_of
from medseg_cli.pipelines.precision import settle
from medseg_cli.pipelines.slice_compose import clean_apart
from medseg_cli.pipelines.slice_time import check_chosen
from medseg_cli.pipelines.text_classes import TextClass, classes_of
from medseg_cli.pipelines.text_draw import Drawing, draw, segmenter_of
from medseg_cli.pipelines.text_explain import scores_of
from medseg_cli.pipelines.text_options import Options
from medseg_cli.pipelines.text_presence import margins, probabilities
from medseg_cli.pipelines.text_regions import Coarse, coarse_mask, consistent
from medseg_cli.pipelines.text_report import absent_notes, cut_notes, judged, lost_notes, presence_of
from medseg_cli.pipelines.text_words import words_beside
from medseg_cli.postprocess import clean
from medseg_cli.preset import Preset
from medseg_cli.preset_format import Postprocessing
from medseg_cli.prompt import Prompt, Target
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Explanation, Segmentation
from medseg_cli.slices import Plane, plane_of
from medseg_cli.stages import Stages


@dataclass(frozen=True, eq=False)
class MedclipSamPipeline:
    """The two networks on their device, with the preset that says how to use them."""

    preset: Preset
    options: Options
    runtime: Runtime
    model: nn.Module
    words: Words
    weights: dict[str, Any]
    segmenters: dict[str, Any]
    _features: dict[str, tuple[Tensor, int]] = field(default_factory=dict, repr=False)

    @classmethod
    def from_preset(cls, preset: Preset, runtime: Runtime, random_weights: bool) -> MedclipSamPipeline:
        """Load both networks.

        Raises:
            ModelError: wrong options, missing or misfitting weights or vocabulary, a layer that the network has not.
        """
        options = options_of(preset, Options)
        path, weights = weights_of(preset, random_weights)
        config = config_of(preset.model)
        model = random_network(config, runtime.seed) if path is None else build(path, preset.model)
        model = model.eval().requires_grad_(False).to(runtime.device)
        depth = len(tower_of(model).blocks)
        method = options.saliency.method
        if method != "windows" and options.saliency.layer >= depth - (method != "m2ib"):
            raise ModelError(
                f"preset {preset.name}: options.saliency.layer is {options.saliency.layer}, the image tower has blocks "
                f"0 to {depth - 1}, and behind the last one no patch has a gradient"
            )
        words = words_beside(preset, path)
        runtime = settle(runtime, preset, None)
        drawn_by = [each.segmenter for each in options.concepts] or [options.segmenter]
        segmenters = {name: segmenter_of(name, preset, options.prompts, runtime) for name in drawn_by if name}
        return cls(preset, options, runtime, model, words, weights, segmenters)

    def segment(self, scan: Scan, prompt: Prompt, stages: Stages) -> Segmentation:
        """One mask value per text, in the order of the prompt; an empty one where its thing is found not to be there.

        Raises:
            InputError: a scan of other than 1 or 3 channels.
            UsageError: no text, other prompts, or a text that a small model does not know.
        """
        _check(scan, prompt, self.preset)
        check_chosen(scan, self.preset)
        plane = plane_of(scan, self.options.slices)
        shown = display_of(scan, self.preset)

        def picture(index: int) -> NDArray[np.uint8]:
            return shown.picture(plane.take(scan.voxels, index))

        with stages("text"):
            classes = self._classes(prompt)
        with stages("presence"):
            margin, probability = self._presence(classes, plane, picture)
        with stages("saliency"):
            kept = Maps.of(plane, len(classes)) if self.options.explain else None
            masks = self._coarse(classes, probability, plane, picture, kept, apart=scan.cine)
        named = Prompt(tuple(Target(t.id, c.name) for t, c in zip(prompt.targets, classes, strict=True)))
        drawn = draw(self._drawing, scan, plane, masks, classes, stages)
        mask = drawn.mask
        with stages("postprocess"):
            cleaning = [self._clean(mask, value, scan) for value in range(1, len(classes) + 1)]
        threshold = self.options.presence.threshold if self.options.presence else None
        presence = [
            presence_of(number, each.name, probability[number], margin[number], threshold)
            for number, each in enumerate(classes)
        ]
        provenance = {
            "pipeline": self.preset.pipeline,
            "preset": self.preset.name,
            "prompted": True,
            "weights": self.weights,
            "segmenters": drawn.said,
            "saliency": self.options.saliency.model_dump(),
            "presence": presence if self.options.presence else None,
            "slices": {
                "plane": plane.name,
                "axis": plane.axis,
                "count": plane.count,
                "prompted": len({index for each in masks for index in each}),
                "encoded": plane.count,
                "from_cache": 0,
            },
            "display": asdict(shown),
            "objects": [
                {
                    "id": target.id,
                    "slices_prompted": sorted(each),
                    "slices_with_mask": int((mask == value).any(axis=_across(plane)).sum()),
                    **judged(drawn.said, target.label, mask == value if scan.cine else None),
                    "propagation": [],
                    "cleaning": steps,
                }
                for value, (target, each, steps) in enumerate(zip(named.targets, masks, cleaning, strict=True), start=1)
            ],
            "kernels": self.runtime.kernels,
        }
        notes = [*cut_notes(classes), *absent_notes(presence), *lost_notes(classes, drawn.lost), *drawn.notes]
        why = None if kept is None else self._explanation(kept, prompt, margin, probability, masks, picture)
        labels = labels_of(named, self.preset)
        return Segmentation(mask, labels, scan, provenance, tuple(notes), why, tissue=drawn.tissue)

    def _explanation(
        self,
        kept: Maps,
        prompt: Prompt,
        margin: NDArray[np.float64],
        probability: NDArray[np.float64],
        masks: Sequence[dict[int, NDArray[np.bool_]]],
        picture: Callable[[int], NDArray[np.uint8]],
    ) -> Explanation:
        """Maps, for each label a picture of its most probable slice with one, and all scores."""
        looked = [sorted(each) for each in kept.slices]
        pictures = {}
        for value, slices in enumerate(looked, start=1):
            if slices:
                best = max(slices, key=lambda index: (index in masks[value - 1], probability[value - 1, index]))
                pictures[value] = kept.over(value, best, picture(best))
        threshold = self.options.presence.threshold if self.options.presence else None
        facts = {
            "saliency": self.options.saliency.model_dump(),
            "plane": kept.plane.name,
            "axis": kept.plane.axis,
            "threshold": threshold,
        }
        texts = [target.text for target in prompt.targets if target.text is not None]
        return Explanation(kept.values, pictures, facts | {"labels": scores_of(texts, margin, probability, looked)})

    def presence(self, scan: Scan, prompt: Prompt) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Margins and probabilities (C, K) of the C texts of a prompt in the K slices of a scan; nothing is drawn.

        Raises:
            As `segment`.
        """
        _check(scan, prompt, self.preset)
        plane, shown = plane_of(scan, self.options.slices), display_of(scan, self.preset)
        return self._presence(self._classes(prompt), plane, lambda index: shown.picture(plane.take(scan.voxels, index)))

    def _classes(self, prompt: Prompt) -> tuple[TextClass, ...]:
        presence = self.options.presence
        negatives = presence.negatives if presence else ()
        classes = classes_of(
            prompt, self._encode, self.options.concepts, negatives, self.words.unknown, self.options.segmenter
        )
        names = [each.name for each in classes]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(
                f"two texts mean {twice}",
                f'several phrasings of one thing have one name: --text x="..." --text x="..." (here x: {twice})',
            )
        return classes

    def _encode(self, texts: Sequence[str]) -> tuple[Tensor, tuple[int, ...]]:
        """Features (T, E) of texts and what was cut off each; a text that was asked before is not encoded again."""
        new = [text for text in dict.fromkeys(texts) if text not in self._features]
        if new:
            tokens, cut = self.words(new)
            with torch.inference_mode():
                features = self.model.encode_text(tokens.to(self.runtime.device))  # type: ignore[operator]
            # Gradients of maps go through copies that inference mode has not marked.
            self._features.update(zip(new, zip(features.clone(), cut, strict=True), strict=True))
        found = [self._features[text] for text in texts]
        return torch.stack([feature.clone() for feature, _ in found]), tuple(cut for _, cut in found)

    def _presence(
        self, classes: Sequence[TextClass], plane: Plane, picture: Callable[[int], NDArray[np.uint8]]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Margins and probabilities (C, K)."""
        config, features = self._config, []
        geometry = self.options.saliency.geometry
        for first in range(0, plane.count, self.options.batch):
            indices = range(first, min(first + self.options.batch, plane.count))
            squares = torch.stack([maps.square(picture(index), self._size, geometry) for index in indices])
            with torch.inference_mode(), self.runtime.autocast():
                images = maps.normalised(squares.to(self.runtime.device), config.mean, config.std)
                features.append(self.model.encode_image(images).float())  # type: ignore[operator]
        margin = margins(torch.cat(features), classes, self._scale)
        if self.options.presence is None:
            return margin, np.ones_like(margin)
        return margin, probabilities(margin, self.options.presence, stack=plane.count > 1)

    def _coarse(
        self,
        classes: Sequence[TextClass],
        probability: NDArray[np.float64],
        plane: Plane,
        picture: Callable[[int], NDArray[np.uint8]],
        kept: Maps | None,
        *,
        apart: bool,
    ) -> tuple[dict[int, NDArray[np.bool_]], ...]:
        """Per class, slice → coarse mask, of the slices where it is present; frames of a cine stand `apart`."""
        threshold = self.options.presence.threshold if self.options.presence else 0.0
        there = probability >= threshold
        found: list[dict[int, NDArray[np.bool_]]] = [{} for _ in classes]
        for index in np.flatnonzero(there.any(axis=0)).tolist():
            seen = picture(index)
            wanted = np.flatnonzero(there[:, index]).tolist()
            for number, saliency in zip(wanted, self._maps(seen, [classes[n] for n in wanted]), strict=True):
                coarse = self._coarse_of(classes[number])
                shown = maps.unit(saliency).cpu().numpy()
                if kept is not None:
                    kept.keep(number + 1, index, shown)
                found[number][index] = coarse_mask(shown, seen, coarse)
        if apart:
            return tuple({index: mask for index, mask in each.items() if mask.any()} for each in found)
        if plane.count > 1:
            bodies = zip(found, (self._coarse_of(each).parts for each in classes), strict=True)
            found = [dict(consistent(masks, parts)) for masks, parts in bodies]
        return tuple(found)

    def _coarse_of(self, each: TextClass) -> Coarse:
        how = self.options.coarse
        return how if each.parts is None else how.model_copy(update={"parts": each.parts})

    def _maps(self, picture: NDArray[np.uint8], classes: Sequence[TextClass]) -> Tensor:
        """(C, H, W) maps, not normalised."""
        texts = torch.stack([each.positive for each in classes])
        others = [each.negative for each in classes]
        config, how = self._config, self.options.saliency.how
        tower, seed = tower_of(self.model), self.runtime.seed
        return maps.maps(tower, picture, texts, self._scale, how, config.mean, config.std, seed, others)

    def _clean(self, mask: NDArray[np.unsignedinteger[Any]], value: int, scan: Scan) -> list[dict[str, Any]]:
        """Clean one class in place as the preset says; what was done."""
        how = self.preset.postprocessing
        if how == Postprocessing():
            return []
        own = mask == value
        cleaned = (clean_apart if scan.cine else clean)(own, np.zeros((0, 3)), scan.spacing, how)
        mask[own & ~cleaned.mask] = 0
        mask[cleaned.mask & (mask == 0)] = value
        return cleaned.steps

    @property
    def _drawing(self) -> Drawing:
        return Drawing(self.segmenters, self.options.prompts, self.runtime.seed)

    @property
    def _config(self) -> ClipConfig:
        return config_of(self.preset.model)

    @property
    def _size(self) -> int:
        return maps.edge(tower_of(self.model))

    @property
    def _scale(self) -> float:
        return float(self.model.logit_scale.detach().exp())  # type: ignore[operator,union-attr]


def _check(scan: Scan, prompt: Prompt, preset: Preset) -> None:
    if scan.voxels.shape[0] not in (1, 3):
        raise InputError(
            f"{scan.provenance.path} has {scan.voxels.shape[0]} channels", "grey and RGB scans are understood"
        )
    if not prompt.targets or any(target.text is None for target in prompt.targets):
        raise UsageError(f"preset {preset.name} needs a text", 'add --text "the lungs"')
    if any(target.clicks or target.boxes or target.region for target in prompt.targets):
        raise UsageError(f"preset {preset.name} takes text alone", "leave clicks, boxes and masks out")


def _across(plane: Plane) -> tuple[int, int]:
    """The two voxel axes within a slice."""
    return (plane.rows, plane.columns)
