"""Pipeline 3dsam-adapter: clicks in a volume → one mask per object, whatever the scan's size, orientation and spacing.

Default protocol "follow": crops on the scan's lattice at the preset's spacing follow the object. Protocol "official"
repeats the published test: one crop round the clicks on the resampled volume (see `sam3d_official`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from medseg_cli.device import Runtime
from medseg_cli.errors import InputError, ModelError, UsageError
from medseg_cli.geometry import FULLY_IN_VIEW, Grid, overlap, resample, resample_in_slabs, scan_grid, working_grid
from medseg_cli.inference import EVERYWHERE, Coverage, follow
from medseg_cli.intensity import normalise
from medseg_cli.models.sam3d.checkpoint import random_network
from medseg_cli.models.sam3d.config import config_of
from medseg_cli.models.sam3d.network import Sam3d
from medseg_cli.models.sam3d.start import load
from medseg_cli.pipelines import sam3d_official
from medseg_cli.pipelines.loading import check_trained, options_of, weights_of
from medseg_cli.pipelines.objects import empty_targets, labels_of
from medseg_cli.pipelines.precision import probe, settle
from medseg_cli.postprocess import clean
from medseg_cli.preset import Preset
from medseg_cli.prompt import Prompt, locate
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.stages import Stages

LAYOUT = "3dsam-adapter"
"""What `weights.layouts` calls checkpoints of this network."""


class Options(BaseModel):
    """Knobs of this pipeline in a preset's `options`.

    Attributes:
        protocol: "follow" (ours) or "official" (one crop, the published test).
        official_axes: order in which the official code takes the file's array axes as (D, H, W).
        max_crops: crops per object after which "follow" stops and says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: Literal["follow", "official"] = "follow"
    official_axes: tuple[int, int, int] = (2, 1, 0)
    max_crops: int = Field(default=64, ge=1)


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
        clicks = self._clicks(scan, prompt)
        mask = np.zeros(scan.shape, np.uint8 if len(clicks) < 256 else np.uint16)
        best = np.zeros(scan.shape, np.float32) if len(clicks) > 1 else None
        notes, crops, cleaning = [], [], []
        for value, (target, voxels) in enumerate(zip(prompt.targets, clicks, strict=True), start=1):
            with stages("infer"):
                probability, place, count, complete = self._probability(scan, voxels)
            with stages("postprocess"):
                cleaned = clean(
                    probability > 0.5,
                    voxels - [part.start for part in place],
                    scan.spacing,
                    self.preset.postprocessing,
                )
                inside = cleaned.mask
                if best is not None:
                    inside &= (mask[place] == 0) | (probability > best[place])
                    best[place][inside] = probability[inside]
                mask[place][inside] = value
            crops.append(count)
            cleaning.append({"id": target.id, "steps": cleaned.steps})
            if not complete:
                notes.append(
                    f"object '{target.id}' was not finished: it still grew after {count} crops (options.max_crops)"
                )
        notes += empty_targets(set(np.unique(mask).tolist()), prompt)
        if scan.modality and not {scan.modality, "any"} & set(self.preset.modality):
            notes.append(f"the scan is {scan.modality}, the preset is made for {', '.join(self.preset.modality)}")
        provenance = {
            "pipeline": self.preset.pipeline,
            "preset": self.preset.name,
            "prompted": True,
            "weights": self.weights,
            "protocol": self.options.protocol,
            "crops": crops,
            "cleaning": cleaning,
            "kernels": self.runtime.kernels,
        }
        return Segmentation(mask, labels_of(prompt, self.preset), scan, provenance, tuple(notes))

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

    def _probability(
        self, scan: Scan, clicks: NDArray[np.float64]
    ) -> tuple[NDArray[np.float32], tuple[slice, slice, slice], int, bool]:
        """Object probability on a part of the scan's grid, that part, the number of crops, whether it is complete."""
        if self.options.protocol == "official":
            whole = sam3d_official.probability(scan, clicks, self.options.official_axes, self.preset, self._predict)
            i, j, k = (slice(0, size) for size in scan.shape)
            return whole, (i, j, k), 1, True
        grid, lattice = scan_grid(scan), self._lattice(scan)
        coverage = self._cover(scan, grid, lattice, lattice.index_of(clicks, grid))
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
        return back, place, coverage.crops, coverage.complete

    def _lattice(self, scan: Scan) -> Grid:
        preprocessing = self.preset.preprocessing
        return working_grid(scan_grid(scan), preprocessing.orientation, preprocessing.spacing)

    def _cover(self, scan: Scan, grid: Grid, lattice: Grid, clicks: NDArray[np.float64]) -> Coverage:
        """Follow the object from its clicks (N, 3), voxel index of the working lattice."""
        voxels = torch.from_numpy(scan.voxels)
        size = self.model.config.crop_size

        def predict(start: NDArray[np.int64], inside: NDArray[np.float64]) -> NDArray[np.float32]:
            crop, weight = resample(voxels, grid, lattice.window(start, (size, size, size)))
            crop = crop / weight.clamp(min=FULLY_IN_VIEW)
            image = normalise(crop, weight > FULLY_IN_VIEW, self.preset.preprocessing.intensity)
            # Working order (I, J, K) is the network's (W, H, D); its click columns are (d, w, h) = (k, i, j).
            probability = self._predict(image.permute(0, 3, 2, 1)[None], inside[:, [2, 0, 1]])
            # What lies outside the scan is nobody's: it must neither join parts nor move crops.
            return probability.transpose(2, 1, 0) * (weight[0] > 0).numpy()

        return follow(predict, clicks, size, lattice.shape, lattice.spacing, self.options.max_crops)

    def _predict(self, image: torch.Tensor, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """image (1, 1, P, P, P) in (D, H, W), points (N, 3) columns (d, w, h) → probability (P, P, P) in (D, H, W)."""
        columns = torch.from_numpy(points)[:, None].float().to(self.runtime.device)
        with torch.inference_mode(), self.runtime.autocast():
            logits = self.model(image.to(self.runtime.device), columns)
        probability: NDArray[np.float32] = logits.float().softmax(1)[0, 1].cpu().numpy()
        return probability
