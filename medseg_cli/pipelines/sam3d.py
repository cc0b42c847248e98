"""Pipeline 3dsam-adapter: clicks in a volume → one mask per object, whatever the scan's size, orientation and spacing.

Default protocol "follow": crops on the scan's lattice at the preset's spacing follow the object. Protocol "official"
repeats the published test: one crop round the clicks on the resampled volume (see `sam3d_official`).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from medseg_cli.device import Runtime
from medseg_cli.errors import InputError, MedsegError, ModelError, UsageError
from medseg_cli.geometry import FULLY_IN_VIEW, Grid, overlap, resample, resample_in_slabs, scan_grid, working_grid
from medseg_cli.inference import EVERYWHERE, Coverage, follow
from medseg_cli.intensity import normalise
from medseg_cli.models.sam3d.checkpoint import random_network
from medseg_cli.models.sam3d.config import config_of
from medseg_cli.models.sam3d.network import Sam3d
from medseg_cli.models.sam3d.start import load
from medseg_cli.pipelines import sam3d_official
from medseg_cli.pipelines.loading import check_trained, options_of, weights_of
from medseg_cli.pipelines.objects import labels_of
from medseg_cli.pipelines.precision import probe, settle
from medseg_cli.pipelines.sam3d_crops import Batches, Crop, Look, answered
from medseg_cli.pipelines.sam3d_objects import Found, Objects
from medseg_cli.preset import Preset
from medseg_cli.prompt import Prompt, locate
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.stages import Stages

LAYOUT = "3dsam-adapter"
"""What `weights.layouts` calls checkpoints of this network."""
BATCH = 4
"""Crops that go through the network together on a GPU, if memory suffices."""


class Options(BaseModel):
    """Knobs of this pipeline in a preset's `options`.

    Attributes:
        protocol: "follow" (ours) or "official" (one crop, the published test).
        official_axes: order in which the official code takes the file's array axes as (D, H, W).
        max_crops: crops per object after which "follow" stops and says so.
        batch: crops of several objects, of one scan or of many, that go through the network together; absent: 4 on a
            GPU, on a CPU as many as there are scans. A GPU whose memory does not suffice takes half of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["follow", "official"] = "follow"
    official_axes: tuple[int, int, int] = (2, 1, 0)
    max_crops: int = Field(default=64, ge=1)
    batch: int | None = Field(default=None, ge=1)


