"""Prompted 2-D networks on images, cines and, slice by slice, volumes: what their pipelines have in common.

A network offers `encode` and `decode` (see `SliceNetwork`); everything between a scan with prompts and a segmentation
on the scan's own grid happens here: plane, grey values, which slices are prompted, batches, propagation, cleaning.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from medseg_cli import redraw
from medseg_cli.device import Runtime
from medseg_cli.embeddings import EmbeddingCache
from medseg_cli.errors import InputError, MedsegError
from medseg_cli.intensity import display_of
from medseg_cli.over_time import Time
from medseg_cli.pipelines import slice_time
from medseg_cli.pipelines.loading import members_of, options_of, weights_of
from medseg_cli.pipelines.objects import empty_targets, labels_of
from medseg_cli.pipelines.precision import probe, settle
from medseg_cli.pipelines.slice_batches import answer_together
from medseg_cli.pipelines.slice_boxes import SliceBoxes
from medseg_cli.pipelines.slice_compose import compose
from medseg_cli.pipelines.slice_ensemble import SliceEnsemble
from medseg_cli.pipelines.slice_facts import modality_notes, object_facts, window_notes
from medseg_cli.pipelines.slice_mirror import SliceMirror
from medseg_cli.pipelines.slice_network import Network
from medseg_cli.pipelines.slice_prompts import Plan, every_slice, plan_slices, unused_minus, unused_regions, whole_image
from medseg_cli.pipelines.slice_run import SliceRun, Ways
from medseg_cli.pipelines.slice_spread import Draws, check_comparable, has_latents
from medseg_cli.pipelines.slice_texts import Heard, SliceTexts
from medseg_cli.pipelines.slice_ultrasound import Ultrasound, insonated
from medseg_cli.preset import Preset
from medseg_cli.prompt import Prompt, Target
from medseg_cli.propagation import Rules
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.slices import PlaneName, plane_of
from medseg_cli.stages import Stages


class SliceNetwork(Protocol):
    """A promptable 2-D network, an nn.Module.

    Attributes:
        size: edge S of its square input.
        mask_size: edge M of its dense mask prompt.
    """

    size: int
    mask_size: int

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, S, S), normalised and padded → tensors whose first dimension is B."""
        ...

    def decode(
        self,
        embedding: dict[str, Tensor],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """N prompts of one image: boxes (N, 4), points (N, P, 2), labels (N, P), masks (N, 1, M, M), in the frame.

        Returns:
            Logits (N, h, w) over the whole square, and the network's own scores (N,) or None.
        """
        ...


class Options(BaseModel):
    """Knobs of the slice pipelines in a preset's `options`.

    Attributes:
        slices: the plane in which a volume is sliced.
        propagate: follow prompts that lie in one slice through the neighbouring slices.
        propagation: when to stop.
        batch: slices encoded at a time.
        fit, scale, interpolation: see `frame.Frame`.
        threshold: probability above which a pixel is the object.
        dense: give coarse masks to the network as dense prompt too, not only as the box round them.
        embedding_cache: folder for embeddings on disk; None keeps them in memory only.
        memory_mb: embeddings kept in memory, MiB.
        uncertainty: compare several answers, and map how far they lie apart; the mask stays the same.
        samples: draws of the latents that are compared, where the network has any.
        time: how the frames of a cine go together.
        ultrasound: what is done about a sector's surround and burned-in marks; None takes pictures as they are.
        mirror: ask about each picture's mirror image too and take the mean; only with `fit: stretch`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slices: PlaneName = "finest"
    propagate: bool = True
    propagation: Rules = Rules()
    batch: int = Field(default=4, ge=1)
    fit: Literal["longest", "stretch"] = "longest"
    scale: Literal["imagenet", "unit", "byte"] = "imagenet"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    threshold: float = Field(default=0.5, gt=0, lt=1)
    dense: bool = True
    embedding_cache: str | None = None
    memory_mb: int = Field(default=512, ge=0)
    uncertainty: bool = False
    samples: int = Field(default=16, ge=2, le=1000)
    time: Time = Time()
    ultrasound: Ultrasound | None = None
    mirror: bool = False

    @model_validator(mode="after")
    def _check_mirror(self) -> Self:
        if self.mirror and self.fit != "stretch":
            raise ValueError("mirror: true needs fit: stretch, or the padding would change sides")
        return self


@dataclass(frozen=True, eq=False)
class _Begun:
    """A job before its slices are looked at: its prompt, whether that is the user's, and what the network hears."""

    prompt: Prompt
    prompted: bool
    plans: list[Plan]
    run: SliceRun
    heard: list[Heard]


@dataclass(frozen=True, eq=False)
class SlicePipeline:
    """A network on its device, with the preset that says how to feed it and the embeddings it has made.

    `texts` is what listens to words, where the network does, and `boxes` finds what they name; a `promptless` network
    answers without any prompt, in each slice, instead of to a box over a whole picture.
    """

    preset: Preset
    options: Options
    runtime: Runtime
    model: SliceNetwork
    weights: dict[str, Any]
    cache: EmbeddingCache
    texts: SliceTexts | None = None
    boxes: SliceBoxes | None = None
    promptless: bool = False

    @classmethod
    def from_preset(
        cls,
        preset: Preset,
        runtime: Runtime,
        random_weights: bool,
        build: Callable[[Path | None, Preset, int], Any],
        kind: type[Options] = Options,
    ) -> SlicePipeline:
        """Load the preset's weights.

        Args:
            preset: its `options` are `Options`.
            runtime: where to compute.
            random_weights: replace the weights by seeded random ones, and say so in every result.
            build: (weights file or None for random ones, preset, seed) → network on the CPU.
            kind: of the preset's options.

        Raises:
            ModelError: wrong options, missing or misfitting weights.
        """
        options = options_of(preset, kind)
        path, weights = weights_of(preset, random_weights)
        files = [path, *(() if random_weights else members_of(preset))]
        members = [build(each, preset, runtime.seed) for each in files]
        if options.mirror:
            members = [SliceMirror(each) for each in members]
        model: Any = members[0] if len(members) == 1 else SliceEnsemble(members)
        if options.uncertainty:
            check_comparable(model, preset.name)
        model = model.eval().requires_grad_(False).to(runtime.device)
        image = torch.randn(1, 3, model.size, model.size, generator=torch.Generator().manual_seed(0)).to(runtime.device)
        runtime = settle(runtime, preset, probe(model, lambda: model.encode(image), weights, preset))
        folder = Path(options.embedding_cache).expanduser() if options.embedding_cache else None
        return cls(preset, options, runtime, model, weights, EmbeddingCache(options.memory_mb * 2**20, folder))

    def segment(self, scan: Scan, prompt: Prompt, stages: Stages) -> Segmentation:
        """One mask value per target, in the order of the prompt; without one, the whole image if the preset says so.

        Raises:
            InputError: a prompt outside the scan, or a scan of other than 1 or 3 channels.
            UsageError: no prompt, or one that this preset does not take.
        """
        (result,) = self.segment_together([(scan, prompt)], stages)
        if isinstance(result, MedsegError):
            raise result
        return result

    def segment_together(self, jobs: Sequence[tuple[Scan, Prompt]], stages: Stages) -> list[Segmentation | MedsegError]:
        """What `segment` makes of each job, or the error it raises; slices of different scans share batches.

        A network's sums may round otherwise in another batch, so that masks agree to rounding.
        """
        begun = [self._begin(scan, prompt) for scan, prompt in jobs]
        good = [each for each in begun if isinstance(each, _Begun)]
        if not good:
            return [each for each in begun if isinstance(each, MedsegError)]
        with stages("infer"):
            rules = [self._rules(each.run) for each in good]
            looks = [(each.run, each.run.answers(each.plans, how)) for each, how in zip(good, rules, strict=True)]
            ways = iter(answer_together(looks))
        with stages("postprocess"):
            return [each if isinstance(each, MedsegError) else self._end(each, next(ways)) for each in begun]

    def _rules(self, run: SliceRun) -> Rules | None:
        """How prompts are followed through a scan; None where they are not."""
        options = self.options
        if not options.propagate or run.plane.count == 1:
            return None
        return slice_time.rules_of(options.time, options.propagation) if run.scan.cine else options.propagation

    def _begin(self, scan: Scan, prompt: Prompt) -> _Begun | MedsegError:
        """A job as its slices will be looked at, or why they cannot be."""
        try:
            if scan.voxels.shape[0] not in (1, 3):
                raise InputError(
                    f"{scan.provenance.path} has {scan.voxels.shape[0]} channels", "grey and RGB scans are understood"
                )
            slice_time.check_chosen(scan, self.preset)
            plane = plane_of(scan, self.options.slices)
            prompted = bool(prompt.targets)
            heard: list[Heard] = []
            prompts = self.preset.prompts
            if not prompted and (prompts.automatic or (prompts.whole_image and self.promptless)):
                prompt, plans = Prompt((Target("1", ""),)), [every_slice(plane)]
            else:
                if not prompted and prompts.whole_image and (plane.count == 1 or scan.cine):
                    prompt = whole_image(scan)
                if self.texts is not None:
                    prompt, heard = self.texts.heard(prompt)
                plans = plan_slices(prompt, scan, plane, self.preset, [each.vector for each in heard])
            shown = display_of(scan, self.preset)
            tissue = insonated(scan, plane, shown, self.options.ultrasound)
            run = SliceRun(self._network, scan, plane, shown, self.cache, self.options.batch, tissue)
            if self.boxes is not None and heard:
                plans, heard = self.boxes.added(plans, heard, prompt, run)
            elif self.boxes is not None:
                run.notes.append("the detector was not asked: nothing was said")
        except MedsegError as error:
            return error
        return _Begun(prompt, prompted, plans, run, heard)

    def _end(self, begun: _Begun, ways: Ways | MedsegError) -> Segmentation | MedsegError:
        """The label map of a job whose slices have been answered."""
        if isinstance(ways, MedsegError):
            return ways
        prompt, plans, run = begun.prompt, begun.plans, begun.run
        scan, plane, shown = run.scan, run.plane, run.display
        settled = slice_time.settle(run, self.options.time)
        mask, cleaning = compose(settled.found, plans, plane, self.preset.postprocessing, apart=scan.cine)
        labels, tissue = labels_of(prompt, self.preset), None if run.tissue is None else run.tissue.on(plane)
        redrawn = redraw.redraw(mask, labels, scan, tissue)
        objects = object_facts(prompt, plans, settled, ways, cleaning, begun.heard)
        for value, told in redrawn.items():
            objects[value - 1]["redrawn"] = told
        notes = [*run.notes, *(note for each in begun.heard for note in each.notes)]
        notes += redraw.notes(redrawn, labels)
        notes += empty_targets(set(np.unique(mask).tolist()), prompt)
        notes += unused_minus(plans, run.asked, prompt) + modality_notes(scan, self.preset) + window_notes(shown, scan)
        if self.options.propagation.max_slices is not None and not any(ways):
            notes.append("max_slices changed nothing: no prompt was followed to other slices")
        if "options.time" in self.preset.changes and not scan.cine:
            notes.append("smoothing over time changed nothing: the scan is no cine")
        if not self.options.dense:
            notes += unused_regions(plans, prompt)
        if run.tissue is not None:
            notes += run.tissue.notes(plans, prompt)
        provenance = {
            "pipeline": self.preset.pipeline,
            "preset": self.preset.name,
            "prompted": begun.prompted,
            "weights": self.weights,
            "slices": {
                "plane": plane.name,
                "axis": plane.axis,
                "count": plane.count,
                "prompted": len({index for _, index in run.asked}),
                "encoded": run.encoded,
                "from_cache": run.reused,
            },
            "display": asdict(shown),
            **({} if run.tissue is None else {"ultrasound": run.tissue.facts()}),
            "objects": objects,
            "kernels": self.runtime.kernels,
        }
        spread = None
        if run.spread is not None:
            of = "draws of the latents" if has_latents(self.model) else "checkpoints"
            spread = run.spread.result(run.found, of, lambda index: shown.picture(plane.take(scan.voxels, index)))
        return Segmentation(mask, labels, scan, provenance, tuple(notes), spread=spread, tissue=tissue)

    @property
    def _network(self) -> Network:
        options = self.options
        frame = {"fit": options.fit, "scale": options.scale, "interpolation": options.interpolation}
        name = self.weights["sha256"] or f"random weights of seed {self.runtime.seed}"
        name = " ".join([name, *self.weights.get("members", [])])
        # Not all of a configuration is in the weights, and nothing of it in random ones.
        name = f"{name} {json.dumps(self.preset.model, sort_keys=True)}"
        if options.mirror:
            name = f"{name} and mirrored"
        runtime = self.runtime
        if runtime.kernels == "reference":
            # Who looks for a kernel at fault must not be answered from what it left in the cache.
            name = f"{name} by the formulas"
        level = math.log(options.threshold / (1 - options.threshold))
        chosen, autocast = runtime.precision, runtime.autocast
        draws = Draws(options.samples, runtime.seed) if options.uncertainty else None
        return Network(self.model, runtime.device, name, frame, options.dense, chosen, autocast, level, draws)