@dataclass(frozen=True, eq=False)
class Sam3dPipeline:
    """The network on its device, with the preset that says how to feed it."""

    preset: Preset
    options: Options
    runtime: Runtime
    model: Sam3d
    weights: dict[str, Any]

    @classmethod
    def from_preset(cls, preset: Preset, runtime: Runtime, random_weights: bool) -> Sam3dPipeline:
        """Load the preset's weights; `random_weights` replaces them by seeded random ones and says so in every result.

        Raises:
            ModelError: wrong options, missing or misfitting weights.
        """
        options = options_of(preset, Options)
        if preset.prompts.minus:
            raise ModelError(
                f"preset {preset.name} says prompts.minus: true, but pipeline {preset.pipeline} has no sign for clicks",
                "set prompts: {minus: false}",
            )
        check_trained(preset, LAYOUT, random_weights)
        path, weights = weights_of(preset, random_weights)
        model = (
            random_network(config_of(preset.model), runtime.seed).eval() if path is None else load(path, preset.model)
        )
        model = model.to(runtime.device).requires_grad_(False)
        size = (1, 1, *[model.config.crop_size] * 3)
        crop = torch.randn(size, generator=torch.Generator().manual_seed(0)).to(runtime.device)
        runtime = settle(runtime, preset, probe(model, lambda: model.encoder(crop), weights, preset))
        return cls(preset, options, runtime, model, weights)

    def segment(self, scan: Scan, prompt: Prompt, stages: Stages) -> Segmentation:
        """One mask value per target, in the order of the prompt.

        Raises:
            InputError: no target, a click outside the scan, a target without clicks, or a colour scan.
            UsageError: a minus click, which this network would ignore.
        """
        (result,) = self.segment_together([(scan, prompt)], stages)
        if isinstance(result, MedsegError):
            raise result
        return result

    def segment_together(self, jobs: Sequence[tuple[Scan, Prompt]], stages: Stages) -> list[Segmentation | MedsegError]:
        """What `segment` makes of each job, or the error it raises; crops of all objects of all scans share batches.

        A network's sums may round otherwise in another batch, so that masks agree to rounding.
        """
        begun = [self._begin(scan, prompt) for scan, prompt in jobs]
        places = [
            (case, value) for case in begun if isinstance(case, Objects) for value in range(1, len(case.clicks) + 1)
        ]
        looks = (self._look(case.scan, case.clicks[value - 1]) for case, value in places)
        ended = answered(looks, Batches(self.model, self.runtime, self._batch(len(jobs))))
        for _ in places:
            with stages("infer"):
                number, found = next(ended)
            case, value = places[number]
            if isinstance(found, MedsegError):
                case.error = case.error or found
                continue
            with stages("postprocess"):
                case.add(value, found)
            del found
        return [each if isinstance(each, MedsegError) else each.error or self._result(each) for each in begun]

    def _batch(self, jobs: int) -> int:
        """Crops at a time. On a CPU larger batches are no faster; several scans are given where the user says so."""
        return self.options.batch or (jobs if self.runtime.device.type == "cpu" else BATCH)

    def _begin(self, scan: Scan, prompt: Prompt) -> Objects | MedsegError:
        """A job as it will be looked at, or why it cannot be."""
        try:
            return Objects(scan, prompt, self._clicks(scan, prompt), self.preset.postprocessing)
        except MedsegError as error:
            return error

    def _result(self, case: Objects) -> Segmentation:
        """The label map of a scan whose objects have all been found."""
        scan, notes = case.scan, case.notes
        if scan.modality and not {scan.modality, "any"} & set(self.preset.modality):
            notes.append(f"the scan is {scan.modality}, the preset is made for {', '.join(self.preset.modality)}")
        provenance = {
            "pipeline": self.preset.pipeline,
            "preset": self.preset.name,
            "prompted": True,
            "weights": self.weights,
            "protocol": self.options.protocol,
            "crops": case.crops,
            "cleaning": case.cleaning,
            "kernels": self.runtime.kernels,
        }
        return Segmentation(case.mask, labels_of(case.prompt, self.preset), scan, provenance, tuple(notes))

    def _clicks(self, scan: Scan, prompt: Prompt) -> list[NDArray[np.float64]]:
        """(N, 3) continuous voxel index ijk per target."""
        if scan.provenance.format == "image":
            raise InputError(
                f"{scan.provenance.path} is a 2-D image, {self.preset.name} segments volumes",
                "give a NIfTI, NRRD, MetaImage, MGH or DICOM scan",
            )
        if scan.voxels.shape[0] != 1:
            raise InputError(
                f"{scan.provenance.path} has {scan.voxels.shape[0]} colour channels",
                f"preset {self.preset.name} takes grey scans",
            )
        if not prompt.targets or not all(target.clicks for target in prompt.targets):
            raise UsageError(f"{self.preset.name} needs at least one click per object", "give --point or --prompts")
        if any(target.boxes or target.region is not None for target in prompt.targets):
            raise UsageError(f"{self.preset.name} takes clicks only, no boxes and no masks", "give clicks instead")
        minus = [click for target in prompt.targets for click in target.clicks if not click.positive]
        if minus:
            raise UsageError(
                f"{self.preset.name} cannot use {len(minus)} minus click(s): its network has no sign for clicks",
                "remove them; 3DSAM-adapter would silently treat them as part of the object",
            )
        return [np.array([locate(click, scan) for click in target.clicks]) for target in prompt.targets]

    def _look(self, scan: Scan, clicks: NDArray[np.float64]) -> Look:
        """Look at one object of a scan from its clicks (N, 3), voxel index ijk, by the preset's protocol."""
        if self.options.protocol == "official":
            return sam3d_official.look(scan, clicks, self.options.official_axes, self.preset)
        return self._follow(scan, clicks)

    def _follow(self, scan: Scan, clicks: NDArray[np.float64]) -> Look:
        """Object probability on the part of the scan's grid that its crops cover."""
        grid, lattice = scan_grid(scan), self._lattice(scan)
        coverage = yield from self._cover(scan, grid, lattice, lattice.index_of(clicks, grid))
        canvas = coverage.canvas
        shape = canvas.total.shape
        source = lattice.window(canvas.start, (shape[0], shape[1], shape[2]))
        place = overlap(grid, source)
        target = grid.window(
            np.array([part.start for part in place]),
            (place[0].stop - place[0].start, place[1].stop - place[1].start, place[2].stop - place[2].start),
        )
        # One voxel of margin keeps the interpolated surface; other parts than the clicked ones are not the object.
        near = ndimage.binary_dilation(coverage.object, EVERYWHERE)
        back = resample_in_slabs(torch.from_numpy(canvas.probability * near)[None], source, target)
        return Found(back, place, coverage.crops, coverage.complete)

    def _lattice(self, scan: Scan) -> Grid:
        preprocessing = self.preset.preprocessing
        return working_grid(scan_grid(scan), preprocessing.orientation, preprocessing.spacing)

    def _cover(
        self, scan: Scan, grid: Grid, lattice: Grid, clicks: NDArray[np.float64]
    ) -> Generator[Crop, NDArray[np.float32], Coverage]:
        """Follow the object from its clicks (N, 3), voxel index of the working lattice."""
        voxels = torch.from_numpy(scan.voxels)
        size = self.model.config.crop_size
        following = follow(clicks, size, lattice.shape, lattice.spacing, self.options.max_crops)
        probability: NDArray[np.float32] | None = None
        while True:
            try:
                ask = next(following) if probability is None else following.send(probability)
            except StopIteration as end:
                coverage: Coverage = end.value
                return coverage
            crop, weight = resample(voxels, grid, lattice.window(ask.start, (size, size, size)))
            crop = crop / weight.clamp(min=FULLY_IN_VIEW)
            image = normalise(crop, weight > FULLY_IN_VIEW, self.preset.preprocessing.intensity)
            # Working order (I, J, K) is the network's (W, H, D); its click columns are (d, w, h) = (k, i, j).
            answer = yield Crop(image.permute(0, 3, 2, 1), ask.clicks[:, [2, 0, 1]], ask.held)
            # What lies outside the scan is nobody's: it must neither join parts nor move crops.
            probability = answer.transpose(2, 1, 0) * (weight[0] > 0).numpy()
